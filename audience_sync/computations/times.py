"""Instants in columns of any type, compared alike by every database, to the microsecond.

A date is its midnight UTC, a time without a zone is UTC, a number is seconds since 1970, and text is read as ISO 8601.
Text that is no time is missing, as NULL is.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from audience_sync.computations.spellings import ROWS, is_number, naive
from audience_sync.config.durations import Duration


class TimeColumn:
    """A column of times, whatever it is stored as.

    `moment` is its canonical form, as `Spelling` has it; `canonical` says that the column is one already. Comparisons
    are made with the column as it stands where its type allows, so that an index is used.
    """

    def __init__(self, column: ColumnElement[Any], dialect: str, *, canonical: bool = False) -> None:
        self.column = column
        self.dialect = dialect
        self.canonical = canonical
        self._spelling = ROWS[dialect]

    @property
    def moment(self) -> ColumnElement[Any]:
        return self.column if self.canonical else self._spelling.moment_of(self.column)

    def after(self, instant: datetime) -> ColumnElement[bool]:
        return self._compare("__gt__", instant)

    def since(self, instant: datetime) -> ColumnElement[bool]:
        return self._compare("__ge__", instant)

    def until(self, instant: datetime) -> ColumnElement[bool]:
        return self._compare("__le__", instant)

    def before(self, instant: datetime) -> ColumnElement[bool]:
        return self._compare("__lt__", instant)

    def _compare(self, operator: str, instant: datetime) -> ColumnElement[bool]:
        found: ColumnElement[bool]
        if self.canonical:
            found = getattr(self.column, operator)(self._spelling.moment(instant))
        elif is_number(self.column):
            seconds = instant.timestamp()
            whole = seconds.is_integer()
            found = getattr(self.column, operator)(
                sa.literal(int(seconds), sa.BigInteger) if whole else sa.literal(seconds, sa.Double)
            )
        else:
            found = self._spelling.compared(self.column, operator, instant)
        return found

    def anniversary(self, duration: Duration, as_of: datetime) -> ColumnElement[bool]:
        """Its day of the year is T's or comes in less than `duration`. 29 February is 28 February in other years."""
        day = naive(as_of).replace(hour=0, minute=0, second=0, microsecond=0)
        end = min(naive(duration.after(as_of)), day + timedelta(days=366))
        days = set()
        while day < end:
            days.add(f"{day:%m-%d}")
            if (day.month, day.day) == (2, 28) and (day + timedelta(days=1)).day == 1:
                days.add("02-29")
            day += timedelta(days=1)
        return self._spelling.month_and_day(self.moment).in_(sorted(days))


def earlier(moment: ColumnElement[Any], duration: Duration, dialect: str) -> ColumnElement[Any]:
    """A moment minus a duration. Months are calendar ones: 31 March minus a month is the last of February."""
    return ROWS[dialect].earlier(moment, duration.months, duration.seconds)
