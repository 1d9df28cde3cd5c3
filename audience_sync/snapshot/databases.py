"""Source and state of one configuration."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.engine import Engine

from audience_sync.database import is_sqlite, open_source, open_state


@dataclass
class Databases:
    """Both engines, and whether the source can be read through the state's connection."""

    source: Engine
    state: Engine
    source_url: str
    state_url: str
    together: bool

    @classmethod
    def open(cls, source_url: str, state_url: str) -> Databases:
        both_sqlite = is_sqlite(source_url) and is_sqlite(state_url)
        same = source_url == state_url
        source = open_source(source_url)
        state = open_state(state_url, attach=source_url if both_sqlite and not same else None)
        return cls(source, state, source_url, state_url, same or both_sqlite)

    def dispose(self) -> None:
        self.source.dispose()
        self.state.dispose()
