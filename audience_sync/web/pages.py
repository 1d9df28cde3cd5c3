"""What each page shows, read from state."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.state.tables import computations, results, syncs
from audience_sync.web.charts import Point

SPARK_POINTS = 40
CHART_POINTS = 240
DEAD_LETTERS = 200


def sizes_over_time(connection: Connection, keys: list[str] | None, limit: int) -> dict[str, list[Point]]:
    """The latest syncs of each computation, oldest first; held ones are left out, their changes were not made."""
    place = sa.func.row_number().over(partition_by=results.c.computation_id, order_by=results.c.sync_id.desc())
    latest = (
        sa.select(
            computations.c.key,
            syncs.c.as_of,
            results.c.size,
            results.c.entered,
            results.c.exited,
            results.c.changed,
            results.c.initial,
            results.c.sync_id,
            place.label("place"),
        )
        .join(computations, computations.c.id == results.c.computation_id)
        .join(syncs, syncs.c.id == results.c.sync_id)
        .where(results.c.held.is_(False))
    )
    if keys is not None:
        latest = latest.where(computations.c.key.in_(keys))
    inner = latest.subquery()
    found: dict[str, list[Point]] = {}
    for row in connection.execute(sa.select(inner).where(inner.c.place <= limit).order_by(inner.c.sync_id)):
        found.setdefault(row.key, []).append(
            Point(row.as_of, row.size, row.entered, row.exited, row.changed, row.initial)
        )
    return found


def computation(connection: Connection, key: str) -> Any:
    """The computation's row, or None."""
    return connection.execute(sa.select(computations).where(computations.c.key == key)).first()
