"""The bodies of calls (DESIGN, "On the wire"; Segment Engage's documented `context.personas` block).

Between the calls of one computation and sync only user id, value, sequence number and time of sending differ, so
the rest is encoded once and the value, JSON already, is spliced in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import orjson

from audience_sync import __version__

INTEGRATIONS = {"All": False, "tray.io": True}
_SHA1_BLOCK = 64
LIBRARY = {"name": "audience-sync", "version": __version__}


class Template(Protocol):
    """All of a body that the deliveries of one computation and sync share."""

    def body(self, user_id: str, value: str, seq: int, sent_at: bytes) -> bytes: ...


@dataclass(frozen=True)
class Identify:
    """An audience's or trait's value."""

    key: str
    personas: dict[str, str]
    before_value: bytes
    before_seq: bytes
    before_sent_at: bytes

    def body(self, user_id: str, value: str, seq: int, sent_at: bytes) -> bytes:
        return b"".join(
            (
                b'{"type":"identify","userId":',
                orjson.dumps(user_id),
                self.before_value,
                value.encode(),
                self.before_seq,
                b"%d" % seq,
                self.before_sent_at,
                sent_at,
                b'","version":2,"channel":"server"}',
            )
        )


@dataclass(frozen=True)
class Delete:
    """A forgotten user; the value says nothing."""

    message_prefix: str
    as_of: bytes

    def body(self, user_id: str, value: str, seq: int, sent_at: bytes) -> bytes:
        return b"".join(
            (
                b'{"type":"delete","userID":',
                orjson.dumps(user_id),
                b',"timestamp":"',
                self.as_of,
                b'","messageId":"',
                self.message_prefix.encode(),
                b'-%d"}' % seq,
            )
        )


class Message:
    """What came in through the relay: the value is the whole body."""

    def body(self, user_id: str, value: str, seq: int, sent_at: bytes) -> bytes:
        return value.encode()


def template(
    *, key: str, klass: str, space_id: str, computation_id: str, message_prefix: str, as_of: datetime
) -> Template:
    if klass == "message":
        return Message()
    instant = timestamp(as_of)
    if klass == "delete":
        return Delete(message_prefix, instant)
    personas = {
        "computation_class": klass,
        "computation_key": key,
        "computation_id": computation_id,
        "namespace": space_id,
        "space_id": space_id,
    }
    return Identify(
        key=key,
        personas=personas,
        before_value=b',"traits":{' + orjson.dumps(key) + b":",
        before_seq=b"}," + _context(personas) + b',"messageId":"' + message_prefix.encode() + b"-",
        before_sent_at=b'","timestamp":"' + instant + b'","originalTimestamp":"' + instant + b'","sentAt":"',
    )


def merged_body(parts: Sequence[tuple[Identify, str]], user_id: str, seq: int, sent_at: bytes) -> bytes:
    """One call that tells several traits of one user in one sync, by (template, value).

    `context.personas` is the first's, with a list of all of them beside it in `computations`.
    """
    first = parts[0][0]
    told = b",".join(orjson.dumps(one.key) + b":" + value.encode() for one, value in parts)
    own = ("computation_class", "computation_key", "computation_id")
    listed = [{name: one.personas[name] for name in own} for one, _ in parts]
    return b"".join(
        (
            b'{"type":"identify","userId":',
            orjson.dumps(user_id),
            b',"traits":{',
            told,
            b"},",
            _context({**first.personas, "computations": listed}),
            b',"messageId":"',
            first.before_seq.rpartition(b'"')[2],
            b"%d" % seq,
            first.before_sent_at,
            sent_at,
            b'","version":2,"channel":"server"}',
        )
    )


def _context(personas: dict[str, Any]) -> bytes:
    context = {"personas": personas, "library": LIBRARY}
    return b'"context":' + orjson.dumps(context) + b',"integrations":' + orjson.dumps(INTEGRATIONS)


def timestamp(instant: datetime) -> bytes:
    """ISO 8601 in UTC to the millisecond, as Segment writes it: `1997-04-01T00:00:00.000Z`."""
    return instant.strftime("%Y-%m-%dT%H:%M:%S.").encode() + b"%03dZ" % (instant.microsecond // 1000)


class Signer:
    """`X-Signature`: the hex HMAC-SHA1 of the body, as Segment signs its webhooks (RFC 2104).

    What depends on the secret alone is hashed once, for all bodies: half the cost of `hmac.digest`.
    """

    def __init__(self, secret: str) -> None:
        key = secret.encode()
        if len(key) > _SHA1_BLOCK:
            key = hashlib.sha1(key).digest()
        key = key.ljust(_SHA1_BLOCK, b"\0")
        self._inner = hashlib.sha1(bytes(byte ^ 0x36 for byte in key))
        self._outer = hashlib.sha1(bytes(byte ^ 0x5C for byte in key))

    def sign(self, body: bytes) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(body)
        outer.update(inner.digest())
        return outer.hexdigest()
