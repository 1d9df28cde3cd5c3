"""Properties inside a JSON column, tested as if they were columns of their own.

A column has one type; a property may be a number in one row and text in the next. So the test's value decides:
`gte: 50` is asked of the rows where the property is a number, `starts_with: A` of its text. A property that is absent,
or null, is missing, as a NULL in a column is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from audience_sync.computations.spellings import ROWS
from audience_sync.computations.values import text_of
from audience_sync.config.rules import Test


@dataclass(frozen=True)
class Property:
    """One property of a JSON column (text, json or jsonb), where the database's row of `spellings` can read it."""

    column: ColumnElement[Any]
    name: str
    dialect: str

    def __post_init__(self) -> None:
        _ = self.text  # a database that cannot read properties says so now

    @property
    def number(self) -> ColumnElement[Any]:
        """Its value where it is a number, else NULL."""
        return ROWS[self.dialect].property_number(self.column, self.name)

    @property
    def text(self) -> ColumnElement[Any]:
        """Its value as text; `true` and `false` for those, JSON for what is nested; NULL when missing."""
        return ROWS[self.dialect].property_text(self.column, self.name)

    @property
    def json(self) -> ColumnElement[Any]:
        """Its value as JSON text; NULL when missing."""
        return text_of(ROWS[self.dialect].property_json(self.column, self.name), self.dialect)

    def meets(self, test: Test, as_of: datetime, where: str) -> ColumnElement[bool]:
        parts = [self._one(word, getattr(test, word), as_of, where) for word in sorted(test.model_fields_set)]
        return sa.and_(*parts)

    def _one(self, word: str, value: Any, as_of: datetime, where: str) -> ColumnElement[bool]:
        from audience_sync.computations.expressions import meets

        def ask(of: ColumnElement[Any], asked: str, operand: Any) -> ColumnElement[bool]:
            alone = Test.model_construct(_fields_set={asked}, **{asked: operand})
            return meets(of, alone, as_of, self.dialect, where)

        if value is None:
            return sa.true()
        if word in ("gt", "gte", "lt", "lte") and _is_number(value):
            return ask(self.number, word, value)
        if word == "eq":
            return self._equals([value], ask)
        if word == "in_":
            return self._equals(value, ask)
        if word in ("ne", "not_in"):
            values = [value] if word == "ne" else value
            return sa.and_(self.text.is_not(None), sa.not_(sa.func.coalesce(self._equals(values, ask), sa.false())))
        return ask(self.text, word, value)

    def _equals(self, values: list[Any], ask: Any) -> ColumnElement[bool]:
        """One of the values. 42 is met by the number and by its text: clients send either."""
        numbers = [value for value in values if _is_number(value)]
        either = [ask(self.text, "in_", values)]
        if numbers:
            either.append(ask(self.number, "in_", numbers))
        return sa.or_(*either)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
