"""What each warehouse calls the few things that keeping snapshots in it asks for: a row a database, and no branches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Executable
from sqlalchemy.types import TypeEngine


@dataclass(frozen=True)
class Storage:
    """What its CREATE TABLE says beside the columns, as SQLAlchemy's dialect has it."""

    items: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Capabilities:
    """What one database can do, and how it says so."""

    sha256_hex: Callable[[ColumnElement[str]], ColumnElement[str]]
    """The SHA-256 of a text's UTF-8 bytes, as lower-case hexadecimal digits."""
    text: TypeEngine[str] = field(default_factory=sa.Text)
    """A text of any length that is compared to the letter."""
    text_or_null: Callable[[], TypeEngine[str]] | None = None
    """The same for a column that may hold NULL, where that is another type."""
    storage: Callable[[str], Storage] = lambda _key: Storage()
    """How a table is laid out that is joined by this column."""
    analyze: bool = False
    """A table just filled is unknown to its planner until it is told."""
    impatient: Executable | None = None
    """Has a transaction's DROP TABLE fail, not wait for whoever reads the table."""
    one_instant: bool = False
    """Transactions hold several statements, CREATE TABLE among them, see one instant of all tables, and have
    savepoints: all computations of a job are read at one instant."""


def _sha2(text: ColumnElement[str]) -> ColumnElement[str]:
    return sa.func.sha2(text, 256)


def _hex_of(digest: str, of: str | None = None, **names: str) -> Callable[[ColumnElement[str]], ColumnElement[str]]:
    """A digest that comes as bytes, and is to be spelled as digits; `of` is what makes bytes of the text."""

    def spelled(text: ColumnElement[str]) -> ColumnElement[str]:
        data = getattr(sa.func, of)(text) if of else text
        return sa.func.lower(getattr(sa.func, names.get("hex", "to_hex"))(getattr(sa.func, digest)(data)))

    return spelled


def _beside_each_other(key: str) -> Storage:
    """Rows with one key are on one node, in its order: the diff is a merge join that moves nothing.
    https://docs.aws.amazon.com/redshift/latest/dg/t_Distributing_data.html"""
    return Storage(options={"redshift_diststyle": "KEY", "redshift_distkey": key, "redshift_sortkey": key})


def _merge_tree(key: str) -> Storage:
    from clickhouse_connect.cc_sqlalchemy.ddl.tableengine import MergeTree

    return Storage(items=(MergeTree(order_by=key),))


def _nullable_string() -> TypeEngine[str]:
    from clickhouse_connect.cc_sqlalchemy.datatypes.sqltypes import Nullable, String

    found: TypeEngine[str] = Nullable(String)
    return found


CAPABILITIES = {
    "duckdb": Capabilities(sa.func.sha256),
    "postgresql": Capabilities(
        lambda text: sa.func.encode(sa.func.sha256(sa.func.convert_to(text, "UTF8")), "hex"),
        text=sa.Text(collation="C"),
        analyze=True,
        impatient=sa.select(sa.func.set_config("lock_timeout", "5s", True)),
        one_instant=True,
    ),
    "spark": Capabilities(_sha2),
    "databricks": Capabilities(_sha2),
    "snowflake": Capabilities(_sha2),
    "bigquery": Capabilities(_hex_of("sha256")),
    # whose TEXT is of 256 bytes
    "redshift": Capabilities(_sha2, text=sa.VARCHAR(65535), storage=_beside_each_other, analyze=True),
    "trino": Capabilities(_hex_of("sha256", of="to_utf8")),
    "clickhousedb": Capabilities(_hex_of("SHA256", hex="hex"), text_or_null=_nullable_string, storage=_merge_tree),
}
"""By the name of SQLAlchemy's dialect. Which of them were run, and which only compiled, stands in docs/warehouse.md."""
