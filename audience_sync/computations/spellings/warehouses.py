"""The warehouses. Each page linked here is where a spelling was taken from."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from audience_sync.computations.spellings.base import FINER, ISO_TIME, PLACES, Spelling, Value, is_time, naive

_COMMA: Value = sa.literal_column("','")  # several take no parameter there
_SCALE: Value = sa.literal_column(str(PLACES))
_ENDLESS = ("nan", "-nan", "inf", "-inf", "infinity", "-infinity")
_ZONE_HOURS, _ZONE_MINUTES = r"(:\d\d(?:\.\d+)?) ?([+-]\d\d)$", r"(:\d\d(?:\.\d+)?) ?([+-]\d\d):?(\d\d)$"


class _Micros(sa.DateTime):
    """A timestamp to the microsecond, where the type alone would be to the millisecond."""

    precision = 6


class _Warehouse(Spelling):
    """What several warehouses share."""

    def moment(self, instant: datetime) -> Value:
        return sa.cast(sa.literal(naive(instant), self.moment_type), self.moment_type)

    def matches(self, text: Value, pattern: str) -> ColumnElement[bool]:
        return sa.func.regexp_like(text, pattern)

    def without_zeros(self, text: Value) -> Value:
        return sa.func.regexp_replace(text, "[.]?0+$", "")

    def earlier(self, moment: Value, months: int, seconds: int) -> Value:
        unit, count = ("MONTH", months) if months else ("SECOND", seconds)
        return sa.func.timestampadd(sa.text(unit), -count, moment, type_=self.moment_type)

    def list_of(self, item: Value, key: Value) -> Value:
        return sa.func.listagg(self.text(item), _COMMA).within_group(key)

    def cast_or_null(self, value: Value, kind: str) -> Value:
        """A cast that gives NULL where the value is none of this type; SQLAlchemy spells it for few."""
        return sa.func.try_cast(value.op("AS")(sa.text(kind)))

    def micros(self, column: Value) -> Value:
        """Seconds since 1970 as whole microseconds."""
        return sa.cast(sa.func.round(column * 1_000_000), sa.BigInteger)

    def quoted(self, text: Value) -> Value:
        return self.json_text(text)

    def is_endless(self, value: Value, text: Value) -> ColumnElement[bool]:
        # Where a type cannot be asked, a text of these words is taken for such a number.
        return sa.func.lower(text).in_([*_ENDLESS, *(f'"{word}"' for word in _ENDLESS)])


class Spark(_Warehouse):
    """Spark SQL and Databricks, with the session's zone in UTC and ANSI mode on.

    https://spark.apache.org/docs/latest/api/sql/
    https://docs.databricks.com/aws/en/sql/language-manual/sql-ref-functions-builtin
    """

    def contains(self, text: Value, part: str) -> ColumnElement[bool]:
        return sa.func.instr(text, sa.literal(part, sa.Text)) > 0

    def moment_of_number(self, column: Value) -> Value:
        return sa.cast(sa.func.timestamp_micros(self.micros(column)), self.moment_type)

    def moment_of_text(self, column: Value) -> Value:
        # A cast alone takes the year 2024, and 12:30 of today, for times too.
        read = sa.case((self.matches(column, ISO_TIME), self.cast_or_null(column, "TIMESTAMP")), else_=sa.null())
        return sa.cast(read, self.moment_type)

    def moment_of_zoned(self, column: Value) -> Value:
        return sa.cast(column, self.moment_type)

    def month_and_day(self, moment: Value) -> Value:
        return sa.func.date_format(moment, "MM-dd")

    def iso(self, moment: Value) -> Value:
        return sa.func.date_format(moment, "yyyy-MM-dd'T'HH:mm:ss.SSSSSS")

    def json_text(self, value: Value) -> Value:
        """It is written in an array, which is then taken off."""
        text = sa.func.to_json(sa.func.array(value))
        return sa.func.substr(text, 2, sa.func.length(text) - 2)

    def is_endless(self, value: Value, text: Value) -> ColumnElement[bool]:
        real = sa.func.typeof(value).in_(["double", "float"])
        return sa.and_(real, sa.func.lower(self.text(value)).in_(_ENDLESS))  # which in JSON are texts


class Snowflake(_Warehouse):
    """https://docs.snowflake.com/en/sql-reference/functions-all"""

    def matches(self, text: Value, pattern: str) -> ColumnElement[bool]:
        return sa.func.regexp_like(text, pattern.strip("^$"))  # of the whole text

    def contains(self, text: Value, part: str) -> ColumnElement[bool]:
        return sa.func.charindex(sa.literal(part, sa.Text), text) > 0

    def moment_of_number(self, column: Value) -> Value:
        return sa.func.to_timestamp_ntz(self.micros(column), _SCALE, type_=sa.DateTime)

    def moment_of_text(self, column: Value) -> Value:
        read = sa.case((self.matches(column, ISO_TIME), sa.func.try_to_timestamp_tz(column)), else_=sa.null())
        return self.moment_of_zoned(read)

    def moment_of_zoned(self, column: Value) -> Value:
        return sa.cast(sa.func.convert_timezone("UTC", column), self.moment_type)

    def iso(self, moment: Value) -> Value:
        return sa.func.to_char(moment, 'YYYY-MM-DD"T"HH24:MI:SS.FF6')

    def json_text(self, value: Value) -> Value:
        return sa.func.to_json(sa.func.to_variant(value))

    def is_endless(self, value: Value, text: Value) -> ColumnElement[bool]:
        real = sa.func.typeof(sa.func.to_variant(value)) == "DOUBLE"
        return sa.and_(real, sa.func.lower(self.text(value)).in_(_ENDLESS))


