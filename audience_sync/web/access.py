"""Who may see and do what.

On a loopback address everyone on the machine may look; anywhere else the token is asked for. Whoever wants to *do*
something signs in with the token, wherever the page is served. A session is a cookie made from the token, so nothing is
stored, and a new token ends all sessions. Against requests forged by other sites: the cookie is SameSite=Strict, every
form carries a value derived from the session, and a request that names another origin is refused. Against names that
other sites point at a loopback address (DNS rebinding): there, only loopback names are taken as Host.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from urllib.parse import urlsplit

from starlette.requests import Request

COOKIE = "audience_sync_session"
SESSION_SECONDS = 12 * 3600
SHORTEST_TOKEN = 16


def is_loopback(host: str) -> bool:
    """Whether a host to bind or one named in a request is this machine alone."""
    if host.lower() in ("localhost", ""):
        return host != ""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Access:
    """`token` None: nobody can sign in, so nothing can be done from the page, and it is for loopback only."""

    def __init__(self, token: str | None, *, loopback: bool) -> None:
        self._key = hashlib.sha256(b"audience_sync session " + token.encode()).digest() if token else None
        self._token = token
        self.loopback = loopback

    @property
    def can_sign_in(self) -> bool:
        return self._token is not None

    def token_is_right(self, given: str) -> bool:
        return self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())

    def new_session(self) -> str:
        """A cookie's value: when it began, something random, and their seal."""
        body = f"{int(time.time())}.{secrets.token_hex(8)}"
        return f"{body}.{self._seal('session', body)}"

    def csrf(self, request: Request) -> str:
        """What a form of this session must carry; empty for who is not signed in."""
        return self._seal("form", request.cookies[COOKIE]) if self.is_signed_in(request) else ""

    def is_signed_in(self, request: Request) -> bool:
        if self._key is None:
            return False
        body, _, seal = request.cookies.get(COOKIE, "").rpartition(".")
        if not hmac.compare_digest(seal.encode(), self._seal("session", body).encode()):
            return False
        began = body.partition(".")[0]
        return began.isdigit() and time.time() - int(began) < SESSION_SECONDS

    def may_look(self, request: Request) -> bool:
        """Also for a scraper, which sends the token as `Authorization: Bearer`."""
        if self.loopback or self.is_signed_in(request):
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.token_is_right(given.strip())

    def may_act(self, request: Request, csrf: str) -> bool:
        return (
            self.is_signed_in(request)
            and hmac.compare_digest(csrf.encode(), self.csrf(request).encode())
            and self.is_same_origin(request)
        )

    def is_same_origin(self, request: Request) -> bool:
        """Whether a browser says that the request comes from this page (Fetch Metadata, Origin)."""
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        origin = request.headers.get("origin")
        return origin is None or urlsplit(origin).netloc == request.headers.get("host")

    def host_is_right(self, request: Request) -> bool:
        if not self.loopback:
            return True
        return is_loopback(urlsplit("//" + request.headers.get("host", "")).hostname or "")

    def _seal(self, purpose: str, body: str) -> str:
        assert self._key is not None
        return hmac.new(self._key, f"{purpose} {body}".encode(), "sha256").hexdigest()
