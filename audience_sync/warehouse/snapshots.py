"""The warehouse's own tables: a snapshot each, written once by the sync that it is named by, and never changed.

Nothing here is trusted to be atomic: a table may be half filled when the process is killed. What counts is the name
that `state` holds (`pointers`), and it is written after the table is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import DDLCompiler

from audience_sync.errors import DatabaseError
from audience_sync.state.suppression import chunks
from audience_sync.state.tables import PREFIX
from audience_sync.warehouse.engines import Capabilities


@dataclass(frozen=True)
class Warehouse:
    """A source that keeps the snapshots, for one state: several may share it."""

    engine: Engine
    url: str
    schema: str | None
    can: Capabilities
    state_id: str

    @property
    def prefix(self) -> str:
        return f"{PREFIX}{self.state_id[:12]}_"

    def name(self, token: str, suffix: object) -> str:
        """A table's name: of this state, of the sync with this token."""
        return f"{self.prefix}{token}_{suffix}"

    def place(self, name: str) -> str:
        """A table's name as state keeps it: with its schema, which may be another one some day."""
        return f"{self.schema}.{name}" if self.schema else name

    def token_of(self, name: str) -> str:
        return name.removeprefix(self.prefix).split("_")[0]

    def snapshot(self, place: str) -> sa.Table:
        schema, _, name = place.rpartition(".")
        text_or_null = self.can.text_or_null() if self.can.text_or_null else self.can.text
        values = [sa.Column(name, text_or_null) for name in ("value", "other")]
        return self._table(name, schema or None, sa.Column("user_id", self.can.text, nullable=False), *values)

    def forgotten(self, token: str, label: str) -> sa.Table:
        """The hashes of those who are forgotten, so that no snapshot holds them."""
        column = sa.Column("hash", self.can.text, nullable=False)
        return self._table(self.name(token, f"forgotten{label}"), self.schema, column)

    def _table(self, name: str, schema: str | None, key: sa.Column[str], *others: sa.Column[str]) -> sa.Table:
        storage = self.can.storage(key.name)
        return sa.Table(name, sa.MetaData(), key, *others, *storage.items, schema=schema, **storage.options)

    def names(self, connection: Connection) -> list[str]:
        """All tables of this state."""
        there = sa.inspect(connection).get_table_names(self.schema)
        return sorted(name for name in there if name.lower().startswith(self.prefix))


def bare(place: str) -> str:
    """The table's name without its schema, as all databases compare it."""
    return place.rpartition(".")[2].lower()


def write_forgotten(connection: Connection, table: sa.Table, hashes: Sequence[str]) -> None:
    table.create(connection)
    for chunk in chunks(hashes):
        connection.execute(sa.insert(table).values([{"hash": hash_} for hash_ in chunk]))


def write(
    connection: Connection,
    warehouse: Warehouse,
    table: sa.Table,
    rows: sa.Select[Any],
    salt: str,
    forgotten: sa.Table | None,
) -> None:
    """Make the snapshot's table and fill it with these (user_id, value, other), those left out who are forgotten."""
    table.create(connection)
    connection.execute(filled(warehouse, table, rows, salt, forgotten))
    if warehouse.can.analyze:
        connection.execute(Analyze(table))


def filled(
    warehouse: Warehouse, table: sa.Table, rows: sa.Select[Any], salt: str, forgotten: sa.Table | None
) -> sa.Insert:
    found = rows.subquery("now")
    query = sa.select(found.c.user_id, found.c.value, found.c.other)
    if forgotten is not None:
        hash_ = warehouse.can.sha256_hex(sa.literal(salt, sa.Text) + found.c.user_id)
        query = query.outerjoin(forgotten, forgotten.c.hash == hash_).where(forgotten.c.hash.is_(None))
    return sa.insert(table).from_select(["user_id", "value", "other"], query)


def size(connection: Connection, table: sa.Table) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def is_there(connection: Connection, table: sa.Table) -> bool:
    return bool(sa.inspect(connection).has_table(table.name, table.schema))


def must_be_there(connection: Connection, warehouse: Warehouse, place: str) -> sa.Table:
    """The snapshot of the last sync; DatabaseError where somebody has dropped it."""
    table = warehouse.snapshot(place)
    if not is_there(connection, table):
        raise DatabaseError(
            f"the table {place}, its last snapshot, is not in the warehouse any more: bring it back from the "
            "warehouse's own history, or give the audience another `key:`, so that it is sent as a new one"
        )
    return table


class Analyze(sa.schema.ExecutableDDLElement):
    """ANALYZE of one table."""

    inherit_cache = False

    def __init__(self, table: sa.Table) -> None:
        self.table = table


@compiles(Analyze)
def _analyze(element: Analyze, compiler: DDLCompiler, **kw: Any) -> str:
    return "ANALYZE " + compiler.preparer.format_table(element.table)
