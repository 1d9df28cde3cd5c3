"""Ids, times and tests as SQL expressions that SQLite and PostgreSQL answer alike."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from audience_sync.computations.properties import Property
from audience_sync.config.rules import Test
from audience_sync.errors import ConfigError

BINARY = {"sqlite": "BINARY", "postgresql": "C"}


def _text(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A cast hides a column from its index, so one that holds text is left as it is. Not so CHAR, which is padded."""
    return column if type(column.type) in (sa.Text, sa.TEXT, sa.VARCHAR) else sa.cast(column, sa.Text)


def id_text(column: ColumnElement[Any], dialect: str) -> ColumnElement[str]:
    """A user id as text, compared to the letter whatever the column's own collation."""
    return sa.collate(_text(column), BINARY[dialect])


def has_id(column: ColumnElement[Any], dialect: str) -> ColumnElement[bool]:
    return sa.and_(column.is_not(None), _text(column) != "")


def lacks_id(column: ColumnElement[Any], dialect: str) -> ColumnElement[bool]:
    return sa.or_(column.is_(None), _text(column) == "")


def _naive(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(tzinfo=None)


class TimeColumn:
    """A column of times, whatever it is stored as, compared with instants.

    A date is its midnight UTC, a naive time is UTC, a number is seconds since 1970. SQLite keeps times as text
    in several spellings, which are normalised before they are compared (to the millisecond, SQLite's own
    resolution); a comparison of the first ten characters, a day wider on each side than any time zone
    reaches, goes before it so that an index on the column is used.
    """

    def __init__(self, column: ColumnElement[Any], dialect: str) -> None:
        self.column = column
        self.dialect = dialect
        self.is_number = isinstance(column.type, (sa.Integer, sa.Numeric))

    def _compare(self, instant: datetime) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
        if self.is_number:
            return self.column, sa.literal(instant.timestamp(), sa.Float)
        if self.dialect == "sqlite":
            text = sa.type_coerce(self.column, sa.Text)
            shown = _naive(instant).strftime("%Y-%m-%d %H:%M:%S.") + f"{instant.microsecond // 1000:03d}"
            return sa.func.strftime("%Y-%m-%d %H:%M:%f", text), sa.literal(shown, sa.Text)
        if isinstance(self.column.type, (sa.Date, sa.DateTime)):
            if getattr(self.column.type, "timezone", False):
                return self.column, sa.literal(instant, sa.DateTime(timezone=True))
            return sa.type_coerce(self.column, sa.DateTime), sa.literal(_naive(instant), sa.DateTime)
        return sa.cast(self.column, sa.DateTime(timezone=True)), sa.literal(instant, sa.DateTime(timezone=True))

    def _coarse(self, instant: datetime, days: int) -> ColumnElement[Any]:
        day = (_naive(instant) + timedelta(days=days)).strftime("%Y-%m-%d")
        return sa.literal(day, sa.Text)

    @property
    def _is_sqlite_text(self) -> bool:
        return self.dialect == "sqlite" and not self.is_number

    def after(self, instant: datetime) -> ColumnElement[bool]:
        left, right = self._compare(instant)
        if self._is_sqlite_text:
            return sa.and_(sa.type_coerce(self.column, sa.Text) >= self._coarse(instant, -1), left > right)
        return left > right

    def since(self, instant: datetime) -> ColumnElement[bool]:
        left, right = self._compare(instant)
        if self._is_sqlite_text:
            return sa.and_(sa.type_coerce(self.column, sa.Text) >= self._coarse(instant, -1), left >= right)
        return left >= right

    def until(self, instant: datetime) -> ColumnElement[bool]:
        left, right = self._compare(instant)
        if self._is_sqlite_text:
            return sa.and_(sa.type_coerce(self.column, sa.Text) < self._coarse(instant, 2), left <= right)
        return left <= right

    def before(self, instant: datetime) -> ColumnElement[bool]:
        left, right = self._compare(instant)
        if self._is_sqlite_text:
            return sa.and_(sa.type_coerce(self.column, sa.Text) < self._coarse(instant, 2), left < right)
        return left < right


def _number(column: ColumnElement[Any]) -> bool:
    return isinstance(column.type, (sa.Integer, sa.Numeric)) and not isinstance(column.type, sa.Boolean)


def _operand(column: ColumnElement[Any], value: Any, where: str) -> Any:
    """The value in the column's own terms, so that no database converts it in a way of its own."""
    if isinstance(column.type, sa.Boolean):
        if isinstance(value, bool):
            return value
        raise ConfigError(f"{where}: the column holds true or false, not {value!r}", "write true or false")
    if _number(column):
        if isinstance(value, bool):
            return int(value)
        if isinstance(value, str):
            try:
                return float(value) if "." in value or "e" in value.lower() else int(value)
            except ValueError:
                raise ConfigError(
                    f"{where}: the column holds numbers, not {value!r}", "write a number, without quotes"
                ) from None
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def meets(
    column: ColumnElement[Any] | Property, test: Test, as_of: datetime, dialect: str, where: str
) -> ColumnElement[bool]:
    """A test as SQL. A missing value meets only `exists: false`."""
    if isinstance(column, Property):
        return column.meets(test, as_of, where)
    text = sa.collate(sa.cast(column, sa.Text), BINARY[dialect])
    plain: ColumnElement[Any] = column if _number(column) or isinstance(column.type, sa.Boolean) else text
    times = TimeColumn(column, dialect)
    parts: list[ColumnElement[bool]] = []
    for word in sorted(test.model_fields_set):
        value = getattr(test, word)
        if value is None:
            continue
        if word == "exists":
            parts.append(column.is_not(None) if value else column.is_(None))
        elif word in ("before", "after"):
            parts.append(getattr(times, word)(value))
        elif word == "within":
            parts += [times.after(value.before(as_of)), times.until(as_of)]
        elif word == "contains":
            find = sa.func.instr if dialect == "sqlite" else sa.func.strpos
            parts.append(find(text, value) > 0)
        elif word == "starts_with":
            parts.append(sa.func.substr(text, 1, len(value)) == value)
        elif word == "ends_with":
            end = sa.func.substr(text, -len(value)) if dialect == "sqlite" else sa.func.right(text, len(value))
            parts.append(end == value if value else text.is_not(None))
        elif word in ("in_", "not_in"):
            values = [_operand(column, item, where) for item in value]
            parts.append(plain.in_(values) if word == "in_" else plain.not_in(values))
        elif isinstance(column.type, (sa.Date, sa.DateTime)) and word in (
            "eq",
            "ne",
            "gt",
            "gte",
            "lt",
            "lte",
        ):
            parts.append(_time_test(times, word, value, where))
        else:
            operand = _operand(column, value, where)
            compare = {
                "eq": "__eq__",
                "ne": "__ne__",
                "gt": "__gt__",
                "gte": "__ge__",
                "lt": "__lt__",
                "lte": "__le__",
            }
            parts.append(getattr(plain, compare[word])(operand))
    return sa.and_(*parts)


def _time_test(times: TimeColumn, word: str, value: Any, where: str) -> ColumnElement[bool]:
    from audience_sync.config.durations import parse_moment

    try:
        moment = parse_moment(value)
    except ValueError:
        raise ConfigError(
            f"{where}: the column holds times, not {value!r}", "write a date such as 2026-01-31"
        ) from None
    same = sa.and_(times.since(moment), times.until(moment))
    return {
        "eq": same,
        "ne": sa.or_(times.before(moment), times.after(moment)),
        "gt": times.after(moment),
        "gte": times.since(moment),
        "lt": times.before(moment),
        "lte": times.until(moment),
    }[word]


def json_text(value: ColumnElement[Any], dialect: str) -> ColumnElement[str]:
    """A SQL value as JSON text, made by the database: rows need not pass through Python for it."""
    if dialect == "sqlite":
        endless = sa.and_(sa.func.typeof(value) == "real", sa.func.abs(value) > 1.7976931348623157e308)
        return sa.case((endless, None), else_=sa.func.json_quote(value))
    # to_json makes the text "NaN" of a number that is none; it is no value, and is not told.
    number = sa.cast(sa.func.pg_typeof(value), sa.Text).in_(["double precision", "real", "numeric"])
    endless = sa.cast(value, sa.Text).in_(["NaN", "Infinity", "-Infinity"])
    return sa.case((sa.and_(number, endless), None), else_=sa.cast(sa.func.to_json(value), sa.Text))
