"""Source and state of one configuration."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.engine import Engine

from audience_sync.config import Source
from audience_sync.database import is_sqlite, open_source, open_state, reading


@dataclass
class Databases:
    """Both engines, and whether the source can be read through the state's connection.

    A source that keeps the snapshots (`synced: warehouse`) is read through its own connection, whatever it is.
    """

    source: Engine
    state: Engine
    source_url: str
    state_url: str
    together: bool
    schema: str | None = None
    """Where the source keeps snapshots, if not in its default schema."""
    keeps_snapshots: bool = False

    @classmethod
    def open(cls, source: Source, state_url: str, *, writing: bool = False) -> Databases:
        """`writing`: the source's snapshots are going to be written, where it keeps them."""
        url, keeps = source.url, source.synced == "warehouse"
        both_sqlite = is_sqlite(url) and is_sqlite(state_url)
        same = url == state_url
        state = open_state(state_url, attach=url if both_sqlite and not same else None)
        if same and not keeps and not both_sqlite:
            engine = reading(state)
        else:
            engine = open_source(url, keeps_snapshots=keeps and writing)
        return cls(engine, state, url, state_url, (same or both_sqlite) and not keeps, source.schema_, keeps)

    def dispose(self) -> None:
        self.source.dispose()
        self.state.dispose()
