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
        host = f"[{host}]" if ":" in host else host
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


def without_secrets(text: str, url: str, *secrets: str | None) -> str:
    """A receiver's or library's words without what they may repeat of an address and of secrets."""
    hidden = [secret for secret in secrets if secret and len(secret) > 3]  # a letter or two hide nothing but words
    try:
        parts = urlsplit(url)
        hidden += [parts.query, parts.password or "", *(piece for piece in parts.path.split("/") if len(piece) > 5)]
    except ValueError:
        hidden.append(url)
    for secret in sorted(filter(None, hidden), key=len, reverse=True):
        text = text.replace(secret, "…")
    return text
