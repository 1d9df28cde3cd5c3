"""Why one user is in an audience or not: each condition of the rule asked of them alone, with the numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.computations.catalog import Catalog
from audience_sync.computations.compile import Compiler, Ids
from audience_sync.computations.expressions import id_text
from audience_sync.computations.occurrences import events
from audience_sync.computations.properties import Property
from audience_sync.computations.words import in_words, rule_in_words
from audience_sync.config.model import Audience, Config
from audience_sync.config.rules import All, Any_, Did, First, Has, In, Last, Not, Occurrence, Rule, Then, parts_of


@dataclass(frozen=True)
class Reason:
    """A condition in words, whether it holds of the user, and what was found of them."""

    rule: str
    holds: bool
    facts: dict[str, Any] = field(default_factory=dict)
    parts: list[Reason] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"rule": self.rule, "holds": self.holds, "facts": self.facts}
        if self.parts:
            shown["parts"] = [part.as_json() for part in self.parts]
        return shown


def explain(
    config: Config, catalog: Catalog, connection: Connection, audience: Audience, user_id: str, as_of: datetime
) -> Reason:
    """The whole rule of an audience, condition by condition, for one user at one instant."""
    return _Explaining(Compiler(config, catalog, as_of), connection, user_id).audience(audience)


class _Explaining:
    def __init__(self, compiler: Compiler, connection: Connection, user_id: str) -> None:
        self.compiler = compiler
        self.connection = connection
        self.user_id = user_id
        self.dialect = compiler.dialect

    def audience(self, audience: Audience) -> Reason:
        self.compiler.where = audience.name
        if audience.who is not None:
            return self.rule(audience.who)
        return Reason(in_words(audience), self.is_in(self.compiler.audience(audience, count=False)))

    def rule(self, rule: Rule) -> Reason:
        holds = self.is_in(self.compiler.rule(rule))
        words = rule_in_words(rule)
        if isinstance(rule, (All, Any_)):
            title = "all of these" if isinstance(rule, All) else "at least one of these"
            return Reason(title, holds, parts=[self.rule(part) for part in parts_of(rule)])
        if isinstance(rule, Not):
            return Reason(words, holds, {"known": self.is_in(self.compiler.everyone())}, [self.rule(rule.not_)])
        if isinstance(rule, In):
            other = self.compiler.config.audience(rule.in_)
            assert other is not None, "checked when jobs.yaml was read"
            return Reason(words, holds, parts=[self.audience(other)])
        if isinstance(rule, Has):
            return Reason(words, holds, self.traits(rule))
        if isinstance(rule, Then):
            steps = {f"step {n}: {step.did}": self.seen(step.model_copy(update={"within": None}) if n > 1 else step)
                     for n, step in enumerate(rule.then, 1)}  # fmt: skip
            return Reason(words, holds, {step: found["times"] for step, found in steps.items()})
        if isinstance(rule, (First, Last)):
            wanted = rule.first if isinstance(rule, First) else rule.last
            return Reason(words, holds, self.seen(Occurrence(did=wanted.did, where=wanted.where)))
        assert isinstance(rule, Did)
        return Reason(words, holds, self.seen(rule))

    def is_in(self, ids: Ids) -> bool:
        members = ids.subquery()
        one = sa.select(sa.literal(1)).select_from(members).where(members.c.user_id == self._me).limit(1)
        return self.connection.execute(one).first() is not None

    def seen(self, rule: Occurrence) -> dict[str, Any]:
        """How often the user did it in the rule's window, first and last, and the totals that the rule asks of."""
        found = events(self.compiler.config, self.compiler.catalog, rule.did)
        columns: dict[str, Any] = {
            "times": sa.func.count(),
            "first": sa.func.min(found.at.moment),
            "last": sa.func.max(found.at.moment),
        }
        if isinstance(rule, Did):
            for (word, name), number in self.compiler.numbers(rule, found).items():
                columns[f"{word} of {name}"] = self.compiler.total(word, number)
        query = (
            sa.select(*[column.label(name) for name, column in columns.items()])
            .select_from(found.table)
            .where(found.id_text == self._me, *self.compiler.occurrence(rule, found))
        )
        row = self.connection.execute(query).one()
        return {name: _plain(value) for name, value in row._mapping.items() if value is not None}

    def traits(self, rule: Has) -> dict[str, Any]:
        people = self.compiler.config.people
        assert people is not None, "checked when jobs.yaml was read"
        catalog = self.compiler.catalog
        table = catalog.table(people.table, "people")
        user_id = catalog.column(table, people.user_id, "people")
        columns = []
        for name in rule.has:
            column = catalog.property(table, name, people.traits, f"{self.compiler.where}: has")
            columns.append((column.text if isinstance(column, Property) else column).label(name))
        query = sa.select(*columns).where(id_text(user_id, self.dialect) == self._me).limit(1)
        row = self.connection.execute(query).first()
        return {name: _plain(value) for name, value in row._mapping.items()} if row is not None else {}

    @property
    def _me(self) -> sa.ColumnElement[str]:
        return sa.literal(self.user_id, sa.Text)


def _plain(value: Any) -> Any:
    """What JSON can hold, and a person can read."""
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, str) and value.endswith(".000000"):
        return value[: -len(".000000")]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
