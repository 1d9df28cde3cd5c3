"""What the rules ask of a database, in the words that most databases share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from audience_sync.errors import ConfigError

PLACES = 6
"""Decimals to which totals, averages and numbers in traits are rounded, so that no database's arithmetic shows."""
FINER = 9

# ISO 8601, dates that exist: some databases fail the whole query at a text that is no time, and a column may hold any.
_DAY = (
    r"\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
    r"|\d{2}([02468][048]|[13579][26])-02-29"
)
_CLOCK = r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?"
ISO_TIME = rf"^({_DAY})([T ]{_CLOCK} ?(Z|[+-](0\d|1[0-4])(:?[0-5]\d)?)?)?$"

Value = ColumnElement[Any]


def naive(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(tzinfo=None)


def is_time(column: Value) -> bool:
    return isinstance(column.type, (sa.Date, sa.DateTime))


def is_number(column: Value) -> bool:
    return isinstance(column.type, (sa.Integer, sa.Numeric, sa.Float))


class Spelling:
    """One family of databases: a row of the table `spellings.ROWS`, of which only what it spells otherwise is written.

    A `moment` is an instant in its canonical form: a timestamp in UTC without a zone, to the microsecond.
    """

    exact_texts = True
    """Two texts are equal when they are so to the letter, blanks at the end included."""
    blank_is_nothing = False
    """A text of blanks is equal to the empty one."""
    booleans = True
    """It has booleans; else they are the numbers 0 and 1."""
    shows_booleans_as_numbers = False
    """Its people write 1 and 0 for true and false."""
    temporary_tables = False
    """A connection that only reads may fill temporary tables, and name one twice in a statement."""
    moment_type: Any = sa.DateTime
    # -- texts --------------------------------------------------------------------------------------------------------

    def text(self, value: Value) -> Value:
        return sa.cast(value, sa.Text)

    def is_plain(self, column: Value) -> bool:
        """It is text as it stands, and no cast hides it from its index. Not so CHAR, which is padded."""
        return type(column.type) in (sa.Text, sa.TEXT, sa.VARCHAR)

    def to_the_letter(self, text: Value) -> Value:
        """Text that is compared, grouped and put in order to the letter, whatever the column's own collation."""
        return text

    def joined(self, *parts: Value | str) -> Value:
        first, *rest = (sa.literal(part, sa.Text) if isinstance(part, str) else part for part in parts)
        for part in rest:
            first = first.op("||", return_type=sa.Text())(part)
        return first

    def contains(self, text: Value, part: str) -> ColumnElement[bool]:
        return sa.func.strpos(text, sa.literal(part, sa.Text)) > 0

    def starts_with(self, text: Value, part: str) -> ColumnElement[bool]:
        return sa.func.substr(text, 1, len(part)) == sa.literal(part, sa.Text)

    def ends_with(self, text: Value, part: str) -> ColumnElement[bool]:
        return sa.func.right(text, len(part)) == sa.literal(part, sa.Text)

    def matches(self, text: Value, pattern: str) -> ColumnElement[bool]:
        return text.regexp_match(pattern)

    def without_zeros(self, text: Value) -> Value:
        """`12.500` is `12.5` and `12.000` is `12`; the text must have a decimal point."""
        return sa.func.rtrim(sa.func.rtrim(text, "0"), ".")

    # -- numbers, booleans, JSON --------------------------------------------------------------------------------------

    def rounded(self, number: Value) -> Value:
        """To PLACES decimals, halves away from zero. To FINER first: binary fractions leave a half that is just below
        it here, just above it there, and this brings it back."""
        return sa.func.round(sa.cast(number, sa.Numeric(38, FINER)), PLACES, type_=sa.Numeric)

    def decimal_text(self, number: Value) -> Value:
        """What `rounded` gave, as JSON."""
        return self.without_zeros(self.text(sa.cast(number, sa.Numeric(38, PLACES))))

    def boolean(self, value: bool | int) -> Value:
        return sa.literal(value, sa.Boolean) if self.booleans else sa.literal(int(value))

    def is_true(self, value: Value) -> ColumnElement[bool]:
        return sa.type_coerce(value, sa.Boolean) if self.booleans else value != 0

    def json_text(self, value: Value) -> Value:
        """A value of any type as JSON, as the database itself writes it."""
        return self.text(sa.func.to_json(value))

    def quoted(self, text: Value) -> Value:
        """Text as JSON."""
        return self.json_text(self.text(text))

    def json_of_any(self, value: Value) -> Value:
        """The JSON of a value whose type only the database knows, as a user's own SQL gives it; NULL where JSON has no
        such value."""
        text = self.json_text(value)
        return sa.case(
            (value.is_(None), sa.null()),
            (self.is_endless(value, text), sa.null()),
            (self.matches(text, r"^-?[0-9]+\.[0-9]*0$"), self.without_zeros(text)),
            else_=text,
        )

    def is_endless(self, value: Value, text: Value) -> ColumnElement[bool]:
        """Whether it is a number that JSON has not; `text` is what the database makes of it."""
        raise NotImplementedError

    def list_of(self, item: Value, key: Value) -> Value:
        """An aggregate: the items in the order of their keys, with commas between them."""
        return sa.func.aggregate_strings(self.text(item), ",").aggregate_order_by(key)

    def lists(self, items: sa.FromClause, item: Value) -> sa.Select[Any]:
        """(user_id, items) of rows of (user_id, key), of which `item` is the JSON."""
        whose = items.c.user_id
        return sa.select(whose, self.list_of(item, items.c.key).label("items")).group_by(whose)

    # -- times --------------------------------------------------------------------------------------------------------

    def moment(self, instant: datetime) -> Value:
        return sa.literal(naive(instant), self.moment_type)

    def moment_of(self, column: Value) -> Value:
        """A column of times, whatever it is stored as."""
        if is_number(column):
            return self.moment_of_number(column)
        if not is_time(column):
            return self.moment_of_text(column)
        return self.moment_of_zoned(column) if self.has_zone(column) else sa.cast(column, self.moment_type)

    def has_zone(self, column: Value) -> bool:
        return is_time(column) and bool(getattr(column.type, "timezone", False))

    def moment_of_number(self, column: Value) -> Value:
        """Seconds since 1970."""
        return sa.func.timezone("UTC", sa.func.to_timestamp(sa.cast(column, sa.Double)), type_=sa.DateTime)

    def moment_of_text(self, column: Value) -> Value:
        """ISO 8601; NULL where the text is no time."""
        text = self.text(column)
        # CASE is what keeps a database from casting before it has looked.
        read = sa.case((self.matches(text, ISO_TIME), sa.cast(text, sa.DateTime(timezone=True))), else_=sa.null())
        return sa.func.timezone("UTC", read, type_=sa.DateTime)

    def moment_of_zoned(self, column: Value) -> Value:
        return sa.func.timezone("UTC", column, type_=sa.DateTime)

    def compared(self, column: Value, operator: str, instant: datetime) -> ColumnElement[bool]:
        """A column of times or texts with an instant: as it stands where its type allows, so that an index is used."""
        found: ColumnElement[bool]
        if not is_time(column):
            found = getattr(self.moment_of(column), operator)(self.moment(instant))
        elif self.has_zone(column):
            found = getattr(column, operator)(sa.literal(instant, sa.DateTime(timezone=True)))
        else:
            found = getattr(sa.type_coerce(column, sa.DateTime), operator)(self.moment(instant))
        return found

    def month_and_day(self, moment: Value) -> Value:
        return sa.func.to_char(moment, "MM-DD")

    def earlier(self, moment: Value, months: int, seconds: int) -> Value:
        """A moment minus calendar months, or minus seconds. 31 March minus a month is the last of February."""
        raise NotImplementedError

    def iso(self, moment: Value) -> Value:
        """`2026-01-31T06:30:00.000000`"""
        return sa.func.to_char(moment, 'YYYY-MM-DD"T"HH24:MI:SS.US')

    def as_of(self, instant: datetime) -> Any:
        """T as the value of `:as_of` in a user's own SQL."""
        return instant

    # -- properties of a JSON column ----------------------------------------------------------------------------------

    def property_number(self, column: Value, name: str) -> Value:
        """Its value where it is a number, else NULL."""
        raise self.no_properties()

    def property_text(self, column: Value, name: str) -> Value:
        """Its value as text; `true` and `false` for those, JSON for what is nested; NULL when missing."""
        raise self.no_properties()

    def property_json(self, column: Value, name: str) -> Value:
        """Its value as JSON; NULL when missing."""
        raise self.no_properties()

    def no_properties(self) -> ConfigError:
        name = type(self).__name__
        return ConfigError(
            f"properties of a JSON column cannot be read in {name}", "make the property a column, in a view of your own"
        )
