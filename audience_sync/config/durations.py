"""Lengths of time as people write them: `30 days`, `2 months`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any

from dateutil.parser import isoparse
from dateutil.relativedelta import relativedelta
from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

UNITS = ("seconds", "minutes", "hours", "days", "weeks", "months", "years")
EARLIEST = datetime(1, 1, 8, tzinfo=UTC)
"""A week after the first instant that there is: rooms for time zones and for days before it."""


@dataclass(frozen=True)
class Duration:
    """A number of units; months and years are calendar ones (31 March minus a month is the last of February)."""

    number: int
    unit: str

    def before(self, instant: datetime) -> datetime:
        """So long before an instant; what would be before the year 1 is its beginning."""
        delta: dict[str, Any] = {self.unit: self.number}
        try:
            return max(EARLIEST, instant - relativedelta(**delta))
        except (ValueError, OverflowError):
            return EARLIEST

    def after(self, instant: datetime) -> datetime:
        delta: dict[str, Any] = {self.unit: self.number}
        return instant + relativedelta(**delta)

    @property
    def months(self) -> int:
        """Its calendar part, in months; 0 for a duration of fixed length."""
        return self.number * {"months": 1, "years": 12}.get(self.unit, 0)

    @property
    def seconds(self) -> int:
        """Its fixed part; 0 for months and years."""
        each = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400, "weeks": 604800}
        return self.number * each.get(self.unit, 0)

    def __str__(self) -> str:
        return f"{self.number} {self.unit if self.number != 1 else self.unit[:-1]}"


def parse_duration(value: object) -> Duration:
    if isinstance(value, Duration):
        return value
    match = re.fullmatch(r"\s*(\d{1,6})\s*([a-z]+?)s?\s*", str(value).lower())
    if match and match[2] + "s" in UNITS:
        return Duration(int(match[1]), match[2] + "s")
    raise PydanticCustomError(
        "duration",
        "expected a number and a unit (seconds, minutes, hours, days, weeks, months), such as 30 days",
    )


def parse_moment(value: object) -> datetime:
    """An ISO 8601 date or time in UTC: a date is its midnight, a naive time is UTC."""
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime(value.year, value.month, value.day)
    else:
        try:
            text = str(value).strip()
            moment = isoparse(text.replace(" ", "T", 1))
        except (ValueError, OverflowError):
            raise PydanticCustomError(
                "moment", "expected a date or time such as 2026-01-31 or 2026-01-31T06:30:00Z"
            ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


DurationField = Annotated[
    Duration,
    BeforeValidator(parse_duration),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["30 days", "2 months"]}),
]
MomentField = Annotated[
    datetime, BeforeValidator(parse_moment), WithJsonSchema({"type": "string", "examples": ["2026-01-31"]})
]
