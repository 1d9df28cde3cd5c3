"""Who is in an audience: how many, how many of all, a few of them with why, and how that was on past days."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.computations.catalog import Catalog
from audience_sync.computations.compile import Compiler, Ids
from audience_sync.computations.explain import Reason, explain
from audience_sync.config.model import Audience, Config
from audience_sync.errors import ConfigError


@dataclass(frozen=True)
class Preview:
    size: int
    everyone: int | None
    """How many people are known; None where jobs.yaml does not say who they are."""
    members: list[tuple[str, Reason]]
    days: list[tuple[datetime, int]]
    """The size on each of the last days, at this time of day, by the rule of today."""
    overlap: list[tuple[str, int, int]]
    """Each other audience: its name, its size, and how many are in both."""


def preview(
    config: Config,
    catalog: Catalog,
    connection: Connection,
    audience: Audience,
    as_of: datetime,
    *,
    days: int,
    members: int,
) -> Preview:
    """Look at an audience at an instant; the source is read only."""
    compiler = Compiler(config, catalog, as_of)
    ids = compiler.audience(audience, count=False)
    found = ids.subquery()
    some = connection.execute(sa.select(found.c.user_id).order_by(found.c.user_id).limit(members)).scalars().all()
    try:
        compiler.where = audience.name
        everyone: int | None = _count(connection, compiler.everyone())
    except ConfigError:
        everyone = None
    past = []
    for back in range(days - 1, -1, -1):
        day = as_of - timedelta(days=back)
        past.append((day, _count(connection, Compiler(config, catalog, day).audience(audience, count=False))))
    overlap = []
    for job in config.jobs:
        for other in job.audiences:
            if other.key != audience.key:
                both = Compiler(config, catalog, as_of)
                theirs = both.audience(other, count=False)
                common = both.combine(sa.intersect, [both.audience(audience, count=False), theirs])
                overlap.append((other.name, _count(connection, theirs), _count(connection, common)))
    return Preview(
        size=_count(connection, ids),
        everyone=everyone,
        members=[(user, explain(config, catalog, connection, audience, user, as_of)) for user in some],
        days=past,
        overlap=overlap,
    )


def _count(connection: Connection, ids: Ids) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(ids.subquery())).scalar_one()
