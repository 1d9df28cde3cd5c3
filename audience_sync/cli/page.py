"""The page's token, for `start` and `ui`."""

from __future__ import annotations

import os
import secrets
import sys

from audience_sync.cli import errors
from audience_sync.errors import ConfigError
from audience_sync.web.access import SHORTEST_TOKEN, Access, is_loopback

VARIABLE = "AUDIENCE_SYNC_TOKEN"


def access_for(host: str) -> Access:
    """Who may see and do what on a page served at this host.

    Without a token in the environment, one is made and shown on a terminal; a log never holds it.
    """
    token = os.environ.get(VARIABLE) or None
    loopback = is_loopback(host)
    if token is None and not loopback:
        raise ConfigError(f"--host {host} shows the page to other machines", f"set {VARIABLE}, which it then asks for")
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise ConfigError(
            f"{VARIABLE} is too short: {SHORTEST_TOKEN} characters at least",
            "make one: python3 -c 'import secrets; print(secrets.token_urlsafe())'",
        )
    if token is None and sys.stderr.isatty():
        token = secrets.token_urlsafe(18)
        errors().print(f"To do things on the page, sign in with this token: [bold]{token}[/]", markup=True)
    return Access(token, loopback=loopback)
