"""The diff inside the warehouse: today's snapshot against the last one there; only changes come out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import diff
from audience_sync.computations import Computation
from audience_sync.database import told
from audience_sync.diff import COLUMNS, ENTERED, Difference, changes, count, found, joined
from audience_sync.snapshot import refuse_two_values, travel
from audience_sync.state.tables import suppressed
from audience_sync.warehouse.snapshots import Warehouse, must_be_there, size, write, write_forgotten


@dataclass
class Keeping:
    """The snapshots that one sync writes, all named by its token, and who must not be in them."""

    warehouse: Warehouse
    token: str
    label: str
    salt: str
    hashes: frozenset[str]
    """Who is forgotten, as this sync knows it."""
    _forgotten: sa.Table | None = field(default=None, init=False)
    _failures: int = field(default=0, init=False)

    def keep(self, connection: Connection, rows: sa.Select[Any], nr: int) -> str:
        """Write a snapshot of these rows; returns its table's place."""
        if self.hashes and self._forgotten is None:
            table = self.warehouse.forgotten(self.token, f"{self.label}{self._failures or ''}")
            write_forgotten(connection, table, sorted(self.hashes))
            self._forgotten = table
        place = self.warehouse.place(self.warehouse.name(self.token, f"{nr}{self.label}"))
        write(connection, self.warehouse, self.warehouse.snapshot(place), rows, self.salt, self._forgotten)
        return place

    def failed(self) -> None:
        """The last snapshot failed, and what was made with it may be gone, or half there."""
        self._forgotten = None
        self._failures += 1

    def holds_forgotten(self, state: Connection) -> bool:
        """Whether somebody was forgotten since; in the transaction of `state` that moves the pointer."""
        return bool(set(state.execute(sa.select(suppressed.c.hash)).scalars()) - self.hashes)


def compare(
    state: Connection,
    source: Connection,
    warehouse: Warehouse,
    keeping: Keeping | None,
    computation: Computation,
    row: Any,
    nr: int,
) -> tuple[Difference, str | None]:
    """Fill `changes` as `diff.compare` would; returns also the place of the snapshot that was kept.

    `row` is the computation's in state, None for one that is new. Of a first sync nothing is found here: all of
    the snapshot that was kept are new. Without `keeping`, nothing is written: a plan.
    """
    of_traits = computation.klass != "audience"
    with told("source", warehouse.url):
        kept = keeping.keep(source, computation.rows, nr) if keeping is not None else None
    now: sa.FromClause = warehouse.snapshot(kept) if kept is not None else computation.rows.subquery("now")
    if row is not None and row.first_sync_id is not None and row.snapshot is None:
        # What was synced last is in state: it was not kept here then.
        rows = sa.select(now.c.user_id, now.c.value, now.c.other)
        ids = None if of_traits else sa.select(now.c.user_id)
        read = replace(computation, rows=rows, ids=ids)
        return diff.compare(state, source, read, row.id, row.size, nr, warehouse.url), kept
    if row is None or row.snapshot is None:
        if kept is not None:
            with told("source", warehouse.url):
                refuse_two_values(source, warehouse.snapshot(kept), sa.true())
            return Difference(nr, 0, 0, 0, 0), kept
        before = 0
        value, other = (now.c.value, now.c.other) if of_traits else (diff.NULL, diff.NULL)
        query = found(nr, now.c.user_id, ENTERED, value, other=other)
    else:
        with told("source", warehouse.url):
            was = must_be_there(source, warehouse, row.snapshot)
            before = size(source, was)
        query = joined(nr, now, was, of_traits=of_traits)
    travel(source, state, _as_texts(query), changes, COLUMNS, warehouse.url)
    refuse_two_values(state, changes, changes.c.nr == nr)
    difference = count(state, nr, before)
    if kept is not None and row is not None and row.snapshot is not None and row.holds_forgotten:
        # The last snapshot holds users that nobody may be told of: today's has been rid of them.
        with told("source", warehouse.url):
            left = size(source, warehouse.snapshot(kept))
        difference = replace(difference, before=left - difference.entered + difference.exited)
    return difference, kept


def _as_texts(query: sa.Select[Any]) -> sa.Select[Any]:
    """As rows travel: all of it text."""
    rows = query.subquery("changed")
    return sa.select(sa.cast(rows.c.nr, sa.Text), *[rows.c[name] for name in COLUMNS[1:]])
