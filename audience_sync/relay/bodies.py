"""A request's body and its write key, before anything in it is believed."""

from __future__ import annotations

import base64
import binascii
import hmac
import zlib
from collections.abc import Iterable
from typing import Any

from audience_sync.relay.refusals import Refused


def unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """The body as it was before `Content-Encoding`. What unfolds beyond the limit is not unfolded (a gzip bomb)."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise Refused(415, "unknown_encoding", "Content-Encoding: only gzip is understood")
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(body, limit + 1)
    except zlib.error:
        raise Refused(400, "bad_gzip", "the body is not gzip, as Content-Encoding says") from None
    if len(unpacked) > limit:
        raise too_large(limit)
    if not unpacker.eof or unpacker.unused_data:
        raise Refused(400, "bad_gzip", "the body's gzip is cut off, or something follows it")
    return unpacked


def too_large(limit: int) -> Refused:
    return Refused(413, "payload_too_large", f"the body is larger than {limit // 1024} KB")


class WriteKeys:
    """The keys that open the relay: the user name of Basic authentication, or `writeKey` in the body."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def check_header(self, authorization: str) -> bool:
        """Whether the header settles it; Refused when it holds a wrong key."""
        scheme, _, value = authorization.strip().partition(" ")
        if scheme.lower() != "basic":
            return False  # a Bearer token says nothing here; the body's key does
        try:
            given = base64.b64decode(value.strip(), validate=True).partition(b":")[0]
        except (binascii.Error, ValueError):
            raise _unauthorized("Authorization: not readable as Basic authentication") from None
        self._check(given)
        return True

    def check_body(self, payload: dict[str, Any]) -> None:
        given = payload.get("writeKey")
        if not isinstance(given, str) or not given:
            raise _unauthorized("no write key: give it by Basic authentication, or as writeKey in the body")
        self._check(given.encode())

    def _check(self, given: bytes) -> None:
        # Every key is compared, in constant time, so that the time says nothing about how near a guess was.
        if not sum(hmac.compare_digest(given, key) for key in self._keys):
            raise _unauthorized("the write key is not one of relay: write_keys:")


def _unauthorized(message: str) -> Refused:
    return Refused(401, "unauthorized", message)
