"""Many rows into one table by one statement, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, CursorResult

Row = Mapping[str, Any]


def insert_rows(
    connection: Connection,
    table: sa.Table,
    rows: Sequence[Row],
    *,
    computed: Mapping[str, Callable[[Callable[[str], ColumnElement[Any]]], ColumnElement[Any]]] | None = None,
    conflict: Callable[[Any], Any] = lambda statement: statement,
) -> CursorResult[Any]:
    """`computed` columns are made by the database from the others; `conflict` completes the INSERT.

    PostgreSQL takes the rows as one JSON document: sent one by one, each costs more than all the rest of its way.
    """
    names = list(rows[0])
    made = computed or {}
    if connection.dialect.name == "sqlite":
        values: dict[str, Any] = {name: sa.bindparam(name, type_=table.c[name].type) for name in names}
        values |= {name: make(values.__getitem__) for name, make in made.items()}
        return connection.execute(conflict(sqlite.insert(table).values(values)), rows)
    document = orjson.dumps([{"number": number, **row} for number, row in enumerate(rows)]).decode()
    columns = [sa.column("number", sa.Integer), *(sa.column(name, _plain(table.c[name].type)) for name in names)]
    given = (
        sa.func.json_to_recordset(sa.cast(sa.bindparam("rows", document, sa.Text), postgresql.JSON))
        .table_valued(*columns)
        .render_derived(with_types=True)
    )
    chosen = [given.c[name] for name in names] + [make(given.c.__getitem__) for make in made.values()]
    statement = postgresql.insert(table).from_select([*names, *made], sa.select(*chosen).order_by(given.c.number))
    return connection.execute(conflict(statement))


def _plain(type_: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
    """The type as it stands in a list of column definitions: without collation and variants."""
    return sa.Text() if isinstance(type_, sa.Text) else type_
