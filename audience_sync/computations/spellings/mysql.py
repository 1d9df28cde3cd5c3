"""MySQL and MariaDB: collations of many kinds, no booleans, no zones in columns."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects.mysql import CHAR, DATETIME, DECIMAL

from audience_sync.computations.spellings.base import FINER, PLACES, Spelling, Value, is_number, is_time, naive

EXACT = DATETIME(fsp=6)
MARIADB_COLLATION = "utf8mb4_nopad_bin"


class MySQL(Spelling):
    exact_texts = False
    blank_is_nothing = True
    booleans = False
    shows_booleans_as_numbers = True
    moment_type = EXACT
    collation = "utf8mb4_0900_bin"
    """Comparison to the letter, blanks at the end included."""

    def text(self, value: Value) -> Value:
        return sa.cast(value, CHAR(charset="utf8mb4"))

    def is_plain(self, column: Value) -> bool:
        return False  # it may have any character set

    def to_the_letter(self, text: Value) -> Value:
        return sa.collate(text, self.collation)

    def joined(self, *parts: Value | str) -> Value:
        return sa.func.concat(*parts)

    def contains(self, text: Value, part: str) -> ColumnElement[bool]:
        return sa.func.instr(text, sa.literal(part, sa.Text)) > 0

    def without_zeros(self, text: Value) -> Value:
        return sa.func.regexp_replace(text, "[.]?0+$", "")

    def rounded(self, number: Value) -> Value:
        return sa.cast(sa.cast(number, DECIMAL(65, FINER)), DECIMAL(65, PLACES))

    def decimal_text(self, number: Value) -> Value:
        return self.without_zeros(self.text(sa.cast(number, DECIMAL(65, PLACES))))

    def quoted(self, text: Value) -> Value:
        return sa.func.json_quote(text)

    def json_of_any(self, value: Value) -> Value:
        text: Value = sa.func.json_extract(sa.func.json_array(value), "$[0]")
        return sa.case(
            (value.is_(None), sa.null()),
            (self.matches(text, "^-?[0-9]+[.][0-9]*0$"), self.without_zeros(text)),
            else_=text,
        )

    def moment(self, instant: datetime) -> Value:
        return sa.cast(sa.literal(naive(instant), EXACT), EXACT)

    def moment_of(self, column: Value) -> Value:
        if is_number(column):
            micro = sa.func.round(column * 1_000_000)
            start = sa.cast(sa.literal("1970-01-01"), EXACT)
            return sa.func.timestampadd(sa.text("MICROSECOND"), micro, start, type_=EXACT)
        return sa.cast(column, EXACT) if is_time(column) else self.moment_of_text(column)

    def moment_of_text(self, column: Value) -> Value:
        clock = "[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?"
        stem = sa.func.regexp_substr(column, f"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}({clock})?")
        zone = sa.func.trim(sa.func.substr(column, sa.func.char_length(stem) + 1))
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
        return sa.func.convert_tz(sa.cast(sa.func.nullif(stem, ""), EXACT), offset, "+00:00", type_=EXACT)

    def compared(self, column: Value, operator: str, instant: datetime) -> ColumnElement[bool]:
        left = column if is_time(column) else self.moment_of(column)
        found: ColumnElement[bool] = getattr(sa.type_coerce(left, DATETIME), operator)(self.moment(instant))
        return found

    def month_and_day(self, moment: Value) -> Value:
        return sa.func.date_format(moment, "%m-%d")

    def earlier(self, moment: Value, months: int, seconds: int) -> Value:
        unit, count = ("MONTH", months) if months else ("SECOND", seconds)
        return sa.func.timestampadd(sa.text(unit), -count, moment, type_=EXACT)

    def iso(self, moment: Value) -> Value:
        return sa.func.date_format(moment, "%Y-%m-%dT%H:%i:%s.%f")


class MariaDB(MySQL):
    collation = MARIADB_COLLATION
    temporary_tables = True
