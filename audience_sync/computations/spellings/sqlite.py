"""SQLite: no type for times (a moment is text such as `2026-01-31 06:30:00.000000`), none for booleans."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from audience_sync.computations.spellings.base import FINER, PLACES, Spelling, Value, is_number, naive

_ISO_DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*"
_FARTHEST_ZONE = timedelta(hours=15)
"""SQLite reads no time whose zone is as far from UTC. https://www.sqlite.org/lang_datefunc.html"""
_MOMENT = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9] [0-9][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9][0-9][0-9][0-9]"


class SQLite(Spelling):
    exact_texts = False
    booleans = False
    temporary_tables = True
    moment_type = sa.Text

    def to_the_letter(self, text: Value) -> Value:
        return sa.collate(text, "BINARY")

    def contains(self, text: Value, part: str) -> ColumnElement[bool]:
        return sa.func.instr(text, sa.literal(part, sa.Text)) > 0

    def ends_with(self, text: Value, part: str) -> ColumnElement[bool]:
        return sa.func.substr(text, -len(part)) == sa.literal(part, sa.Text)

    def rounded(self, number: Value) -> Value:
        finer = sa.func.round(number, FINER, type_=sa.Double)
        return sa.func.round(finer, PLACES, type_=sa.Double) + sa.literal(0.0, sa.Double)  # −0.0 + 0.0 is 0.0

    def decimal_text(self, number: Value) -> Value:
        return self.without_zeros(sa.func.printf(f"%.{PLACES}f", number))

    def quoted(self, text: Value) -> Value:
        return sa.func.json_quote(text)

    def json_of_any(self, value: Value) -> Value:
        real = sa.func.typeof(value) == "real"
        endless = sa.and_(real, sa.func.abs(value) > 1.7976931348623157e308)
        whole = sa.and_(real, sa.func.abs(value) < 1e15, value == sa.cast(value, sa.Integer))
        return sa.case(
            (endless, None),
            (whole, sa.cast(sa.cast(value, sa.Integer), sa.Text)),
            else_=sa.func.json_quote(value),
        )

    def lists(self, items: sa.FromClause, item: Value) -> sa.Select[Any]:
        # An aggregate's rows are put in order since 3.44 only: a running one, of which the last row counts.
        whose, key = items.c.user_id, items.c.key
        so_far = sa.func.group_concat(item, ",").over(partition_by=whose, order_by=key, rows=(None, 0))
        left = sa.func.row_number().over(partition_by=whose, order_by=key.desc())
        running = sa.select(whose, so_far.label("items"), left.label("left")).subquery()
        return sa.select(running.c.user_id, running.c["items"]).where(running.c.left == 1)

    def moment(self, instant: datetime) -> Value:
        return sa.literal(naive(instant).isoformat(" ", "microseconds"), sa.Text)

    def moment_of(self, column: Value) -> Value:
        return self.moment_of_number(column) if is_number(column) else self.moment_of_text(column)

    def moment_of_number(self, column: Value) -> Value:
        # %f gives milliseconds, the resolution of SQLite's own clock.
        return sa.func.strftime("%Y-%m-%d %H:%M:%f", column, "unixepoch").op("||")("000")

    def moment_of_text(self, column: Value) -> Value:
        """SQLite reads a time to the millisecond and knows `+02:00` but not `+02` or `+0200`: the fraction is carried
        past it, and the zone is spelled as it likes. What does not start with a date (`now`, a Julian day) is no time.
        What is a moment as it stands, as SQLAlchemy and many others write it, costs a tenth of the rest.
        """
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
        without, minutes = sa.func.substr(spelled, 1, sa.func.length(spelled) - 2), sa.func.substr(spelled, -2)
        zoned = sa.case(
            (spelled.op("GLOB")(zone), spelled.op("||")(":00")),
            (spelled.op("GLOB")(zone + "[0-9][0-9]"), without.op("||")(":").op("||")(minutes)),
            else_=spelled,
        )
        long = sa.func.strftime(form, zoned).op("||")(".").op("||")(fraction)
        short = sa.func.strftime(form, text).op("||")(".000000")
        read = sa.case((sa.func.length(text) <= 19, short), else_=long)
        second = sa.func.strftime(form, sa.func.substr(text, 1, 19)).op("||")(sa.func.substr(text, 20))
        looks = text.op("GLOB")(_MOMENT)
        canonical = sa.case((_is_real(text), text), else_=second)
        return sa.case((looks, canonical), (text.op("GLOB")(_ISO_DAY), read), else_=sa.null())

    def compared(self, column: Value, operator: str, instant: datetime) -> ColumnElement[bool]:
        # For the sake of an index a comparison of the text goes first, as wide as time zones reach.
        exact = getattr(self.moment_of(column), operator)(self.moment(instant))
        text = sa.type_coerce(column, sa.Text)
        if operator in ("__gt__", "__ge__"):
            return sa.and_(text >= _day(instant - _FARTHEST_ZONE), exact)
        return sa.and_(text < _day(instant + _FARTHEST_ZONE + timedelta(days=1)), exact)

    def month_and_day(self, moment: Value) -> Value:
        return sa.func.substr(moment, 6, 5)

    def earlier(self, moment: Value, months: int, seconds: int) -> Value:
        if not months:
            back = sa.func.strftime("%Y-%m-%d %H:%M:%S", sa.func.substr(moment, 1, 19), f"-{seconds} seconds")
            return back.op("||")(sa.func.substr(moment, 20))
        day = sa.func.substr(moment, 1, 10)
        # SQLite makes 3 March of 31 March minus a month; the month's last day is then the earlier of the two.
        same = sa.func.date(day, f"-{months} months")
        last = sa.func.date(day, "start of month", f"-{months - 1} months", "-1 day")
        return sa.func.min(same, last).op("||")(sa.func.substr(moment, 11))

    def iso(self, moment: Value) -> Value:
        return sa.func.replace(moment, " ", "T")

    def as_of(self, instant: datetime) -> Any:
        return instant.strftime("%Y-%m-%d %H:%M:%S")

    def property_number(self, column: Value, name: str) -> Value:
        kind = sa.func.json_type(column, _path(name))
        extracted = sa.func.json_extract(column, _path(name), type_=sa.Double)
        return sa.type_coerce(sa.case((kind.in_(["integer", "real"]), extracted)), sa.Double)

    def property_text(self, column: Value, name: str) -> Value:
        kind = sa.func.json_type(column, _path(name))
        value = sa.cast(sa.func.json_extract(column, _path(name)), sa.Text)
        return sa.case((kind.in_(["true", "false"]), kind), else_=value)

    def property_json(self, column: Value, name: str) -> Value:
        kind = sa.func.json_type(column, _path(name))
        value = sa.func.json_extract(column, _path(name))
        return sa.case(
            (kind == "null", sa.null()),
            (kind.in_(["true", "false"]), kind),
            (kind.in_(["object", "array"]), value),
            (value.is_(None), sa.null()),
            else_=self.json_of_any(value),
        )


def _is_real(text: Value) -> ColumnElement[bool]:
    """Whether what looks like a moment is one. The last days of months are left to SQLite, which knows how many there
    are."""
    month, day, hour = sa.func.substr(text, 6, 2), sa.func.substr(text, 9, 2), sa.func.substr(text, 12, 2)
    return sa.and_(month.between("01", "12"), day.between("01", "28"), hour <= "23")


def _day(instant: datetime) -> ColumnElement[str]:
    return sa.literal(naive(instant).date().isoformat(), sa.Text)


def _path(name: str) -> str:
    return '$."' + name.replace('"', '\\"') + '"'
