"""What may be shown of an address: never its password, query or path, which may be tokens (DESIGN, rule 9)."""

from __future__ import annotations

from urllib.parse import urlsplit

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError


def web_address(url: str) -> str:
    """`https://host/…` for an HTTP URL."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or "?"
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}://{host}{port}" + ("/…" if parts.path.strip("/") or parts.query else "")


def database_address(url: str) -> str:
    """A database URL without password and query."""
    try:
        return make_url(url).difference_update_query(list(make_url(url).query)).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return "a database URL that cannot be read"