class Redshift(_Warehouse):
    """https://docs.aws.amazon.com/redshift/latest/dg/c_SQL_functions.html"""

    def text(self, value: Value) -> Value:
        return sa.cast(value, sa.String(65535))  # where TEXT is 256 bytes

    def matches(self, text: Value, pattern: str) -> ColumnElement[bool]:
        return text.regexp_match(pattern)

    def earlier(self, moment: Value, months: int, seconds: int) -> Value:
        unit, count = ("MONTH", months) if months else ("SECOND", seconds)
        return sa.func.dateadd(sa.text(unit), -count, moment, type_=self.moment_type)

    def moment_of_number(self, column: Value) -> Value:
        start = sa.cast(sa.literal("1970-01-01", sa.Text), self.moment_type)
        return start.op("+", return_type=sa.DateTime())(column * sa.text("INTERVAL '1 second'"))

    def json_text(self, value: Value) -> Value:
        return sa.func.json_serialize(value.op("::")(sa.text("super")))


class Trino(_Warehouse):
    """https://trino.io/docs/current/functions.html"""

    moment_type = _Micros

    def ends_with(self, text: Value, part: str) -> ColumnElement[bool]:
        return sa.func.substr(text, -len(part)) == sa.literal(part, sa.Text)

    def earlier(self, moment: Value, months: int, seconds: int) -> Value:
        unit, count = ("month", months) if months else ("second", seconds)
        return sa.func.date_add(unit, -count, moment, type_=self.moment_type)

    def moment_of_number(self, column: Value) -> Value:
        return sa.cast(sa.func.from_unixtime_nanos(self.micros(column) * 1000), self.moment_type)

    def moment_of_text(self, column: Value) -> Value:
        """Trino reads `2026-01-31 06:30:00 +02:00`."""
        spelled = sa.func.replace(sa.func.replace(column, "T", " "), "Z", " UTC")
        spelled = sa.func.regexp_replace(spelled, _ZONE_HOURS, "$1 $2:00")
        spelled = sa.func.regexp_replace(spelled, _ZONE_MINUTES, "$1 $2:$3")
        read = self.cast_or_null(spelled, "TIMESTAMP(6) WITH TIME ZONE")
        return self.moment_of_zoned(sa.case((self.matches(column, ISO_TIME), read), else_=sa.null()))

    def moment_of_zoned(self, column: Value) -> Value:
        return sa.cast(sa.func.at_timezone(column, "UTC"), self.moment_type)

    def month_and_day(self, moment: Value) -> Value:
        return sa.func.substr(self.text(moment), 6, 5)

    def iso(self, moment: Value) -> Value:
        return sa.func.replace(self.text(moment), " ", "T")  # date_format has milliseconds at most

    def json_text(self, value: Value) -> Value:
        return sa.func.json_format(sa.cast(value, sa.JSON))

    def is_endless(self, value: Value, text: Value) -> ColumnElement[bool]:
        real = sa.func.typeof(value).in_(["double", "real"])
        return sa.and_(real, sa.func.lower(self.text(value)).in_(_ENDLESS))


