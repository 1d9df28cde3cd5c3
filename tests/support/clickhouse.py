"""A real ClickHouse inside the tests' own process, where its package is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

_TYPES = {
    sa.BigInteger: "Int64",
    sa.Integer: "Int32",
    sa.Double: "Float64",
    sa.Numeric: "Decimal(10, 2)",
    sa.Boolean: "Bool",
    sa.DateTime: "DateTime64(6, 'UTC')",
    sa.Date: "Date32",
    sa.Text: "String",
}


def url(folder: Path) -> str:
    pytest.importorskip("chdb", reason="no ClickHouse: chdb is not installed (make test installs it)")
    return f"clickhousedb://localhost/default?interface=chdb&path={folder}/clickhouse"


def store(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows as a table, in place of one of that name."""
    client = connection.connection.driver_connection.client  # type: ignore[union-attr]
    names = [column.name for column in table.columns]
    columns = ", ".join(f"`{column.name}` Nullable({_type(column.type)})" for column in table.columns)
    client.command(f"CREATE OR REPLACE TABLE `{table.name}` ({columns}) ENGINE = MergeTree ORDER BY tuple()")
    if rows:
        client.insert(table.name, [[row[name] for name in names] for row in rows], column_names=names)


def _type(kind: Any) -> str:
    return next(spelled for of, spelled in _TYPES.items() if isinstance(kind, of))
