"""Snapshots are never changed, so a user who is forgotten leaves one by its being written again without them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.database import told, writing
from audience_sync.state.tables import computations
from audience_sync.warehouse.compare import Keeping
from audience_sync.warehouse.pointers import keeping, sweep
from audience_sync.warehouse.snapshots import Warehouse, is_there, size


def holding_forgotten(state: Connection) -> list[Any]:
    """The computations whose last snapshot holds users who are forgotten since, by key."""
    return list(
        state.execute(sa.select(computations).where(computations.c.holds_forgotten).order_by(computations.c.key))
    )


def cleanse(state: Connection, warehouse: Warehouse, token: str, job: str) -> None:
    """Take those who are forgotten out of this job's last snapshots. The caller holds the job's lock.

    The tables are named by the sync of this `token`. DatabaseError where the warehouse cannot be asked; what is done by
    then is done.
    """
    with state.begin():
        rows = [row for row in holding_forgotten(state) if row.job == job]
    for row in rows:
        with state.begin():
            keep = keeping(state, warehouse, token, label=f"again{row.id}")
        moved = {} if row.snapshot is None else _written_again(warehouse, row, keep)
        _note(state, row, moved, keep)
    if rows:
        sweep(state, warehouse, token, [row.snapshot for row in rows if row.snapshot is not None])


def _written_again(warehouse: Warehouse, row: Any, keep: Keeping) -> dict[str, Any]:
    """What changes of the computation's row; nothing where the snapshot is gone, and nobody in it."""
    before = warehouse.snapshot(row.snapshot)
    with told("source", warehouse.url), warehouse.engine.begin() as source:
        if not is_there(source, before):
            return {}
        null = sa.cast(sa.null(), sa.Text).label("other")
        place = keep.keep(source, sa.select(before.c.user_id, before.c.value, null), row.id)
        return {"snapshot": place, "size": size(source, warehouse.snapshot(place))}


def _note(state: Connection, row: Any, moved: dict[str, Any], keep: Keeping) -> None:
    with writing(state):
        here = sa.and_(computations.c.id == row.id, computations.c.snapshot.is_not_distinct_from(row.snapshot))
        # Before asking who is forgotten: whoever forgets somebody writes this row in the same transaction.
        state.execute(sa.select(computations.c.id).where(here).with_for_update())
        moved = {**moved, "holds_forgotten": keep.holds_forgotten(state)}
        state.execute(sa.update(computations).where(here).values(moved))
