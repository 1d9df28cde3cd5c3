"""Rules into SELECTs.

Each rule becomes one set of user ids; `all`, `any` and `not` become INTERSECT, UNION and EXCEPT, so the meaning
of a nested rule is plain set algebra and the database plans it. Rules of one `all` or `any` that count events of one
table share a single pass over it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Select

from audience_sync.computations.catalog import Catalog
from audience_sync.computations.expressions import has_id, id_text, lacks_id, meets
from audience_sync.computations.occurrences import Events, column_of, events, in_window, tested
from audience_sync.computations.properties import Property
from audience_sync.computations.sequences import in_order
from audience_sync.computations.spellings import ROWS
from audience_sync.computations.times import TimeColumn
from audience_sync.computations.values import kind_of, rounded
from audience_sync.config.model import Audience, Config, MembershipTable
from audience_sync.config.rules import All, Any_, Did, First, Has, In, Last, Not, Occurrence, Rule, Then
from audience_sync.errors import ConfigError

Ids = Select[str]
TOTALS = ("sum", "avg", "min", "max")


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
    rule: str | None = None
    """The rule as text, for `earlier` of a later sync; None where it cannot be asked again."""
    earlier: Callable[[str], Ids | None] | None = None
    """The user ids of an earlier rule at this instant."""
    follower: Any = None
    """An `incremental.Follower` or a `changed.ChangedRows`, where not everyone need be compared each time."""
    shared: Computation | None = None
    """The same, reading what several computations of its job read from tables that must be filled before."""
    reads: Sequence[SharedSet] = ()
    """Of a `shared` one: what it needs, each after those that it needs itself."""


@dataclass(frozen=True, eq=False)
class SharedSet:
    """A temporary table and the `rows` that it is to hold, which may be read from other such tables."""

    key: str
    place: str
    """What stands before the error of its own when it is told of one that reads it."""
    table: sa.Table
    rows: Select[Any]


class Compiler:
    """Compiles what one configuration says at one instant T; ConfigError where the source lacks what it names."""

    def __init__(self, config: Config, catalog: Catalog, as_of: datetime, prefix: str = "set") -> None:
        self.config = config
        self.holds_sql = False
        """Whether a user's own SQL is in what was compiled."""
        self.prefix = prefix
        self.catalog = catalog
        self.as_of = as_of
        self.dialect = catalog.dialect
        self.skipped: list[Select[int]] = []
        self.counting = False
        self.where = ""
        self._names = 0
        self._once: dict[str, sa.CTE] = {}

    def audience(self, audience: Audience, *, count: bool) -> Ids:
        outer = self.counting, self.where
        self.counting, self.where = count, audience.name
        try:
            if audience.who is not None:
                return self.rule(audience.who)
            if audience.table is not None:
                return self.members(audience.table)
            query = self.sql(audience.sql or "", ["user_id"])
            return self.ids(query, query.c.user_id, [])
        finally:
            self.counting, self.where = outer

    def rule(self, rule: Rule) -> Ids:
        if isinstance(rule, Did):
            return self.did(rule)
        if isinstance(rule, Has):
            return self.has(rule)
        if isinstance(rule, In):
            return self.members_of(rule.in_)
        if isinstance(rule, (First, Last)):
            return self.first_or_last(rule)
        if isinstance(rule, Then):
            return self.then(rule)
        if isinstance(rule, Not):
            return self.combine(sa.except_, [self.everyone(), self.rule(rule.not_)])
        if isinstance(rule, All):
            return self.combine(sa.intersect, self.parts(rule.all_, every=True))
        assert isinstance(rule, Any_)
        return self.combine(sa.union, self.parts(rule.any_, every=False))

    def parts(self, rules: Sequence[Rule], *, every: bool) -> list[Ids]:
        """A set for each rule, but one for all those that count events of one table."""
        together: dict[Any, list[Did]] = {}
        found = []
        for rule in rules:
            if isinstance(rule, Did) and self.joins(rule):
                at = events(self.config, self.catalog, rule.did)
                together.setdefault((at.table, at.user_id, at.at.column), []).append(rule)
            else:
                found.append(self.rule(rule))
        for dids in together.values():
            found.append(self.did(dids[0]) if len(dids) == 1 else self.counted(dids, every=every))
        return found

    def joins(self, rule: Did) -> bool:
        """Whether a rule is counted together with others of its table."""
        return _needs_one(rule)

    def did(self, rule: Did) -> Ids:
        if _needs_one(rule):
            return self.counted([rule], every=True)
        # at_most and exactly: 0 hold of those, too, who have no row to count
        most = rule.exactly if rule.exactly is not None else rule.at_most
        too_often = self.counted([Did(did=rule.did, at_least=(most or 0) + 1, **_window_of(rule))], every=True)
        return self.combine(sa.except_, [self.everyone(), too_often])

    def counted(self, rules: Sequence[Did], *, every: bool) -> Ids:
        """Users of whose events all (or any) of the rules hold, in one pass over the table of the events."""
        found = [(rule, events(self.config, self.catalog, rule.did)) for rule in rules]
        table, user_id = found[0][1].table, found[0][1].user_id
        conditions = [sa.and_(*self.occurrence(rule, at)) for rule, at in found]
        numbers = [self.numbers(rule, at) for rule, at in found]
        if len(rules) == 1:
            having = self.having(rules[0], numbers[0], None)
            return self.ids(table, user_id, conditions, having=sa.and_(*having) if having else None)
        # What a row counts for is found once and by name: said again in each total, it is too deep for SQLite's parser.
        columns: list[ColumnElement[Any]] = []
        for n, condition in enumerate(conditions):
            columns.append(sa.case((condition, 1)).label(f"counts_{n}"))
            for m, number in enumerate(numbers[n].values()):
                columns.append(sa.case((condition, number)).label(f"number_{n}_{m}"))
        rows = self.named(self.matching(table, user_id, [sa.or_(*conditions)], columns)).c
        wholes = []
        for n, rule in enumerate(rules):
            named = {place: rows[f"number_{n}_{m}"] for m, place in enumerate(numbers[n])}
            wholes.append(sa.and_(*self.having(rule, named, rows[f"counts_{n}"])))
        together = sa.and_(*wholes) if every else sa.or_(*wholes)
        return sa.select(rows.user_id).group_by(rows.user_id).having(together)

    def numbers(self, rule: Did, at: Events) -> dict[tuple[str, str], ColumnElement[Any]]:
        """What the rule's totals are of, by total and property."""
        found = {}
        for word in TOTALS:
            for name in getattr(rule, word) or {}:
                where = f"{self.where}: {word}: {name}"
                column = column_of(self.catalog, at, name, f"{self.where}: {word}")
                number = column.number if isinstance(column, Property) else column
                if kind_of(number) not in ("integer", "number"):
                    raise ConfigError(
                        f"{where}: {word} asks of numbers, and the column holds others", "name another property"
                    )
                found[word, name] = number
        return found

    def having(
        self, rule: Did, numbers: Mapping[tuple[str, str], ColumnElement[Any]], counts: ColumnElement[Any] | None
    ) -> list[ColumnElement[bool]]:
        """What must hold of a user's events; `counts` is given of those of this rule, where others are in the group."""
        count: ColumnElement[Any] = sa.func.count() if counts is None else sa.func.count(counts)
        found: list[ColumnElement[bool]] = []
        least = rule.exactly if rule.exactly is not None else rule.at_least or 1
        if rule.exactly is not None:
            found.append(count == least)
        elif least > 1 or counts is not None:
            found.append(count >= least)
        if rule.at_most is not None:
            found.append(count <= rule.at_most)
        for (word, name), number in numbers.items():
            test, where = getattr(rule, word)[name], f"{self.where}: {word}: {name}"
            found.append(meets(self.total(word, number), test, self.as_of, self.dialect, where))
        return found

    def total(self, word: str, number: ColumnElement[Any]) -> ColumnElement[Any]:
        """`sum`, `avg`, `min` or `max` of a number, as it is compared."""
        if word in ("sum", "avg"):
            number = sa.cast(number, sa.Double)
        return sa.type_coerce(rounded(getattr(sa.func, word)(number, type_=sa.Double), self.dialect), sa.Double)

    def first_or_last(self, rule: First | Last) -> Ids:
        """The first (or last) occurrence up to T of each user, and whether it is in the window: one pass."""
        wanted, word = (rule.first, "min") if isinstance(rule, First) else (rule.last, "max")
        found = events(self.config, self.catalog, wanted.did)
        seen = Occurrence(did=wanted.did, where=wanted.where)
        edge = TimeColumn(
            getattr(sa.func, word)(found.at.moment, type_=found.at.moment.type), self.dialect, canonical=True
        )
        return self.ids(
            found.table,
            found.user_id,
            self.occurrence(seen, found),
            having=sa.and_(*in_window(wanted, edge, self.as_of)),
        )

    def then(self, rule: Then) -> Ids:
        steps = []
        for number, step in enumerate(rule.then):
            found = events(self.config, self.catalog, step.did)
            # the window of a later step is measured from the step before it, not from T
            seen = step if number == 0 else step.model_copy(update={"within": None})
            conditions = self.occurrence(seen, found)
            self.skip(found.table, found.user_id, conditions)
            steps.append(
                (
                    sa.select(found.id_text.label("user_id"), found.at.moment.label("at"))
                    .select_from(found.table)
                    .where(found.has_id, *conditions),
                    None if number == 0 else step.within,
                )
            )
        return in_order(steps, self.named, self.dialect)

    def occurrence(self, rule: Occurrence, found: Events) -> list[ColumnElement[bool]]:
        """What a row of the events' table must meet."""
        where = f"{self.where}: where"
        tests = tested(self.catalog, found.table, rule.where, self.as_of, where, found.properties)
        return [*found.named, *in_window(rule, found.at, self.as_of), *tests]

    def has(self, rule: Has) -> Ids:
        people = self.config.people
        assert people is not None, "checked when jobs.yaml was read"
        table = self.catalog.table(people.table, "people")
        user_id = self.catalog.column(table, people.user_id, "people")
        tests = tested(self.catalog, table, rule.has, self.as_of, f"{self.where}: has", people.traits)
        return self.ids(table, user_id, tests)

    def members(self, source: MembershipTable) -> Ids:
        table = self.catalog.table(source.name, f"{self.where}: table")
        user_id = self.catalog.column(table, source.user_id, f"{self.where}: table")
        tests = tested(self.catalog, table, source.where, self.as_of, f"{self.where}: table: where", None)
        return self.ids(table, user_id, tests)

    def members_of(self, name: str) -> Ids:
        """Another audience at the same T: one common table expression, however often it is named."""
        other = self.config.audience(name)
        assert other is not None, "checked when jobs.yaml was read"
        if other.key not in self._once:
            self._once[other.key] = self.named(self.audience(other, count=False))
        return sa.select(self._once[other.key].c.user_id)

    def everyone(self) -> Ids:
        """Everyone known: all of `people`, or, without it, all who did anything up to T."""
        if "" not in self._once:
            self._once[""] = self.named(self._everyone())
        return sa.select(self._once[""].c.user_id)

    def _everyone(self) -> Ids:
        people = self.config.people
        if people is not None:
            table = self.catalog.table(people.table, "people")
            return self.ids(table, self.catalog.column(table, people.user_id, "people"), [], count=False)
        parts = []
        seen = set()
        for name, source in self.config.events.items():
            if (source.table, source.user_id, source.at) in seen:
                continue
            seen.add((source.table, source.user_id, source.at))
            found = events(self.config, self.catalog, name)
            parts.append(self.ids(found.table, found.user_id, [found.at.until(self.as_of)], count=False))
        if not parts:
            raise ConfigError(
                f"{self.where}: not, at_most and exactly: 0 need to know everyone",
                "add people: or events: to jobs.yaml",
            )
        return self.combine(sa.union, parts)

    def ids(
        self,
        table: sa.FromClause,
        user_id: ColumnElement[Any],
        conditions: Sequence[ColumnElement[bool]],
        *,
        having: ColumnElement[bool] | None = None,
        count: bool = True,
    ) -> Ids:
        """The ids of the rows that meet the conditions, each once; with `having`, of the users whose rows meet it."""
        query = self.matching(table, user_id, conditions, count=count)
        return query.distinct() if having is None else query.group_by(id_text(user_id, self.dialect)).having(having)

    def matching(
        self,
        table: sa.FromClause,
        user_id: ColumnElement[Any],
        conditions: Sequence[ColumnElement[bool]],
        columns: Sequence[ColumnElement[Any]] = (),
        *,
        count: bool = True,
    ) -> Select[Any]:
        """The rows that meet the conditions: whose they are, and these columns."""
        if count:
            self.skip(table, user_id, conditions)
        text = id_text(user_id, self.dialect).label("user_id")
        return sa.select(text, *columns).select_from(table).where(has_id(user_id, self.dialect), *conditions)

    def skip(
        self, table: sa.FromClause, user_id: ColumnElement[Any], conditions: Sequence[ColumnElement[bool]]
    ) -> None:
        if self.counting:
            self.skipped.append(
                sa.select(sa.func.count()).select_from(table).where(lacks_id(user_id, self.dialect), *conditions)
            )

    def combine(self, operation: Any, parts: list[Ids]) -> Ids:
        if len(parts) == 1:
            return parts[0]
        return sa.select(self.named(operation(*[sa.select(self.named(part).c.user_id) for part in parts])).c.user_id)

    def named(self, query: Any) -> sa.CTE:
        """The query under a name of its own: however deep the rules, the statement stays flat. SQLite's parser gives up
        on deep ones, and has no parentheses around the arms of a compound."""
        self._names += 1
        found: sa.CTE = query.cte(f"{self.prefix}_{self._names}")
        return found

    def sql(self, text: str, columns: list[str]) -> Any:
        """A user's own SELECT as a subquery. `:as_of` in it is T; every other colon is left as it stands."""
        self.holds_sql = True
        body = text.strip().rstrip(";").strip()
        escaped = re.sub(r"::|:(?!as_of\b)", lambda colons: colons[0].replace(":", r"\:"), body)
        clause = sa.text(escaped + "\n")
        if re.search(r"(?<![:\w\\]):as_of\b", escaped):
            clause = clause.bindparams(as_of=ROWS[self.dialect].as_of(self.as_of))
        return clause.columns(*[sa.column(name) for name in columns]).subquery("given")


def without_values(ids: Ids) -> Select[Any]:
    """An audience's ids as `Computation.rows` has them."""
    members, null = ids.subquery(), sa.cast(sa.null(), sa.Text)
    return sa.select(members.c.user_id, null.label("value"), null.label("other"))


def _needs_one(rule: Did) -> bool:
    """Whether the rule holds only of users who have such an event: not so for `exactly: 0` and a bare `at_most`."""
    return rule.exactly != 0 and (rule.at_most is None or rule.at_least is not None)


def _window_of(rule: Did) -> dict[str, Any]:
    return {
        word: getattr(rule, word)
        for word in ("within", "between", "since", "until", "where")
        if getattr(rule, word) is not None
    }
