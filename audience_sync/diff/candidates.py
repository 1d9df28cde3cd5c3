"""The diff of the users whose place may have changed, and of no others (docs/incremental.md)."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.computations.incremental import Basis, Follower
from audience_sync.diff.changes import ENTERED, EXITED, Difference, add, changes, count, found
from audience_sync.snapshot import analyze, empty, snapshot, travel
from audience_sync.state.tables import PREFIX, UserId, synced

candidates = sa.Table(
    PREFIX + "candidates",
    sa.MetaData(),
    sa.Column("user_id", UserId, nullable=False),
    sa.Column("number", sa.BigInteger),  # the same id, where the source's columns hold whole numbers
    sa.PrimaryKeyConstraint("user_id"),  # on PostgreSQL, too: known to be there once, they are looked up in their order
    prefixes=["TEMPORARY"],
    sqlite_with_rowid=False,
)


def gather(
    state: Connection, source: Connection | None, follower: Follower, basis: Basis, source_url: str
) -> sa.FromClause:
    """Fill `candidates`; returns what the source's own queries may name them by."""
    asked = follower.candidates(basis)
    empty(state, candidates)
    if source is None:
        state.execute(sa.insert(candidates).from_select(["user_id", "number"], asked.order_by("user_id")))
        among: sa.FromClause = candidates
    else:
        among = asked.subquery("candidates")
        travel(source, state, sa.select(among.c.user_id), candidates, ["user_id"], source_url)
    analyze(state, candidates)
    return among


def compare_candidates(
    state: Connection,
    source: Connection | None,
    follower: Follower,
    basis: Basis,
    computation_id: int,
    before: int,
    nr: int,
    source_url: str,
) -> Difference:
    """Fill `changes` as `compare` would, having looked at the candidates only. `before`: how many synced holds."""
    among = gather(state, source, follower, basis, source_url)
    members = follower.members(among)
    empty(state, snapshot)
    if source is None:
        state.execute(sa.insert(snapshot).from_select(["user_id"], members.order_by("user_id")))
    else:
        travel(source, state, members, snapshot, ["user_id"], source_url)
    analyze(state, snapshot)

    def was_in(of: sa.Table) -> sa.ColumnElement[bool]:
        """Looked up for each: a join might be planned the other way round, along all of synced."""
        return (
            sa.exists().where(synced.c.computation_id == computation_id, synced.c.user_id == of.c.user_id).correlate(of)
        )

    is_in = sa.exists().where(snapshot.c.user_id == candidates.c.user_id).correlate(candidates)
    add(state, found(nr, snapshot.c.user_id, ENTERED).where(~was_in(snapshot)))
    add(state, found(nr, candidates.c.user_id, EXITED).where(~is_in, was_in(candidates)))
    return count(state, nr, before)


def missed(
    state: Connection, source: Connection | None, follower: Follower, basis: Basis, nr: int, source_url: str
) -> int:
    """How many changes that a comparison of everyone found are of users who were no candidates."""
    gather(state, source, follower, basis, source_url)
    was_one = sa.exists().where(candidates.c.user_id == changes.c.user_id).correlate(changes)
    query = sa.select(sa.func.count()).select_from(changes).where(changes.c.nr == nr, ~was_one)
    return int(state.execute(query).scalar_one())
