"""Computed traits: one value a user, as JSON text made by the database."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from audience_sync.computations.compile import Compiler
from audience_sync.computations.expressions import has_id, id_text
from audience_sync.computations.occurrences import column_of, events
from audience_sync.computations.properties import Property
from audience_sync.computations.spellings import ROWS
from audience_sync.computations.values import Kind, comparable, json_of, json_of_any, kind_of, rounded, text_of
from audience_sync.config.model import Trait
from audience_sync.config.rules import Occurrence
from audience_sync.errors import ConfigError

Rows = sa.Select[Any]
NUMBERS: tuple[Kind, ...] = ("integer", "number")


def compile_trait(compiler: Compiler, trait: Trait) -> Rows:
    """(user_id, value, other) as `Computation.rows` describes them."""
    compiler.counting, compiler.where = True, trait.name
    if trait.sql is not None:
        return _given(compiler, trait.sql)
    values = _Values(compiler, trait)
    told = getattr(values, trait.function)().subquery("told")
    return sa.select(told.c.user_id, told.c.value, sa.cast(sa.null(), sa.Text).label("other")).where(
        told.c.value.is_not(None)
    )


def _given(compiler: Compiler, sql: str) -> Rows:
    query = compiler.sql(sql, ["user_id", "value"])
    compiler.skip(query, query.c.user_id, [])
    return one_each(values_given(query, compiler.dialect))


def values_given(query: Any, dialect: str, *conditions: ColumnElement[bool]) -> Rows:
    """(user_id, value) of the rows of a user's own SELECT."""
    value = text_of(json_of_any(query.c.value, dialect), dialect)
    columns: list[ColumnElement[Any]] = [id_text(query.c.user_id, dialect).label("user_id"), value.label("value")]
    return sa.select(*columns).where(has_id(query.c.user_id, dialect), query.c.value.is_not(None), *conditions)


def one_each(rows: Any) -> Rows:
    """Rows of (user_id, value) as `Computation.rows` has them: two different values of one user are told by `other`."""
    told = rows.subquery()
    low, high = sa.func.min(told.c.value), sa.func.max(told.c.value)
    return (
        sa.select(told.c.user_id, low.label("value"), sa.case((low != high, high)).label("other"))
        .where(told.c.value.is_not(None))
        .group_by(told.c.user_id)
    )


class _Values:
    """A property's values in the events of a trait; each method of the name of a function selects (user_id, value)."""

    def __init__(self, compiler: Compiler, trait: Trait) -> None:
        self.trait = trait
        self.dialect = dialect = compiler.dialect
        self.found = events(compiler.config, compiler.catalog, trait.event)
        self.where = f"{trait.name}: {trait.function}"
        window = trait.model_dump(include={"within", "between", "since", "until", "where"}, exclude_none=True)
        seen = Occurrence(did=trait.event, **{word: getattr(trait, word) for word in window})
        conditions = compiler.occurrence(seen, self.found)
        compiler.skip(self.found.table, self.found.user_id, conditions)
        columns = [self.found.id_text.label("user_id")]
        self.kind: Kind | None = "integer"
        self.column: ColumnElement[Any] | None = None
        if trait.property is not None:
            column = column_of(compiler.catalog, self.found, trait.property, self.where)
            self.column, self.kind = self._readable(column)
            key = self.column if self.kind is None else comparable(self.column, dialect)
            columns += [key.label("key"), self.column.label("raw"), self.found.at.moment.label("at")]
            conditions = [*conditions, key.is_not(None)]
        self.rows = sa.select(*columns).select_from(self.found.table).where(self.found.has_id, *conditions).subquery()

    def _readable(self, column: ColumnElement[Any] | Property) -> tuple[ColumnElement[Any], Kind | None]:
        """The column, and its kind: None where each value brings its own, as JSON text."""
        if not isinstance(column, Property):
            return column, kind_of(column)
        if self.trait.function in ("sum", "avg", "min", "max"):
            return column.number, "number"
        return column.json, None

    def _json(self, value: ColumnElement[Any], kind: Kind | None) -> ColumnElement[str]:
        return value if kind is None else json_of(value, kind, self.dialect)

    def _grouped(self, value: ColumnElement[Any], kind: Kind | None) -> Rows:
        grouped = sa.select(self.rows.c.user_id, value.label("value")).group_by(self.rows.c.user_id).subquery()
        return sa.select(grouped.c.user_id, self._json(grouped.c.value, kind).label("value"))

    def _numbers_only(self) -> None:
        if self.kind not in NUMBERS:
            raise ConfigError(f"{self.where} asks of numbers, and the column holds others", "name another property")

    def count(self) -> Rows:
        return self._grouped(sa.func.count(), "integer")

    def sum(self) -> Rows:
        self._numbers_only()
        total = sa.func.sum(self.rows.c.raw)
        return self._grouped(total if self.kind == "integer" else rounded(total, self.dialect), self.kind)

    def avg(self) -> Rows:
        self._numbers_only()
        average = sa.func.avg(sa.cast(self.rows.c.raw, sa.Double), type_=sa.Double)
        return self._grouped(rounded(average, self.dialect), "number")

    def min(self) -> Rows:
        return self._extreme(sa.func.min)

    def max(self) -> Rows:
        return self._extreme(sa.func.max)

    def _extreme(self, function: Any) -> Rows:
        if self.kind == "boolean":
            raise ConfigError(f"{self.where} asks of what has an order, and the column holds true or false")
        return self._grouped(function(self.rows.c.key, type_=self.rows.c.key.type), self.kind)

    def unique_count(self) -> Rows:
        return self._grouped(sa.func.count(self.rows.c.key.distinct()), "integer")

    def first(self) -> Rows:
        return self._ranked(self.rows, self.rows.c.at, self.rows.c.key)

    def last(self) -> Rows:
        return self._ranked(self.rows, self.rows.c.at.desc(), self.rows.c.key.desc())

    def most_frequent(self) -> Rows:
        rows = self.rows
        counted = (
            sa.select(rows.c.user_id, rows.c.key, sa.func.count().label("times"))
            .group_by(rows.c.user_id, rows.c.key)
            .subquery()
        )
        return self._ranked(counted, counted.c.times.desc(), counted.c.key)

    def _ranked(self, rows: sa.FromClause, *order: ColumnElement[Any]) -> Rows:
        rank = sa.func.row_number().over(partition_by=rows.c.user_id, order_by=order)
        ranked = sa.select(rows.c.user_id, rows.c.key, rank.label("rank")).subquery()
        return sa.select(ranked.c.user_id, self._json(ranked.c.key, self.kind).label("value")).where(ranked.c.rank == 1)

    def unique_list(self) -> Rows:
        distinct = sa.select(self.rows.c.user_id, self.rows.c.key).distinct().subquery()
        item = self._json(distinct.c.key, self.kind)
        spelling = ROWS[self.dialect]
        lists = spelling.lists(distinct, item).subquery()
        return sa.select(lists.c.user_id, spelling.joined("[", lists.c["items"], "]").label("value"))
