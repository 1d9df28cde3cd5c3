"""What a column holds, and its values as JSON text that every database writes alike."""

from __future__ import annotations

from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects.mysql import CHAR, DECIMAL, TINYINT

from audience_sync.computations.times import MYSQL, TimeColumn, is_time, iso_text, joined, without_zeros

Kind = Literal["boolean", "integer", "number", "time", "text"]

PLACES = 6
"""Decimals to which totals, averages and numbers in traits are rounded, so that no database's arithmetic shows."""
FINER = 9
LARGEST = 1e28
"""Numbers beyond it, and endless ones, count as missing: not every database can write them out."""

COLLATIONS = {"sqlite": "BINARY", "postgresql": "C", "mysql": "utf8mb4_0900_bin", "mariadb": "utf8mb4_nopad_bin"}
"""Comparison to the letter, blanks at the end included. DuckDB compares so by its nature."""


def text_of(column: ColumnElement[Any], dialect: str) -> ColumnElement[str]:
    """A value as text that is compared to the letter, whatever the column's own collation."""
    text = plain_text(column, dialect)
    return text if dialect in ("duckdb", "spark") else sa.collate(text, COLLATIONS[dialect])


def plain_text(column: ColumnElement[Any], dialect: str) -> ColumnElement[str]:
    """A value as text, in whatever order. A cast hides a column from its index, so one that holds text is left as it
    is. Not so CHAR, which is padded, nor MySQL's, which may have any character set."""
    if dialect in MYSQL:
        return sa.cast(column, CHAR(charset="utf8mb4"))
    return column if type(column.type) in (sa.Text, sa.TEXT, sa.VARCHAR) else sa.cast(column, sa.Text)


def kind_of(column: ColumnElement[Any]) -> Kind:
    kind = column.type
    if isinstance(kind, sa.Boolean) or (isinstance(kind, TINYINT) and kind.display_width == 1):
        return "boolean"
    if isinstance(kind, sa.Integer):
        return "integer"
    if isinstance(kind, (sa.Numeric, sa.Float)):
        return "number"
    return "time" if is_time(column) else "text"


def comparable(column: ColumnElement[Any], dialect: str) -> ColumnElement[Any]:
    """What stands for a value where values are grouped and put in order; NULL where it counts as missing."""
    kind = kind_of(column)
    if kind == "number":
        return rounded(column, dialect)
    if kind == "time":
        return TimeColumn(column, dialect).moment
    return text_of(column, dialect) if kind == "text" else column


def rounded(number: ColumnElement[Any], dialect: str) -> ColumnElement[Any]:
    """A number to PLACES decimals, halves away from zero; NULL where it is endless or beyond LARGEST.

    It is rounded to FINER decimals first: binary fractions leave a half that is one just below it here, just above it
    there, and this brings it back.
    """
    bounded = sa.case((sa.func.abs(number) < sa.literal(LARGEST, sa.Double), number), else_=sa.null())
    if dialect == "postgresql":
        return sa.func.round(sa.func.round(sa.cast(bounded, sa.Numeric), FINER), PLACES, type_=sa.Numeric)
    if dialect == "duckdb":
        return sa.func.round(sa.cast(bounded, sa.Numeric(38, FINER)), PLACES, type_=sa.Numeric)
    if dialect in MYSQL:
        return sa.cast(sa.cast(bounded, DECIMAL(65, FINER)), DECIMAL(65, PLACES))
    finer = sa.func.round(bounded, FINER, type_=sa.Double)
    return sa.func.round(finer, PLACES, type_=sa.Double) + sa.literal(0.0, sa.Double)  # −0.0 + 0.0 is 0.0


def json_of(value: ColumnElement[Any], kind: Kind, dialect: str) -> ColumnElement[str]:
    """The JSON text of what `comparable` gave for a column of this kind."""
    if kind == "boolean":
        return sa.case((value.is_(None), sa.null()), (_is_true(value, dialect), "true"), else_="false")
    if kind == "time":
        return joined(dialect, '"', iso_text(value, dialect), '"')
    if kind == "integer":
        return sa.cast(value, CHAR if dialect in MYSQL else sa.Text)
    if kind == "number":
        return _decimal_text(value, dialect)
    return _quoted(value, dialect)


def _is_true(value: ColumnElement[Any], dialect: str) -> ColumnElement[bool]:
    return value != 0 if dialect in (*MYSQL, "sqlite") else sa.type_coerce(value, sa.Boolean)


def _decimal_text(number: ColumnElement[Any], dialect: str) -> ColumnElement[str]:
    if dialect == "sqlite":
        return without_zeros(sa.func.printf(f"%.{PLACES}f", number), dialect)
    if dialect == "postgresql":
        return sa.cast(sa.func.trim_scale(number), sa.Text)
    exact = DECIMAL(65, PLACES) if dialect in MYSQL else sa.Numeric(38, PLACES)
    return without_zeros(sa.cast(sa.cast(number, exact), CHAR if dialect in MYSQL else sa.Text), dialect)


def _quoted(text: ColumnElement[Any], dialect: str) -> ColumnElement[str]:
    if dialect == "sqlite":
        return sa.func.json_quote(text)
    if dialect in MYSQL:
        return sa.func.json_quote(text)
    return sa.cast(sa.func.to_json(sa.cast(text, sa.Text)), sa.Text)


def json_of_any(value: ColumnElement[Any], dialect: str) -> ColumnElement[str]:
    """The JSON text of a value whose type only the database knows, as a user's own SQL gives it."""
    if dialect == "sqlite":
        endless = sa.and_(sa.func.typeof(value) == "real", sa.func.abs(value) > 1.7976931348623157e308)
        whole = sa.and_(sa.func.typeof(value) == "real", sa.func.abs(value) < 1e15, value == sa.cast(value, sa.Integer))
        return sa.case(
            (endless, None),
            (whole, sa.cast(sa.cast(value, sa.Integer), sa.Text)),
            else_=sa.func.json_quote(value),
        )
    if dialect in MYSQL:
        text: ColumnElement[Any] = sa.func.json_extract(sa.func.json_array(value), "$[0]")
        return sa.case(
            (value.is_(None), sa.null()),
            (text.regexp_match("^-?[0-9]+[.][0-9]*0$"), sa.func.regexp_replace(text, "[.]?0+$", "")),
            else_=text,
        )
    text = sa.cast(sa.func.to_json(value), sa.Text)
    if dialect == "postgresql":
        # to_json makes the text "NaN" of a number that is none; it is no value, and is not told.
        numeric = sa.cast(sa.func.pg_typeof(value), sa.Text).in_(["double precision", "real", "numeric"])
        endless = sa.and_(numeric, sa.cast(value, sa.Text).in_(["NaN", "Infinity", "-Infinity"]))
    else:
        endless = sa.func.lower(text).in_(["nan", "-nan", "inf", "-inf", "infinity", "-infinity"])  # text is quoted
    number = text.regexp_match(r"^-?[0-9]+\.[0-9]*0$")
    return sa.case(
        (value.is_(None), sa.null()), (endless, sa.null()), (number, without_zeros(text, dialect)), else_=text
    )
