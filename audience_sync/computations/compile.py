"""Rules into SELECTs.

Each rule becomes one set of user ids; `all`, `any` and `not` become INTERSECT, UNION and EXCEPT, so the meaning
of a nested rule is plain set algebra and the database plans it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Select

from audience_sync.computations.catalog import Catalog
from audience_sync.computations.expressions import TimeColumn, has_id, id_text, json_text, lacks_id, meets
from audience_sync.computations.properties import Property
from audience_sync.config.model import Audience, Config, EventTable, MembershipTable, Trait
from audience_sync.config.rules import All, Any_, Did, Has, In, Not, Rule, Tests
from audience_sync.errors import ConfigError

Ids = Select[str]


@dataclass
class Computation:
    """What a sync needs of an audience or trait.

    `rows` selects (user_id, value, other): each user once, value as JSON text (NULL for audiences), and `other`
    a second value of the same user, which is a mistake. `ids` selects an audience's user_id alone, each user once, with
    nothing around it that would hide the order of an index. `skipped` count the rows without a user id.
    """

    key: str
    name: str
    klass: str
    definition: str
    rows: Select[tuple[str, str | None, str | None]]
    skipped: list[Select[int]] = field(default_factory=list)
    ids: Ids | None = None


def compile_computation(config: Config, catalog: Catalog, computed: Audience | Trait, as_of: datetime) -> Computation:
    """Compile one audience or trait at instant `as_of`; ConfigError where the source lacks what it names."""
    compiler = _Compiler(config, catalog, as_of)
    null = sa.cast(sa.null(), sa.Text)
    found: Ids | None = None
    if isinstance(computed, Audience):
        found = compiler.audience(computed, count=True)
        ids = found.subquery()
        rows: Any = sa.select(ids.c.user_id, null.label("value"), null.label("other"))
    else:
        rows = compiler.trait(computed)
    klass = "audience" if isinstance(computed, Audience) else "computed_trait"
    return Computation(computed.key, computed.name, klass, computed.definition, rows, compiler.skipped, found)


class _Compiler:
    def __init__(self, config: Config, catalog: Catalog, as_of: datetime) -> None:
        self.config = config
        self.catalog = catalog
        self.as_of = as_of
        self.dialect = catalog.dialect
        self.skipped: list[Select[int]] = []
        self.counting = False
        self.where = ""

    def audience(self, audience: Audience, *, count: bool) -> Ids:
        outer = self.counting, self.where
        self.counting, self.where = count, audience.name
        try:
            if audience.who is not None:
                return self.rule(audience.who)
            if audience.table is not None:
                return self.members(audience.table)
            query = self.sql(audience.sql or "", ["user_id"])
            return self.ids(query, query.c.user_id, [], distinct=True)
        finally:
            self.counting, self.where = outer

    def trait(self, trait: Trait) -> Any:
        self.counting, self.where = True, trait.name
        query = self.sql(trait.sql, ["user_id", "value"])
        user_id = id_text(query.c.user_id, self.dialect)
        self.skip(query, query.c.user_id, [])
        told = (
            sa.select(user_id.label("user_id"), json_text(query.c.value, self.dialect).label("value"))
            .where(has_id(query.c.user_id, self.dialect), query.c.value.is_not(None))
            .subquery()
        )
        low, high = sa.func.min(told.c.value), sa.func.max(told.c.value)
        return (
            sa.select(told.c.user_id, low.label("value"), sa.case((low != high, high)).label("other"))
            .where(told.c.value.is_not(None))
            .group_by(told.c.user_id)
        )

    # -- the rules --------------------------------------------------------------------------------------------

    def rule(self, rule: Rule) -> Ids:
        if isinstance(rule, Did):
            return self.did(rule)
        if isinstance(rule, Has):
            return self.has(rule)
        if isinstance(rule, In):
            other = self.config.audience(rule.in_)
            assert other is not None, "checked when jobs.yaml was read"
            return self.audience(other, count=False)
        if isinstance(rule, Not):
            return self.combine(sa.except_, [self.everyone(), self.rule(rule.not_)])
        if isinstance(rule, All):
            return self.combine(sa.intersect, [self.rule(part) for part in rule.all_])
        assert isinstance(rule, Any_)
        return self.combine(sa.union, [self.rule(part) for part in rule.any_])

    def did(self, rule: Did) -> Ids:
        events, user_id, conditions = self.events(rule.did)
        json = self.event_source(rule.did)[1].properties
        conditions += self.window(rule, events[1])
        conditions += self.tests(events[0], rule.where, f"{self.where}: where", json)
        count = sa.func.count()
        having: list[ColumnElement[bool]] = []
        if rule.at_least is not None and rule.at_least > 1:
            having.append(count >= rule.at_least)
        if rule.exactly:
            having.append(count == rule.exactly)
        for word in ("sum", "avg", "min", "max"):
            for name, test in (getattr(rule, word) or {}).items():
                column = self.catalog.property(events[0], name, json, f"{self.where}: {word}")
                number = column.number if isinstance(column, Property) else column
                total = getattr(sa.func, word)(number, type_=sa.Float)
                having.append(meets(total, test, self.as_of, self.dialect, f"{self.where}: {word}: {name}"))
        if rule.exactly == 0:
            did = self.ids(events[0], user_id, conditions, distinct=True)
            return self.combine(sa.except_, [self.everyone(), did])
        if rule.at_most is not None:
            too_often = self.ids(events[0], user_id, conditions, having=[count > rule.at_most])
            rest = self.combine(sa.except_, [self.everyone(), too_often])
            if rule.at_least is None:
                return rest
            return self.combine(
                sa.intersect,
                [rest, self.ids(events[0], user_id, conditions, having=having, distinct=not having)],
            )
        return self.ids(events[0], user_id, conditions, having=having, distinct=not having)

    def has(self, rule: Has) -> Ids:
        people = self.config.people
        assert people is not None, "checked when jobs.yaml was read"
        table = self.catalog.table(people.table, "people")
        user_id = self.catalog.column(table, people.user_id, "people")
        return self.ids(table, user_id, self.tests(table, rule.has, f"{self.where}: has", people.traits), distinct=True)

    def members(self, source: MembershipTable) -> Ids:
        table = self.catalog.table(source.name, f"{self.where}: table")
        user_id = self.catalog.column(table, source.user_id, f"{self.where}: table")
        return self.ids(table, user_id, self.tests(table, source.where, f"{self.where}: table: where"), distinct=True)

    def everyone(self) -> Ids:
        """Everyone known: all of `people`, or, without it, all who did anything up to T."""
        people = self.config.people
        if people is not None:
            table = self.catalog.table(people.table, "people")
            column = self.catalog.column(table, people.user_id, "people")
            return self.ids(table, column, [], distinct=True, count=False)
        parts = []
        seen = set()
        for name, source in self.config.events.items():
            if (source.table, source.user_id, source.at) in seen:
                continue
            seen.add((source.table, source.user_id, source.at))
            table, user_id, at = self.event_table(name, source)
            parts.append(
                self.ids(
                    table,
                    user_id,
                    [TimeColumn(at, self.dialect).until(self.as_of)],
                    distinct=True,
                    count=False,
                )
            )
        if not parts:
            raise ConfigError(
                f"{self.where}: not, at_most and exactly: 0 need to know everyone",
                "add people: or events: to jobs.yaml",
            )
        return self.combine(sa.union, parts)

    # -- their parts ------------------------------------------------------------------------------------------

    def event_table(self, name: str, source: EventTable) -> tuple[sa.Table, ColumnElement[Any], ColumnElement[Any]]:
        where = f"events: {name}"
        table = self.catalog.table(source.table, where)
        return (
            table,
            self.catalog.column(table, source.user_id, where),
            self.catalog.column(table, source.at, where),
        )

    def event_source(self, event: str) -> tuple[str, EventTable]:
        name = event if event in self.config.events else "*"
        return name, self.config.events[name]

    def events(
        self, event: str
    ) -> tuple[tuple[sa.Table, ColumnElement[Any]], ColumnElement[Any], list[ColumnElement[bool]]]:
        name, source = self.event_source(event)
        table, user_id, at = self.event_table(name, source)
        conditions: list[ColumnElement[bool]] = []
        if source.name is not None:
            conditions.append(self.catalog.column(table, source.name, f"events: {name}") == event)
        return (table, at), user_id, conditions

    def window(self, rule: Did, at: ColumnElement[Any]) -> list[ColumnElement[bool]]:
        """An event at t is within W of T when T − W < t ≤ T; nothing after T is seen."""
        times = TimeColumn(at, self.dialect)
        latest = self.as_of
        conditions = []
        if rule.within is not None:
            conditions.append(times.after(rule.within.before(self.as_of)))
        if rule.between is not None:
            instants = sorted(duration.before(self.as_of) for duration in rule.between)
            conditions.append(times.after(instants[0]))
            latest = min(latest, instants[1])
        if rule.since is not None:
            conditions.append(times.since(rule.since))
        if rule.until is not None:
            latest = min(latest, rule.until)
        return [*conditions, times.until(latest)]

    def tests(
        self, table: sa.Table, tests: Tests | None, where: str, json: str | None = None
    ) -> list[ColumnElement[bool]]:
        return [
            meets(self.catalog.property(table, name, json, where), test, self.as_of, self.dialect, f"{where}: {name}")
            for name, test in (tests or {}).items()
        ]

    def ids(
        self,
        table: sa.FromClause,
        user_id: ColumnElement[Any],
        conditions: list[ColumnElement[bool]],
        *,
        having: list[ColumnElement[bool]] | None = None,
        distinct: bool = False,
        count: bool = True,
    ) -> Ids:
        if count:
            self.skip(table, user_id, conditions)
        text = id_text(user_id, self.dialect)
        query = sa.select(text.label("user_id")).select_from(table).where(has_id(user_id, self.dialect), *conditions)
        if distinct:
            return query.distinct()
        return query.group_by(text).having(sa.and_(*(having or [sa.true()])))

    def skip(self, table: sa.FromClause, user_id: ColumnElement[Any], conditions: list[ColumnElement[bool]]) -> None:
        if self.counting:
            self.skipped.append(
                sa.select(sa.func.count()).select_from(table).where(lacks_id(user_id, self.dialect), *conditions)
            )

    def combine(self, operation: Any, parts: list[Ids]) -> Ids:
        if len(parts) == 1:
            return parts[0]
        # Each part stands in a subquery of its own: SQLite has no parentheses around the arms of a compound.
        arms = [sa.select(part.subquery().c.user_id) for part in parts]
        return sa.select(operation(*arms).subquery().c.user_id)

    def sql(self, text: str, columns: list[str]) -> Any:
        """A user's own SELECT as a subquery. `:as_of` in it is T; every other colon is left as it stands."""
        body = text.strip().rstrip(";").strip()
        escaped = re.sub(r"::|:(?!as_of\b)", lambda colons: colons[0].replace(":", r"\:"), body)
        clause = sa.text(escaped + "\n")
        if re.search(r"(?<![:\w\\]):as_of\b", escaped):
            value: Any = self.as_of
            if self.dialect == "sqlite":
                value = self.as_of.strftime("%Y-%m-%d %H:%M:%S")
            clause = clause.bindparams(as_of=value)
        return clause.columns(*[sa.column(name) for name in columns]).subquery("given")
