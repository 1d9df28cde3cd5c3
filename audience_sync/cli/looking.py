"""What the commands share that look at one audience in the source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.engine import Connection

from audience_sync.computations import Catalog
from audience_sync.config import Audience, Config
from audience_sync.config.strict import did_you_mean
from audience_sync.database import told
from audience_sync.errors import ConfigError
from audience_sync.sync.checks import open_databases


def audience_of(config: Config, name: str) -> Audience:
    found = config.audience(name)
    if found is None:
        names = [audience.name for job in config.jobs for audience in job.audiences]
        raise ConfigError(f"there is no audience {name!r}", did_you_mean(name, names))
    return found


@contextmanager
def looking(config: Config) -> Iterator[tuple[Catalog, Connection]]:
    """The source's tables, and a connection that cannot write."""
    databases = open_databases(config)
    try:
        with told("source", config.source.url), databases.source.connect() as connection:
            yield Catalog(databases.source), connection
    finally:
        databases.dispose()


def facts_in_words(facts: dict[str, Any]) -> str:
    """`3 times, first 2026-03-01 10:00:00, last 2026-03-09 08:00:00, sum of revenue 120.5`."""
    words = []
    for name, value in facts.items():
        if name == "times":
            words.append("never" if value == 0 else "once" if value == 1 else f"{value:,} times")
        elif name == "known":
            words.append("" if value else "not known at all")
        elif name == "first" and facts.get("times") == 1:
            continue
        elif isinstance(value, float):
            words.append(f"{name} {value:,.2f}".replace(".00", ""))
        else:
            words.append(f"{name} {'missing' if value is None else value}")
    return ", ".join(filter(None, words))