class BigQuery(_Warehouse):
    """A moment is a DATETIME; TIMESTAMP is the type with a zone.

    https://cloud.google.com/bigquery/docs/reference/standard-sql/functions-all
    """

    def matches(self, text: Value, pattern: str) -> ColumnElement[bool]:
        return sa.func.regexp_contains(text, pattern)

    def cast_or_null(self, value: Value, kind: str) -> Value:
        return sa.func.safe_cast(value.op("AS")(sa.text(kind)))

    def earlier(self, moment: Value, months: int, seconds: int) -> Value:
        span = f"INTERVAL {months} MONTH" if months else f"INTERVAL {seconds} SECOND"
        return sa.func.datetime_sub(moment, sa.text(span), type_=self.moment_type)

    def list_of(self, item: Value, key: Value) -> Value:
        return sa.func.string_agg(item, ",").aggregate_order_by(key)

    def rounded(self, number: Value) -> Value:
        return sa.func.round(sa.cast(number, sa.Numeric), PLACES, type_=sa.Numeric)  # it has FINER decimals

    def decimal_text(self, number: Value) -> Value:
        return self.text(sa.cast(number, sa.Numeric))  # without zeros by its nature

    def has_zone(self, column: Value) -> bool:
        return isinstance(column.type, sa.TIMESTAMP)

    def moment_of_number(self, column: Value) -> Value:
        return sa.func.datetime(sa.func.timestamp_micros(self.micros(column)), type_=sa.DateTime)

    def moment_of_text(self, column: Value) -> Value:
        spelled = sa.func.regexp_replace(column, _ZONE_MINUTES, r"\1\2:\3")
        read = self.cast_or_null(spelled, "TIMESTAMP")
        return sa.func.datetime(sa.case((self.matches(column, ISO_TIME), read), else_=sa.null()), type_=sa.DateTime)

    def moment_of_zoned(self, column: Value) -> Value:
        return sa.func.datetime(column, type_=sa.DateTime)

    def compared(self, column: Value, operator: str, instant: datetime) -> ColumnElement[bool]:
        found: ColumnElement[bool]
        if self.has_zone(column):
            moment = sa.cast(sa.literal(instant, sa.TIMESTAMP), sa.TIMESTAMP)
            found = getattr(column, operator)(moment)
        else:
            left = column if type(column.type) in (sa.DateTime, sa.DATETIME) else self.moment_of(column)
            found = getattr(left, operator)(self.moment(instant))
        return found

    def month_and_day(self, moment: Value) -> Value:
        return sa.func.format_datetime("%m-%d", moment)

    def iso(self, moment: Value) -> Value:
        return sa.func.format_datetime("%Y-%m-%dT%H:%M:%E6S", moment)

    def json_text(self, value: Value) -> Value:
        return sa.func.to_json_string(value)


class ClickHouse(_Warehouse):
    """A moment is a DateTime64(6, 'UTC'). Texts are bytes, of which UTF-8 text is compared as it should be.

    https://clickhouse.com/docs/sql-reference/functions
    """

    def text(self, value: Value) -> Value:
        return sa.func.toString(value, type_=sa.Text)  # which keeps NULL, as a cast does not

    def matches(self, text: Value, pattern: str) -> ColumnElement[bool]:
        return sa.func.match(text, pattern)

    def contains(self, text: Value, part: str) -> ColumnElement[bool]:
        return sa.func.position(text, sa.literal(part, sa.Text)) > 0

    def starts_with(self, text: Value, part: str) -> ColumnElement[bool]:
        return sa.func.startsWith(text, sa.literal(part, sa.Text))

    def ends_with(self, text: Value, part: str) -> ColumnElement[bool]:
        return sa.func.endsWith(text, sa.literal(part, sa.Text))

    def without_zeros(self, text: Value) -> Value:
        return sa.func.replaceRegexpOne(text, "[.]?0+$", "")

    def rounded(self, number: Value) -> Value:
        # By way of text: a float into a decimal is cut off, not rounded.
        finer = sa.func.toString(sa.func.round(number, FINER))
        return sa.func.round(sa.func.toDecimal128OrNull(finer, FINER), PLACES, type_=sa.Numeric)

    def decimal_text(self, number: Value) -> Value:
        return self.text(number)  # without zeros by its nature

    def moment(self, instant: datetime) -> Value:
        return self._exact(sa.literal(naive(instant).isoformat(" ", "microseconds"), sa.Text))

    def _exact(self, value: Value) -> Value:
        return sa.func.toDateTime64(value, _SCALE, "UTC", type_=sa.DateTime)

    def moment_of(self, column: Value) -> Value:
        return self._exact(column) if is_time(column) else super().moment_of(column)

    def moment_of_number(self, column: Value) -> Value:
        micros = sa.func.toInt64(sa.func.round(column * 1_000_000))
        return sa.func.fromUnixTimestamp64Micro(micros, "UTC", type_=sa.DateTime)

    def moment_of_text(self, column: Value) -> Value:
        read = sa.func.parseDateTime64BestEffortOrNull(column, _SCALE, "UTC")
        return sa.case((self.matches(column, ISO_TIME), read), else_=sa.null())

    def compared(self, column: Value, operator: str, instant: datetime) -> ColumnElement[bool]:
        left = column if is_time(column) else self.moment_of(column)  # an instant is an instant in every zone
        found: ColumnElement[bool] = getattr(left, operator)(self.moment(instant))
        return found

    def month_and_day(self, moment: Value) -> Value:
        return sa.func.formatDateTime(moment, "%m-%d")

    def earlier(self, moment: Value, months: int, seconds: int) -> Value:
        if months:
            return sa.func.subtractMonths(moment, months, type_=sa.DateTime)
        return sa.func.subtractSeconds(moment, seconds, type_=sa.DateTime)

    def iso(self, moment: Value) -> Value:
        return sa.func.formatDateTime(moment, "%Y-%m-%dT%H:%i:%S.%f")

    def json_text(self, value: Value) -> Value:
        return sa.func.toJSONString(value)

    def is_endless(self, value: Value, text: Value) -> ColumnElement[bool]:
        return text == "null"

    def list_of(self, item: Value, key: Value) -> Value:
        pairs = sa.func.arraySort(sa.func.groupArray(sa.func.tuple(key, item)))
        return sa.func.arrayStringConcat(sa.func.arrayMap(sa.text("pair -> pair.2"), pairs), ",")
