"""What a column holds, and its values as JSON text that every database writes alike."""

from __future__ import annotations

from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects.mysql import TINYINT

from audience_sync.computations.spellings import ROWS, is_time
from audience_sync.computations.times import TimeColumn

Kind = Literal["boolean", "integer", "number", "time", "text"]

LARGEST = 1e28
"""Numbers beyond it, and endless ones, count as missing: not every database can write them out."""


def text_of(column: ColumnElement[Any], dialect: str) -> ColumnElement[str]:
    """A value as text that is compared to the letter, whatever the column's own collation."""
    return ROWS[dialect].to_the_letter(plain_text(column, dialect))


def plain_text(column: ColumnElement[Any], dialect: str) -> ColumnElement[str]:
    """A value as text, in whatever order. A cast hides a column from its index, so one that holds text is left as it
    is."""
    return column if ROWS[dialect].is_plain(column) else ROWS[dialect].text(column)


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
    """A number to so many decimals, halves away from zero; NULL where it is endless or beyond LARGEST."""
    bounded = sa.case((sa.func.abs(number) < sa.literal(LARGEST, sa.Double), number), else_=sa.null())
    return ROWS[dialect].rounded(bounded)


def json_of(value: ColumnElement[Any], kind: Kind, dialect: str) -> ColumnElement[str]:
    """The JSON text of what `comparable` gave for a column of this kind."""
    spelling = ROWS[dialect]
    if kind == "boolean":
        return sa.case((value.is_(None), sa.null()), (spelling.is_true(value), "true"), else_="false")
    if kind == "time":
        return spelling.joined('"', spelling.without_zeros(spelling.iso(value)), 'Z"')
    if kind == "integer":
        return spelling.text(value)
    return spelling.decimal_text(value) if kind == "number" else spelling.quoted(value)


def json_of_any(value: ColumnElement[Any], dialect: str) -> ColumnElement[str]:
    """The JSON text of a value whose type only the database knows, as a user's own SQL gives it."""
    return ROWS[dialect].json_of_any(value)
