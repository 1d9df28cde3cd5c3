"""Instants in columns of any type, compared alike by every database, to the microsecond.

A date is its midnight UTC, a time without a zone is UTC, a number is seconds since 1970, and text is read as ISO 8601.
Text that is no time is missing, as NULL is.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects.mysql import DATETIME

from audience_sync.config.durations import Duration

MYSQL = ("mysql", "mariadb")
_ISO_DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*"

# ISO 8601, dates that exist: PostgreSQL fails the whole query at a text that is no time, and a column may hold any.
_DAY = (
    r"\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
    r"|\d{2}([02468][048]|[13579][26])-02-29"
)
_CLOCK = r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?"
ISO_TIME = rf"^({_DAY})([T ]{_CLOCK} ?(Z|[+-](0\d|1[0-4])(:?[0-5]\d)?)?)?$"


def naive(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(tzinfo=None)


def is_time(column: ColumnElement[Any]) -> bool:
    return isinstance(column.type, (sa.Date, sa.DateTime))


def literal(instant: datetime, dialect: str) -> ColumnElement[Any]:
    """An instant as a `moment` of this database."""
    if dialect == "sqlite":
        return sa.literal(naive(instant).isoformat(" ", "microseconds"), sa.Text)
    if dialect in MYSQL:
        return sa.cast(sa.literal(naive(instant), DATETIME(fsp=6)), DATETIME(fsp=6))
    return sa.literal(naive(instant), sa.DateTime)


class TimeColumn:
    """A column of times, whatever it is stored as.

    `moment` is its canonical form: a timestamp in UTC without a zone, and on SQLite, which has none, text such as
    `2026-01-31 06:30:00.000000`; `canonical` says that the column is one already. Comparisons are made with the column
    as it stands where its type allows, so that an index is used; on SQLite, a comparison of the text a day wider on
    each side than any time zone reaches goes before the exact one, for the same reason.
    """

    def __init__(self, column: ColumnElement[Any], dialect: str, *, canonical: bool = False) -> None:
        self.column = column
        self.dialect = dialect
        self.canonical = canonical
        self.is_number = isinstance(column.type, (sa.Integer, sa.Numeric, sa.Float))
        self.has_zone = is_time(column) and bool(getattr(column.type, "timezone", False))

    @property
    def moment(self) -> ColumnElement[Any]:
        if self.canonical:
            return self.column
        if self.dialect == "sqlite":
            return _sqlite_number(self.column) if self.is_number else _sqlite_text(self.column)
        if self.dialect in MYSQL:
            return self._mysql_moment()
        if self.is_number:
            return sa.func.timezone("UTC", sa.func.to_timestamp(sa.cast(self.column, sa.Double)), type_=sa.DateTime)
        if not is_time(self.column):
            return sa.func.timezone("UTC", self._read_text(), type_=sa.DateTime)
        if self.has_zone:
            return sa.func.timezone("UTC", self.column, type_=sa.DateTime)
        return sa.cast(self.column, sa.DateTime)

    def _read_text(self) -> ColumnElement[Any]:
        zoned = sa.DateTime(timezone=True)
        if self.dialect == "duckdb":
            return sa.try_cast(self.column, zoned)
        text = sa.cast(self.column, sa.Text)
        # CASE is what keeps PostgreSQL from casting before it has looked.
        return sa.case((text.regexp_match(ISO_TIME), sa.cast(text, zoned)), else_=sa.null())

    def _mysql_moment(self) -> ColumnElement[Any]:
        exact = DATETIME(fsp=6)
        if self.is_number:
            micro = sa.func.round(self.column * 1_000_000)
            return sa.func.timestampadd(
                sa.text("MICROSECOND"), micro, sa.cast(sa.literal("1970-01-01"), exact), type_=exact
            )
        if is_time(self.column):
            return sa.cast(self.column, exact)
        clock = "[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?"
        stem = sa.func.regexp_substr(self.column, f"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}({clock})?")
        zone = sa.func.trim(sa.func.substr(self.column, sa.func.char_length(stem) + 1))
        offset = sa.case(
            (zone.in_(["", "Z"]), "+00:00"),
            (zone.regexp_match("^[+-][0-9]{2}$"), sa.func.concat(zone, ":00")),
            (
                zone.regexp_match("^[+-][0-9]{4}$"),
                sa.func.concat(sa.func.left(zone, 3), ":", sa.func.right(zone, 2)),
            ),
            (zone.regexp_match("^[+-][0-9]{2}:[0-9]{2}$"), zone),
            else_=sa.null(),
        )
        return sa.func.convert_tz(sa.cast(sa.func.nullif(stem, ""), exact), offset, "+00:00", type_=exact)

    def after(self, instant: datetime) -> ColumnElement[bool]:
        return self._compare("__gt__", instant)

    def since(self, instant: datetime) -> ColumnElement[bool]:
        return self._compare("__ge__", instant)

    def until(self, instant: datetime) -> ColumnElement[bool]:
        return self._compare("__le__", instant)

    def before(self, instant: datetime) -> ColumnElement[bool]:
        return self._compare("__lt__", instant)

    def _compare(self, operator: str, instant: datetime) -> ColumnElement[bool]:
        if self.canonical:
            return getattr(self.column, operator)(literal(instant, self.dialect))  # type: ignore[no-any-return]
        if self.is_number:
            seconds = instant.timestamp()
            operand = (
                sa.literal(int(seconds), sa.BigInteger) if seconds.is_integer() else sa.literal(seconds, sa.Double)
            )
            found: ColumnElement[bool] = getattr(self.column, operator)(operand)
            return found
        if self.dialect == "sqlite":
            exact = getattr(self.moment, operator)(literal(instant, self.dialect))
            text = sa.type_coerce(self.column, sa.Text)
            if operator in ("__gt__", "__ge__"):
                return sa.and_(text >= _day(instant, -1), exact)
            return sa.and_(text < _day(instant, 2), exact)
        if is_time(self.column) and self.dialect not in MYSQL:
            if self.has_zone:
                aware = sa.literal(instant, sa.DateTime(timezone=True))
                return getattr(self.column, operator)(aware)  # type: ignore[no-any-return]
            return getattr(sa.type_coerce(self.column, sa.DateTime), operator)(literal(instant, self.dialect))  # type: ignore[no-any-return]
        left = self.column if is_time(self.column) else self.moment
        return getattr(sa.type_coerce(left, DATETIME), operator)(literal(instant, self.dialect))  # type: ignore[no-any-return]

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
        return month_and_day(self.moment, self.dialect).in_(sorted(days))


def month_and_day(moment: ColumnElement[Any], dialect: str) -> ColumnElement[str]:
    if dialect == "sqlite":
        return sa.func.substr(moment, 6, 5)
    if dialect == "postgresql":
        return sa.func.to_char(moment, "MM-DD")
    if dialect == "duckdb":
        return sa.func.strftime(moment, "%m-%d")
    return sa.func.date_format(moment, "%m-%d")


def earlier(moment: ColumnElement[Any], duration: Duration, dialect: str) -> ColumnElement[Any]:
    """A moment minus a duration. Months are calendar ones: 31 March minus a month is the last of February."""
    months, seconds = duration.months, duration.seconds
    if dialect == "sqlite":
        if not months:
            back = sa.func.strftime("%Y-%m-%d %H:%M:%S", sa.func.substr(moment, 1, 19), f"-{seconds} seconds")
            return back.op("||")(sa.func.substr(moment, 20))
        day = sa.func.substr(moment, 1, 10)
        # SQLite makes 3 March of 31 March minus a month; the month's last day is then the earlier of the two.
        same = sa.func.date(day, f"-{months} months")
        last = sa.func.date(day, "start of month", f"-{months - 1} months", "-1 day")
        return sa.func.min(same, last).op("||")(sa.func.substr(moment, 11))
    if dialect in MYSQL:
        unit, count = ("MONTH", months) if months else ("SECOND", seconds)
        return sa.func.timestampadd(sa.text(unit), -count, moment, type_=DATETIME(fsp=6))
    if dialect == "duckdb":
        span = sa.func.to_months(months) if months else sa.func.to_seconds(seconds)
        return moment.op("-", return_type=sa.DateTime())(span)
    span = sa.func.make_interval(0, months, 0, 0, 0, 0, sa.cast(sa.literal(seconds, sa.BigInteger), sa.Double))
    return moment.op("-", return_type=sa.DateTime())(span)


def iso_text(moment: ColumnElement[Any], dialect: str) -> ColumnElement[str]:
    """`2026-01-31T06:30:00Z`, with a fraction only where there is one."""
    if dialect == "sqlite":
        text: ColumnElement[Any] = sa.func.replace(moment, " ", "T")
    elif dialect == "postgresql":
        text = sa.func.to_char(moment, 'YYYY-MM-DD"T"HH24:MI:SS.US')
    elif dialect == "duckdb":
        text = sa.func.strftime(moment, "%Y-%m-%dT%H:%M:%S.%f")
    else:
        text = sa.func.date_format(moment, "%Y-%m-%dT%H:%i:%s.%f")
    return joined(dialect, without_zeros(text, dialect), "Z")


def joined(dialect: str, *parts: ColumnElement[Any] | str) -> ColumnElement[str]:
    """Texts one after another."""
    if dialect in MYSQL:
        return sa.func.concat(*parts)
    first, *rest = (sa.literal(part, sa.Text) if isinstance(part, str) else part for part in parts)
    for part in rest:
        first = first.op("||", return_type=sa.Text())(part)
    return first


def without_zeros(text: ColumnElement[Any], dialect: str) -> ColumnElement[Any]:
    """`12.500` is `12.5` and `12.000` is `12`; the text must have a decimal point."""
    if dialect in MYSQL:
        return sa.func.regexp_replace(text, "[.]?0+$", "")
    return sa.func.rtrim(sa.func.rtrim(text, "0"), ".")


def _day(instant: datetime, days: int) -> ColumnElement[str]:
    return sa.literal((naive(instant) + timedelta(days=days)).date().isoformat(), sa.Text)


def _sqlite_number(column: ColumnElement[Any]) -> ColumnElement[Any]:
    # %f gives milliseconds, the resolution of SQLite's own clock.
    return sa.func.strftime("%Y-%m-%d %H:%M:%f", column, "unixepoch").op("||")("000")


def _sqlite_text(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """SQLite reads a time to the millisecond and knows `+02:00` but not `+02` or `+0200`: the fraction is carried past
    it, and the zone is spelled as it likes. What does not start with a date (`now`, a Julian day) is no time."""
    text = sa.type_coerce(column, sa.Text)
    form = "%Y-%m-%d %H:%M:%S"
    point = sa.func.instr(text, ".")
    behind = sa.func.substr(text, point + 1)
    rest = sa.func.ltrim(behind, "0123456789")
    digits = sa.func.substr(behind, 1, sa.func.length(behind) - sa.func.length(rest))
    whole = sa.case((point == 0, text), else_=sa.func.substr(text, 1, point - 1).op("||")(rest))
    fraction = sa.case((point == 0, "000000"), else_=sa.func.substr(digits.op("||")("000000"), 1, 6))
    spelled = sa.func.replace(sa.func.replace(whole, " +", "+"), " -", "-")
    zone = "*:[0-9][0-9][+-][0-9][0-9]"
    zoned = sa.case(
        (spelled.op("GLOB")(zone), spelled.op("||")(":00")),
        (
            spelled.op("GLOB")(zone + "[0-9][0-9]"),
            sa.func.substr(spelled, 1, sa.func.length(spelled) - 2).op("||")(":").op("||")(sa.func.substr(spelled, -2)),
        ),
        else_=spelled,
    )
    long = sa.func.strftime(form, zoned).op("||")(".").op("||")(fraction)
    short = sa.func.strftime(form, text).op("||")(".000000")
    read = sa.case((sa.func.length(text) <= 19, short), else_=long)
    return sa.case((text.op("GLOB")(_ISO_DAY), read), else_=sa.null())
