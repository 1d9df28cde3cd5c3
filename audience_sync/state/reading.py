"""Looking at state without writing to it, whether or not it is there yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Connection

from audience_sync.database import is_sqlite, open_source, open_state, sqlite_path, told
from audience_sync.errors import ConfigError
from audience_sync.state import schema


@contextmanager
def reading(url: str) -> Iterator[Connection | None]:
    """A connection to state, or None while it has no tables; ConfigError when they are not those of this version."""
    if is_sqlite(url) and not sqlite_path(url).exists():
        yield None
        return
    with told("state", url):
        engine = open_source(url) if is_sqlite(url) else open_state(url)
        try:
            with engine.connect() as connection:
                found = schema.version(connection)
                schema.refuse_newer(found)
                if found not in (None, schema.CURRENT):
                    raise ConfigError("state: its tables are of an older version", "run `audience-sync migrate` once")
                yield None if found is None else connection
        finally:
            engine.dispose()
