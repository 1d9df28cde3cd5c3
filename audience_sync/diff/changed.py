"""The diff of the rows that changed by their own word, and of who left (docs/incremental.md)."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.computations import Basis, ChangedRows, Computation
from audience_sync.diff.changes import CHANGED, ENTERED, EXITED, Difference, add, changes, count, found
from audience_sync.snapshot import analyze, empty, refuse_two_values, snapshot, travel
from audience_sync.state.tables import synced


def compare_changed(
    state: Connection,
    source: Connection | None,
    computation: Computation,
    basis: Basis,
    now: int,
    computation_id: int,
    before: int,
    nr: int,
    source_url: str,
) -> Difference:
    """Fill `changes` as `compare` would, having looked at the rows that changed. `now` and `before`: how many users the
    SELECT gives, and synced holds."""
    _look(state, source, computation.follower, basis, source_url)
    refuse_two_values(state, snapshot, sa.true())
    was = sa.select(synced).where(synced.c.computation_id == computation_id).subquery("was")
    same = was.c.user_id == snapshot.c.user_id
    new = ~sa.exists().where(same).correlate(snapshot)
    add(state, found(nr, snapshot.c.user_id, ENTERED, snapshot.c.value).where(new))
    if computation.klass != "audience":
        previous = sa.select(was.c.value).where(same).correlate(snapshot).scalar_subquery()
        both = found(nr, snapshot.c.user_id, CHANGED, snapshot.c.value, previous)
        add(state, both.where(snapshot.c.value != previous))
    difference = count(state, nr, before)
    if not difference.left_out and now == basis.users + difference.entered:
        return difference
    return replace(difference, exited=_gone(state, source, computation, computation_id, nr, source_url))


def missed_rows(
    state: Connection,
    source: Connection | None,
    follower: ChangedRows,
    basis: Basis,
    now: int,
    nr: int,
    source_url: str,
) -> int:
    """How many changes that a comparison of everyone found `compare_changed` would not have found."""
    _look(state, source, follower, basis, source_url)
    looked = sa.exists().where(snapshot.c.user_id == changes.c.user_id).correlate(changes)
    of_it = sa.select(sa.func.count()).select_from(changes).where(changes.c.nr == nr)

    def how_many(*conditions: sa.ColumnElement[bool]) -> int:
        return int(state.execute(of_it.where(*conditions)).scalar_one())

    unseen = how_many(changes.c.kind != EXITED, ~looked)
    if now == basis.users + how_many(changes.c.kind == ENTERED, looked):
        unseen += how_many(changes.c.kind == EXITED)
    return unseen


def _look(state: Connection, source: Connection | None, follower: ChangedRows, basis: Basis, source_url: str) -> None:
    columns = ["user_id", "value", "other"]
    rows = follower.looked_at(basis)
    empty(state, snapshot)
    if source is None:
        state.execute(sa.insert(snapshot).from_select(columns, rows.order_by("user_id")))
    else:
        travel(source, state, rows, snapshot, columns, source_url)
    analyze(state, snapshot)


def _gone(
    state: Connection,
    source: Connection | None,
    computation: Computation,
    computation_id: int,
    nr: int,
    source_url: str,
) -> int:
    """Find who is in synced and not in the SELECT: of both sides the ids alone, and one way only."""
    now = computation.follower.users()
    if source is not None:
        empty(state, snapshot)
        travel(source, state, now, snapshot, ["user_id"], source_url)
        analyze(state, snapshot)
        now = sa.select(snapshot.c.user_id)
    was = sa.select(synced.c.user_id, synced.c.value).where(synced.c.computation_id == computation_id).subquery("was")
    gone = sa.except_(sa.select(was.c.user_id), now)
    if state.dialect.name == "sqlite":
        gone = gone.order_by("user_id").limit(-1)  # which limits nothing, and keeps the order, and with it the merge
    only = gone.subquery("gone")
    if computation.klass == "audience":
        return add(state, found(nr, only.c.user_id, EXITED))
    previous = sa.select(was.c.value).where(was.c.user_id == only.c.user_id).scalar_subquery()
    return add(state, found(nr, only.c.user_id, EXITED, previous=previous))
