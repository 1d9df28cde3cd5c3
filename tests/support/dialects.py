"""Warehouses that no test can start: what is compiled for each, read by sqlglot, and carried over to DuckDB."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import pytest
import sqlalchemy as sa
import sqlglot
from sqlalchemy.engine import Dialect
from sqlglot import exp

from audience_sync.computations.catalog import Catalog

DIALECTS = {
    "databricks": ("databricks.sqlalchemy", "DatabricksDialect"),
    "snowflake": ("snowflake.sqlalchemy.snowdialect", "dialect"),
    "bigquery": ("sqlalchemy_bigquery", "BigQueryDialect"),
    "redshift": ("sqlalchemy_redshift.dialect", "RedshiftDialect_psycopg2"),
    "trino": ("trino.sqlalchemy.dialect", "TrinoDialect"),
}
"""By the name of SQLAlchemy's dialect: where it stands."""


def dialect(name: str) -> Dialect:
    module, kind = DIALECTS[name]
    made: Dialect = getattr(pytest.importorskip(module, exc_type=ImportError), kind)(paramstyle="named")
    return made


class Declared(Catalog):
    """Tables as this warehouse would show them, without a database."""

    def __init__(self, name: str, metadata: sa.MetaData) -> None:
        self.dialect = name
        zoned = sa.TIMESTAMP(timezone=True)  # BigQuery knows times with a zone by this name alone
        self._tables = {
            table.name: sa.Table(
                table.name,
                sa.MetaData(),
                *[sa.Column(c.name, zoned if getattr(c.type, "timezone", False) else c.type) for c in table.columns],
            )
            for table in metadata.sorted_tables
        }


def read(query: sa.Executable, made: Dialect) -> exp.Expression:
    """The compiled statement as sqlglot reads this database's SQL, with its parameters in their places."""
    compiled = query.compile(dialect=made, compile_kwargs={"render_postcompile": True})  # type: ignore[attr-defined]
    found = sqlglot.parse_one(
        str(compiled),
        read=made.name,
        error_level=sqlglot.ErrorLevel.RAISE,
    )
    return found.transform(_filled, compiled.params)


def _filled(node: exp.Expression, parameters: Mapping[str, Any]) -> exp.Expression:
    if not isinstance(node, exp.Placeholder):
        return node
    value = parameters[node.name]
    if isinstance(value, datetime):
        kind = "TIMESTAMPTZ" if value.tzinfo else "TIMESTAMP"
        return exp.cast(exp.Literal.string(value.isoformat(" ")), kind)
    if isinstance(value, date):
        return exp.cast(exp.Literal.string(value.isoformat()), "DATE")
    return exp.convert(value)


# -- on DuckDB --------------------------------------------------------------------------------------------------------

STAND_INS = [
    "try_to_timestamp_tz(x) AS try_cast(x AS TIMESTAMPTZ)",
    "at_timezone(x, zone) AS timezone(zone, x)",
    "json_serialize(x) AS CAST(to_json(x) AS VARCHAR)",
    "timestamp_micros(x) AS make_timestamp(x)",
    "from_unixtime_nanos(x) AS make_timestamp(x // 1000)",
]
"""What warehouses have and DuckDB has not, and sqlglot does not translate: as their documents describe it."""
_ISO, _DAY = "%Y-%m-%dT%H:%M:%S.%f", "%m-%d"
_FORMATS = {
    'YYYY-MM-DD"T"HH24:MI:SS.FF6': _ISO,
    'YYYY-MM-DD"T"HH24:MI:SS.US': _ISO,
    "yyyy-MM-dd'T'HH:mm:ss.SSSSSS": _ISO,
    "%Y-%m-%dT%H:%M:%E6S": _ISO,
    "MM-DD": _DAY,
    "MM-dd": _DAY,
}


def prepare(connection: sa.Connection) -> None:
    for macro in STAND_INS:
        connection.exec_driver_sql("CREATE MACRO " + macro)


def on_duckdb(query: sa.Executable, made: Dialect) -> str:
    """The statement that was compiled for this dialect, carried over to DuckDB by sqlglot."""
    return read(query, made).transform(_carried).sql(dialect="duckdb")


def _carried(node: exp.Expression) -> exp.Expression:
    for argument in node.args.values():
        if isinstance(argument, exp.Literal) and argument.name in _FORMATS and not isinstance(node, exp.Binary):
            return exp.Anonymous(this="strftime", expressions=[node.this, exp.Literal.string(_FORMATS[argument.name])])
    if isinstance(node, exp.Literal) and node.is_string and node.name.startswith("$1"):
        # what a pattern's groups are called; and DuckDB has no blank before a zone
        return exp.Literal.string(node.name.replace("$", "\\").replace(" ", ""))
    if isinstance(node, exp.Replace) and isinstance(node.this, exp.Cast) and node.args["replacement"].name == "T":
        # Trino, whose timestamp(6) is a text with six decimals, be they zeros
        return exp.Anonymous(this="strftime", expressions=[node.this.this, exp.Literal.string(_ISO)])
    if isinstance(node, exp.Cast) and node.to.this == exp.DataType.Type.SUPER:
        return node.this
    if isinstance(node, exp.Cast) and node.to.this == exp.DataType.Type.JSON:  # in Trino, which makes JSON of it
        return exp.Anonymous(this="to_json", expressions=[node.this])
    return node
