"""PostgreSQL, and DuckDB, which follows it in most."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from audience_sync.computations.spellings.base import FINER, PLACES, Spelling, Value


class PostgreSQL(Spelling):
    temporary_tables = True

    def to_the_letter(self, text: Value) -> Value:
        return sa.collate(text, "C")

    def rounded(self, number: Value) -> Value:
        return sa.func.round(sa.func.round(sa.cast(number, sa.Numeric), FINER), PLACES, type_=sa.Numeric)

    def decimal_text(self, number: Value) -> Value:
        return self.text(sa.func.trim_scale(number))

    def is_endless(self, value: Value, text: Value) -> sa.ColumnElement[bool]:
        # to_json makes the text "NaN" of a number that is none; it is no value, and is not told.
        numeric = self.text(sa.func.pg_typeof(value)).in_(["double precision", "real", "numeric"])
        return sa.and_(numeric, self.text(value).in_(["NaN", "Infinity", "-Infinity"]))

    def earlier(self, moment: Value, months: int, seconds: int) -> Value:
        span = sa.func.make_interval(0, months, 0, 0, 0, 0, sa.cast(sa.literal(seconds, sa.BigInteger), sa.Double))
        return moment.op("-", return_type=sa.DateTime())(span)

    def property_number(self, column: Value, name: str) -> Value:
        found = sa.cast(column, JSONB)[name]
        number = sa.case((sa.func.jsonb_typeof(found) == "number", sa.cast(found.astext, sa.Double)))
        return sa.type_coerce(number, sa.Double)

    def property_text(self, column: Value, name: str) -> Value:
        found: Value = sa.cast(column, JSONB)[name].astext
        return found

    def property_json(self, column: Value, name: str) -> Value:
        found = sa.cast(column, JSONB)[name]
        kind = sa.func.jsonb_typeof(found)
        number = self.text(sa.func.trim_scale(sa.cast(found.astext, sa.Numeric)))
        return sa.case((kind == "null", sa.null()), (kind == "number", number), else_=self.text(found))


class DuckDB(Spelling):
    temporary_tables = True

    def is_endless(self, value: Value, text: Value) -> sa.ColumnElement[bool]:
        return sa.func.lower(text).in_(["nan", "-nan", "inf", "-inf", "infinity", "-infinity"])  # text is quoted

    def moment_of_text(self, column: Value) -> Value:
        return sa.func.timezone("UTC", sa.try_cast(column, sa.DateTime(timezone=True)), type_=sa.DateTime)

    def month_and_day(self, moment: Value) -> Value:
        return sa.func.strftime(moment, "%m-%d")

    def earlier(self, moment: Value, months: int, seconds: int) -> Value:
        span = sa.func.to_months(months) if months else sa.func.to_seconds(seconds)
        return moment.op("-", return_type=sa.DateTime())(span)

    def iso(self, moment: Value) -> Value:
        return sa.func.strftime(moment, "%Y-%m-%dT%H:%M:%S.%f")
