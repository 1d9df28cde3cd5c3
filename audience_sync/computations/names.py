"""Event names that rules ask for and the source has never seen."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.computations.catalog import Catalog
from audience_sync.computations.occurrences import events
from audience_sync.config.model import Audience, Config, Trait
from audience_sync.config.rules import events_named

MOST_NAMES = 1000


@dataclass(frozen=True)
class Unseen:
    """An event that never occurs, who asks for it, and the nearest names that do occur."""

    event: str
    asked_by: str
    nearest: list[str]


def unseen_events(config: Config, catalog: Catalog, connection: Connection) -> list[Unseen]:
    """Events under "*" of which there is not one row: most likely a name that is spelled otherwise."""
    asked: dict[str, str] = {}
    for job in config.jobs:
        for computed in job.computed:
            for event in sorted(_asked(computed) - set(config.events)):
                asked.setdefault(event, computed.name)
    unseen = []
    for event, name in asked.items():
        found = events(config, catalog, event)
        if connection.execute(sa.select(sa.literal(1)).select_from(found.table).where(*found.named).limit(1)).first():
            continue
        column = catalog.column(found.table, config.events["*"].name or "", "events: *")
        known = connection.execute(sa.select(column).distinct().where(column.is_not(None)).limit(MOST_NAMES)).scalars()
        folded = {str(known_name).lower(): str(known_name) for known_name in known}
        near = difflib.get_close_matches(event.lower(), folded, n=3, cutoff=0.5)
        unseen.append(Unseen(event, name, [folded[close] for close in near]))
    return unseen


def _asked(computed: Audience | Trait) -> set[str]:
    if isinstance(computed, Trait):
        return {computed.event} - {""}
    return events_named(computed.who) if computed.who is not None else set()
