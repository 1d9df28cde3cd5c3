"""Members out of the warehouse's snapshots, for all that asks for more than changes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import logs
from audience_sync.database import open_source, told, writing, writing_temporary
from audience_sync.errors import AudienceSyncError
from audience_sync.snapshot import Databases, analyze, empty, snapshot, travel
from audience_sync.state.suppression import is_suppressed, somebody_is_forgotten
from audience_sync.state.tables import computations, synced
from audience_sync.warehouse.pointers import sweep, warehouse_of
from audience_sync.warehouse.snapshots import Warehouse, must_be_there


def stage_members(
    state: Connection, warehouse: Warehouse, place: str | None, *, after: str | None = None, limit: int | None = None
) -> sa.Table:
    """A temporary table of the state's connection with a snapshot's members; with nobody, if `place` is None.

    `after` and `limit` choose a page of them, in the order of their ids.
    """
    with writing_temporary(state):
        snapshot.create(state, checkfirst=True)
        empty(state, snapshot)
        if place is None:
            return snapshot
        with told("source", warehouse.url), closing(warehouse.engine.connect()) as source:
            members = must_be_there(source, warehouse, place)
            query = sa.select(members.c.user_id, members.c.value)
            if after is not None:
                query = query.where(members.c.user_id > after)
            if limit is not None:
                query = query.order_by(members.c.user_id).limit(limit)
                page = query.subquery("page")
                query = sa.select(page.c.user_id, page.c.value)
            travel(source, state, query, snapshot, ["user_id", "value"], warehouse.url)
        analyze(state, snapshot)
    return snapshot


def count_members(warehouse: Warehouse, place: str, after: str | None) -> int:
    """How many members of a snapshot come after this user."""
    with told("source", warehouse.url), warehouse.engine.connect() as source:
        members = must_be_there(source, warehouse, place)
        query = sa.select(sa.func.count()).select_from(members)
        if after is not None:
            query = query.where(members.c.user_id > after)
        return int(source.execute(query).scalar_one())


def memberships(warehouse: Warehouse, places: dict[str, str], user_ids: Sequence[str]) -> list[tuple[str, str, Any]]:
    """(user id, key, value) of these users in the snapshots at these places, by key."""
    if not places or not user_ids:
        return []
    found = []
    with told("source", warehouse.url), warehouse.engine.connect() as source:
        for key, place in places.items():
            members = must_be_there(source, warehouse, place)
            rows = source.execute(
                sa.select(members.c.user_id, members.c.value).where(members.c.user_id.in_(list(user_ids)))
            )
            found += [(row.user_id, key, row.value) for row in rows]
    return found


def away(state: Connection, job: str, keys: Sequence[str]) -> list[Any]:
    """The computations with these keys, or of this job, whose last snapshot is kept in a warehouse."""
    wanted = sa.or_(computations.c.job == job, computations.c.key.in_(keys))
    return list(state.execute(sa.select(computations).where(wanted, computations.c.snapshot.is_not(None))))


def bring_home(state: Connection, databases: Databases, token: str, rows: Sequence[Any]) -> None:
    """Copy into `synced` what a warehouse has kept of these, where the source does not keep snapshots any more, and
    drop it there, if that is still allowed. One that can't be had stays away."""
    with state.begin():
        warehouse = warehouse_of(state, databases, rows)
    assert warehouse is not None
    home_again = []
    for row in rows:
        try:
            members = stage_members(state, warehouse, row.snapshot)
        except AudienceSyncError as error:
            logs.warning(f"{row.key}: its last snapshot could not be brought home: {error}")
            continue
        home_again.append(row.snapshot)
        with writing(state) as connection:
            if somebody_is_forgotten(connection):
                connection.execute(sa.delete(members).where(is_suppressed(connection, members.c.user_id)))
            copied = sa.select(sa.literal(row.id, sa.BigInteger), members.c.user_id, members.c.value)
            connection.execute(
                sa.insert(synced).from_select(
                    ["computation_id", "user_id", "value"], copied.order_by(members.c.user_id)
                )
            )
            size = connection.execute(sa.select(sa.func.count()).select_from(members)).scalar_one()
            home = {"snapshot": None, "holds_forgotten": False, "size": size}
            connection.execute(sa.update(computations).where(computations.c.id == row.id).values(home))
    engine = open_source(warehouse.url, keeps_snapshots=True)
    try:
        sweep(state, replace(warehouse, engine=engine), token, home_again)
    finally:
        engine.dispose()
