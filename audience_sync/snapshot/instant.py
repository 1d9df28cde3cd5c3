"""One instant of the source, at which all computations of a job's sync are read.

Two audiences of a job then agree: nobody is in neither of `X` and `not X` because an order came in between them.
Where source and state are read through one connection, its transaction is that instant (REPEATABLE READ on
PostgreSQL, any transaction on SQLite); where they are apart, the source's is (REPEATABLE READ on PostgreSQL and
MySQL, any transaction on SQLite and DuckDB). It ends before anything is recorded. After a query that failed or a
connection that broke, the computations that are left are read at a later instant. A warehouse that keeps the snapshots
reads them at one instant only where its transactions can hold all of that (`savepoints`); elsewhere each computation is
a transaction of its own.

What several computations read is computed once, by the first that needs it, into temporary tables of the connection
that reads the source (`snapshot.shared`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection, NestedTransaction

from audience_sync.computations import Computation, SharedSet, shared_sets
from audience_sync.database import told, writing_temporary
from audience_sync.errors import AudienceSyncError, DatabaseError
from audience_sync.snapshot.databases import Databases
from audience_sync.snapshot.shared import fill, made_beside
from audience_sync.snapshot.stage import empty


class Instant:
    """Enter it with the state's connection, then read each computation inside `reading()`."""

    def __init__(
        self,
        state: Connection,
        databases: Databases,
        compiled: Sequence[Computation],
        *temporary: sa.Table,
        keeping: bool = False,
        savepoints: bool = False,
    ) -> None:
        self.state = state
        self.databases = databases
        self._shared = [one.table for one in shared_sets(compiled)]
        self.temporary = (*temporary, *self._shared) if databases.together else temporary
        self.keeping = keeping
        """Snapshots are written, in a warehouse: what was read of one computation is committed, or rolled back."""
        self.savepoints = savepoints
        self.is_lost = False
        """Nothing of it can be recorded: what was read, and written, went with the connection."""
        self._source: Connection | None = None
        self._shares = databases.together
        self._filled: set[str] = set()
        self._failed: dict[str, AudienceSyncError] = {}

    def __enter__(self) -> Self:
        if self.state.in_transaction():
            self.state.commit()
        with writing_temporary(self.state):
            there = sa.inspect(self.state)
            for table in self.temporary:
                if there.has_table(table.name):
                    empty(self.state, table)
                else:
                    table.create(self.state, checkfirst=False)
        if self.databases.together:
            self.state.begin()
            if self.state.dialect.name == "postgresql":
                # READ ONLY leaves temporary tables to be written: whatever a user's sql: calls can change nothing else.
                self.state.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._source is not None:
            with closing(self._source), told("source", self.databases.source_url):
                if kind is None and self.keeping:
                    self._source.commit()
        if self.state.in_transaction():
            if kind is None:
                self.state.commit()
            else:
                self.state.rollback()

    @contextmanager
    def reading(self) -> Iterator[Connection | None]:
        """One computation: yields the source's connection, or None where the state's own reads it.

        What it did is undone if it fails, and the next computation can be read all the same.
        """
        if self.databases.together:
            with told("source", self.databases.source_url), self.state.begin_nested():
                yield None
            return
        with writing_temporary(self.state):
            if self._source is None:
                with told("source", self.databases.source_url):
                    self._source = self.databases.source.connect()
                    self._shares = made_beside(self._source, self._shared, may_write=self.keeping)
            if self.keeping:
                with self._writing(self._source):
                    yield self._source
                return
            try:
                yield self._source
            except BaseException:
                broken, self._source = self._source, None
                self._filled.clear()
                broken.invalidate()  # it may stand in the middle of its rows
                broken.close()
                raise

    def shared(self, computation: Computation) -> Computation:
        """The computation with what it shares with others filled; as it stands where the source does not let it be."""
        if computation.shared is None:
            return computation
        for one in computation.shared.reads:
            try:
                if not self._is_filled(one):
                    return computation
            except AudienceSyncError as error:
                self._failed[one.key] = error
                if one.key == computation.key:
                    raise
                raise DatabaseError(f"{one.place}{error}") from error
        return computation.shared

    def _is_filled(self, one: SharedSet) -> bool:
        if one.key in self._failed:
            raise self._failed[one.key]
        if one.key not in self._filled:
            with self.reading() as source:
                if not self._shares:
                    return False
                with told("source", self.databases.source_url):
                    fill(source or self.state, one)
            self._filled.add(one.key)
        return True

    @contextmanager
    def _writing(self, source: Connection) -> Iterator[None]:
        """One computation's snapshot in the warehouse: whole, or rolled back as far as the warehouse can."""
        one: Connection | NestedTransaction = source.begin_nested() if self.savepoints else source
        try:
            yield
            one.commit()
        except BaseException:
            try:
                one.rollback()
            except Exception:  # the driver's own words, too, for a connection that is gone
                self.is_lost = self.savepoints
                self._source = None
                self._filled.clear()
                source.invalidate()
                source.close()
            raise
