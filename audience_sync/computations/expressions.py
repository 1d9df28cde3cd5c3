"""User ids and tests as SQL that every database answers alike."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from audience_sync.computations.properties import Property
from audience_sync.computations.spellings import ROWS
from audience_sync.computations.times import TimeColumn
from audience_sync.computations.values import kind_of, plain_text, text_of
from audience_sync.config.durations import parse_moment
from audience_sync.config.rules import Test
from audience_sync.errors import ConfigError

LARGEST_INTEGER = 2**63 - 1
_COMPARISONS = {"eq": "__eq__", "ne": "__ne__", "gt": "__gt__", "gte": "__ge__", "lt": "__lt__", "lte": "__le__"}


def id_text(column: ColumnElement[Any], dialect: str) -> ColumnElement[str]:
    """A user id as text, compared to the letter."""
    return text_of(column, dialect)


def has_id(column: ColumnElement[Any], dialect: str) -> ColumnElement[bool]:
    return sa.and_(column.is_not(None), _comparable(column, dialect) != "")


def lacks_id(column: ColumnElement[Any], dialect: str) -> ColumnElement[bool]:
    empty = _comparable(column, dialect) == ""
    if isinstance(column, sa.Column) and not column.nullable:
        return empty  # which an index on the column finds at once
    return sa.or_(column.is_(None), empty)


def _comparable(column: ColumnElement[Any], dialect: str) -> ColumnElement[str]:
    return text_of(column, dialect) if ROWS[dialect].blank_is_nothing else plain_text(column, dialect)


def equals_text(column: ColumnElement[Any], value: str, dialect: str) -> ColumnElement[bool]:
    """Text that is equal to the letter; the column as it stands is asked first, so that an index on it is used."""
    operand = sa.literal(value, sa.Text)
    if not isinstance(column.type, sa.String) or isinstance(column.type, sa.Enum):
        return text_of(column, dialect) == operand
    plain = column == operand
    return plain if ROWS[dialect].exact_texts else sa.and_(plain, text_of(column, dialect) == operand)


def meets(
    column: ColumnElement[Any] | Property, test: Test, as_of: datetime, dialect: str, where: str
) -> ColumnElement[bool]:
    """A test as SQL. A missing value meets only `exists: false`."""
    if isinstance(column, Property):
        return column.meets(test, as_of, where)
    given = {word: getattr(test, word) for word in sorted(test.model_fields_set)}
    asked = _Asked(column, as_of, dialect, where)
    return sa.and_(*[asked.meets(word, value) for word, value in given.items() if value is not None])


class _Asked:
    def __init__(self, column: ColumnElement[Any], as_of: datetime, dialect: str, where: str) -> None:
        self.column = column
        self.kind = kind_of(column)
        self.as_of = as_of
        self.dialect = dialect
        self.spelling = ROWS[dialect]
        self.where = where

    def meets(self, word: str, value: Any) -> ColumnElement[bool]:
        if word == "exists":
            return self.column.is_not(None) if value else self.column.is_(None)
        if word in ("before", "after", "within", "anniversary"):
            return self._in_time(word, value)
        if word in ("contains", "starts_with", "ends_with"):
            return self._in_text(word, value)
        if word == "in_":
            if self.kind == "time" or (self.kind == "text" and len(value) == 1):
                return sa.or_(sa.false(), *[self._compared("eq", item) for item in value])
            return self._plain.in_([self._operand(item) for item in value])
        if word == "not_in":
            if self.kind == "time":
                return sa.and_(self._missing_not, *[self._compared("ne", item) for item in value])
            return sa.and_(self._missing_not, self._plain.not_in([self._operand(item) for item in value]))
        return self._compared(word, value)

    @property
    def _plain(self) -> ColumnElement[Any]:
        return text_of(self.column, self.dialect) if self.kind == "text" else self.column

    @property
    def _missing_not(self) -> ColumnElement[bool]:
        return self.column.is_not(None)

    def _compared(self, word: str, value: Any) -> ColumnElement[bool]:
        if self.kind == "time":
            return self._at(word, value)
        if self.kind == "text" and word == "eq":
            return equals_text(self.column, _as_text(value), self.dialect)
        found: ColumnElement[bool] = getattr(self._plain, _COMPARISONS[word])(self._operand(value))
        return found

    def _in_time(self, word: str, value: Any) -> ColumnElement[bool]:
        times = TimeColumn(self.column, self.dialect)
        if self.kind == "boolean":
            raise self._wrong("times", f"{word}: asks of a time")
        if word == "before":
            return times.before(value)
        if word == "after":
            return times.after(value)
        if word == "within":
            return sa.and_(times.after(value.before(self.as_of)), times.until(self.as_of))
        return times.anniversary(value, self.as_of)

    def _in_text(self, word: str, value: str) -> ColumnElement[bool]:
        if self.kind not in ("text", "integer"):
            raise self._wrong("text", f"{word}: asks of text")
        text = text_of(self.column, self.dialect)
        if value == "":
            return self.column.is_not(None)
        found: ColumnElement[bool] = getattr(self.spelling, word)(text, value)
        return found

    def _at(self, word: str, value: Any) -> ColumnElement[bool]:
        try:
            moment = parse_moment(value)
        except ValueError:
            raise ConfigError(
                f"{self.where}: the column holds times, not {value!r}", "write a date such as 2026-01-31"
            ) from None
        times = TimeColumn(self.column, self.dialect)
        answers: dict[str, Callable[[], ColumnElement[bool]]] = {
            "eq": lambda: sa.and_(times.since(moment), times.until(moment)),
            "ne": lambda: sa.or_(times.before(moment), times.after(moment)),
            "gt": lambda: times.after(moment),
            "gte": lambda: times.since(moment),
            "lt": lambda: times.before(moment),
            "lte": lambda: times.until(moment),
        }
        return answers[word]()

    def _operand(self, value: Any) -> ColumnElement[Any]:
        """The value in the column's own terms, so that no database converts it in a way of its own."""
        if self.kind == "boolean":
            as_number = self.spelling.shows_booleans_as_numbers and isinstance(value, int)
            if not isinstance(value, bool) and not as_number:
                raise ConfigError(f"{self.where}: the column holds true or false, not {value!r}", "write true or false")
            return self.spelling.boolean(value)
        if self.kind in ("integer", "number"):
            return self._number(value)
        return self._text(_as_text(value))

    def _number(self, value: Any) -> ColumnElement[Any]:
        if isinstance(value, str):
            try:
                value = int(value) if value.strip().lstrip("+-").isdecimal() else float(value)
                if value != value or value in (float("inf"), float("-inf")):
                    raise ValueError
            except ValueError:
                raise ConfigError(
                    f"{self.where}: the column holds numbers, not {value!r}", "write a number, without quotes"
                ) from None
        if isinstance(value, int) and abs(value) <= LARGEST_INTEGER:
            return sa.literal(int(value), sa.BigInteger)
        return sa.literal(float(value), sa.Double)

    def _text(self, value: str) -> ColumnElement[str]:
        return sa.literal(value, sa.Text)

    def _wrong(self, expected: str, message: str) -> ConfigError:
        held = {"boolean": "true or false", "integer": "numbers", "number": "numbers", "time": "times", "text": "text"}
        return ConfigError(f"{self.where}: {message}, and the column holds {held[self.kind]}, not {expected}")


def _as_text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
