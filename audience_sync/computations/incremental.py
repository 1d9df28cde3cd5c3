"""Which users a rule may have gained or lost since an earlier T, found from the events that moved and from no others.

A user's place in a rule made of `did`, `all`, `any` and `not` follows from the rows of that user alone, and from two
things about each row: whether its time is within the window, and whether it is there at all. A row's place in a
window changes only when an edge of the window passes over it; it is there anew only when it arrived. So everyone who
has no row between an edge then and the same edge now, and none that arrived since, is where they were. The rest are
the candidates. docs/incremental.md has the proof and its conditions; where one of them is not met, `follow`
returns None, and everything is compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Select

from audience_sync import __version__
from audience_sync.computations.catalog import Catalog
from audience_sync.computations.compile import Compiler, Ids
from audience_sync.computations.definition import fingerprint
from audience_sync.computations.expressions import id_text, lacks_id
from audience_sync.computations.occurrences import Events, events, in_window, tested
from audience_sync.computations.times import TimeColumn
from audience_sync.computations.values import kind_of
from audience_sync.config.durations import parse_moment
from audience_sync.config.model import Audience, Config, Trait
from audience_sync.config.rules import All, Any_, Did, Not, Rule, Tests, Window

COMMITTED_WITHIN = timedelta(hours=1)
"""A row may be seen so long after its `arrived_at`: loaders take the time first and commit last."""

# A row always meets these, or never; `within` and `anniversary` depend on T.
_TIMELESS = {
    *("eq", "ne", "gt", "gte", "lt", "lte", "in_", "not_in"),
    *("contains", "starts_with", "ends_with", "exists", "before", "after"),
}
_TOTALS = ("sum", "avg", "min", "max")
_DID = {"did", "within", "between", "since", "until", "where", "at_least", "at_most", "exactly", *_TOTALS}
Ask = Callable[[Select[Any]], Any]
"""Asks the source for one value, at the sync's instant."""
_BY_INDEX = ("sqlite", "postgresql", "duckdb")


@dataclass(frozen=True)
class Basis:
    """What an earlier sync of a computation left for the next to start from."""

    fingerprint: str
    as_of: datetime
    full_as_of: datetime
    """T of the last sync that compared everyone."""
    arrived: dict[str, datetime]
    """For each table of events, when the latest row seen there arrived; under "", the latest of `changed_since`."""
    kind: str | None = None
    """What a `changed_since` column holds, as `changed` calls it."""
    users: int = 0
    """How many users a `changed_since` SELECT gave, those who are forgotten included."""
    unique: bool = False
    """Whether it gave each of them once."""
    recent: dict[str, int] = field(default_factory=dict)
    """For each table of events, how many rows arrived within `COMMITTED_WITHIN` before the latest."""

    def dumps(self) -> str:
        return json.dumps(asdict(self), default=datetime.isoformat)

    @classmethod
    def loads(cls, text: str) -> Basis:
        found = json.loads(text)
        moments = {name: datetime.fromisoformat(found[name]) for name in ("as_of", "full_as_of")}
        arrived = {table: datetime.fromisoformat(at) for table, at in found["arrived"].items()}
        return cls(**{**found, **moments, "arrived": arrived})


@dataclass(frozen=True)
class _Followed:
    """Rows of one table that bear upon a rule: those of a `did`, or all, for who is known at all."""

    found: Events
    arrived: TimeColumn
    table: str
    window: Window
    conditions: tuple[ColumnElement[bool], ...]
    counted: bool
    """Whether its rows without a user id are told."""


@dataclass(frozen=True)
class Follower:
    """Finds the candidates of one audience at T, and which of them are in."""

    config: Config
    catalog: Catalog
    audience: Audience
    as_of: datetime
    followed: Sequence[_Followed]
    fingerprint: str

    @property
    def by_number(self) -> bool:
        """Whether every table has whole numbers for ids, so that their indexes are searched by number."""
        return all(kind_of(one.found.user_id) == "integer" for one in self.followed)

    def read(self, ask: Ask, basis: Basis | None, *, full: bool) -> dict[str, Any]:
        """What `next` is to know of each table: the latest `arrived_at`, and how many rows arrived shortly before it.

        A clock that is ahead must not hide the rows that come behind it.
        """
        now = datetime.now(UTC)
        found: dict[str, Any] = {}
        for one in {each.table: each for each in self.followed}.values():
            before = basis.arrived.get(one.table) if basis else None
            query = sa.select(sa.func.max(one.arrived.column)).select_from(one.found.table)
            latest = moment_of(ask(query if before is None else query.where(one.arrived.since(before))))
            moments = [*([min(latest, now)] if latest else []), *([before] if before else [])]
            arrived = max(moments, default=datetime(1970, 1, 2, tzinfo=UTC))
            found[one.table] = arrived, ask(sa.select(sa.func.count()).where(*_shortly_before(one, arrived)))
        return found

    def next(self, basis: Basis | None, read: dict[str, Any], *, full: bool, users: int) -> Basis:
        """The basis for the sync after this one."""
        arrived = {table: moment for table, (moment, _) in read.items()}
        recent = {table: count for table, (_, count) in read.items()}
        full_as_of = self.as_of if full or basis is None else basis.full_as_of
        return Basis(self.fingerprint, self.as_of, full_as_of, arrived, recent=recent)

    def candidates(self, basis: Basis) -> Select[Any]:
        """(user_id, number) of everyone whose place may have changed since the basis, once or more often each."""
        parts = [part for one in self.followed for part in self._moved(one, basis)]
        every = sa.union_all(*parts).subquery("moved")
        return sa.select(every.c.user_id, every.c.number).distinct()

    def skipped(self, basis: Basis) -> list[Select[Any]]:
        """Counts of the rows without a user id among those that arrived since."""
        return [
            sa.select(sa.func.count())
            .select_from(one.found.table)
            .where(
                lacks_id(one.found.user_id, self.catalog.dialect),
                *one.found.named,
                *one.conditions,
                *in_window(one.window, one.found.at, self.as_of),
                one.arrived.after(basis.arrived[one.table]),
            )
            for one in self.followed
            if one.counted
        ]

    def _moved(self, one: _Followed, basis: Basis) -> Iterator[Select[Any]]:
        at, found = one.found.at, one.found
        number = sa.cast(found.user_id if self.by_number else sa.null(), sa.BigInteger)
        rows: Any = (
            sa.select(found.id_text.label("user_id"), number.label("number"))
            .select_from(found.table)
            .where(found.has_id, *found.named, *one.conditions)
        )
        then, now = _edges(one.window, basis.as_of), _edges(one.window, self.as_of)
        for edge, same_edge in zip(then, now, strict=True):
            if edge is not None and same_edge is not None and edge != same_edge:
                yield rows.where(at.after(min(edge, same_edge)), at.until(max(edge, same_edge)))
        # Whatever their time: of two ranges, SQLite might search the one that nearly all rows lie in.
        arrived = basis.arrived[one.table]
        yield rows.where(one.arrived.since(arrived))  # others may come that arrived at that very instant
        shortly_before = _shortly_before(one, arrived)
        there = sa.select(sa.func.count()).select_from(one.found.table).where(*shortly_before)
        seen = sa.literal(basis.recent.get(one.table, -1), sa.BigInteger)
        yield rows.where(*shortly_before, there.correlate(None).scalar_subquery() != seen)

    def members(self, candidates: sa.FromClause) -> Ids:
        """Which of the candidates, a table or subquery of (user_id, number), are in the audience at T."""
        compiler = _Among(self.config, self.catalog, self.as_of, candidates, self.by_number)
        assert self.audience.who is not None
        found = compiler.named(compiler.rule(self.audience.who))
        return sa.select(found.c.user_id).where(found.c.user_id.in_(sa.select(candidates.c.user_id)))


class _Among(Compiler):
    """Reads only the rows of candidates. It may read a few more, whose collation takes them for equal, so what it finds
    is compared with the candidates to the letter at the end."""

    def __init__(
        self, config: Config, catalog: Catalog, as_of: datetime, candidates: sa.FromClause, by_number: bool
    ) -> None:
        super().__init__(config, catalog, as_of)
        self.candidates = candidates
        self.by_number = by_number
        self.where = ""

    def matching(
        self,
        table: sa.FromClause,
        user_id: ColumnElement[Any],
        conditions: Sequence[ColumnElement[bool]],
        columns: Sequence[ColumnElement[Any]] = (),
        *,
        count: bool = True,
    ) -> sa.Select[Any]:
        return super().matching(table, user_id, [*conditions, self._is_one(user_id)], columns, count=False)

    def _is_one(self, user_id: ColumnElement[Any]) -> ColumnElement[bool]:
        if self.by_number:
            return user_id.in_(sa.select(self.candidates.c.number))
        wanted = self.candidates.c.user_id
        if self.dialect not in _BY_INDEX or type(user_id.type) not in (sa.Text, sa.TEXT, sa.VARCHAR):
            return id_text(user_id, self.dialect).in_(sa.select(wanted))
        if self.dialect == "postgresql":
            # In the column's own collation, or its index could not be searched.
            own = getattr(user_id.type, "collation", None) or "default"
            return user_id.in_(sa.select(sa.collate(wanted, own)))
        return user_id.in_(sa.select(wanted))


def follow(config: Config, catalog: Catalog, computed: Audience | Trait, as_of: datetime) -> Follower | None:
    """How to follow an audience by its events; None where it cannot be proved that no change is missed."""
    if not isinstance(computed, Audience) or computed.who is None:
        return None
    dids: list[Did] = []
    if not _gather(computed.who, dids):
        return None
    names = {did.did if did.did in config.events else "*" for did in dids}
    everyone = _asks_of_everyone(computed.who)
    if everyone:
        if config.people is not None:
            return None  # its rows come and go without an event
        names |= set(config.events)
    if any(config.events[name].arrived_at is None for name in names):
        return None
    followed = [_followed(config, catalog, did.did, did, did.where, computed.name) for did in dids]
    if everyone:
        anything = Window()
        followed += [_followed(config, catalog, name, anything, None, "") for name in sorted(config.events)]
    return Follower(config, catalog, computed, as_of, followed, _fingerprint(config, computed, names, followed))


def _gather(rule: Rule, dids: list[Did]) -> bool:
    if type(rule) is Did:
        dids.append(rule)
        tests = [test for word in ("where", *_TOTALS) for test in (getattr(rule, word) or {}).values()]
        return rule.model_fields_set <= _DID and all(test.model_fields_set <= _TIMELESS for test in tests)
    if type(rule) is Not:
        return _gather(rule.not_, dids)
    if type(rule) is All:
        return _gather_each(rule.all_, dids)
    if type(rule) is Any_:
        return _gather_each(rule.any_, dids)
    return False


def _gather_each(rules: Sequence[Rule], dids: list[Did]) -> bool:
    return not [rule for rule in rules if not _gather(rule, dids)]


def _asks_of_everyone(rule: Rule) -> bool:
    if isinstance(rule, Did):
        return rule.exactly == 0 or rule.at_most is not None
    parts = rule.all_ if isinstance(rule, All) else rule.any_ if isinstance(rule, Any_) else []
    return isinstance(rule, Not) or any(_asks_of_everyone(part) for part in parts)


def _followed(
    config: Config, catalog: Catalog, event: str, window: Window, where: Tests | None, audience: str
) -> _Followed:
    name = event if event in config.events else "*"
    source = config.events[name]
    found = events(config, catalog, event)
    if not audience:  # who is known at all: rows of any name
        found = Events(found.table, found.user_id, found.at, (), found.properties)
    arrived = catalog.column(found.table, source.arrived_at or "", f"events: {name}: arrived_at")
    tests = tested(catalog, found.table, where, datetime.now(UTC), f"{audience}: where", found.properties)
    return _Followed(found, TimeColumn(arrived, catalog.dialect), source.table, window, tuple(tests), bool(audience))


def _shortly_before(one: _Followed, arrived: datetime) -> list[ColumnElement[bool]]:
    """Among these a row may come to be that was not there when one that arrived later was seen."""
    return [one.arrived.since(arrived - COMMITTED_WITHIN), one.arrived.before(arrived)]


def _edges(window: Window, as_of: datetime) -> tuple[datetime | None, datetime]:
    """The instants that move with T: after which, and up to which, an event is in the window."""
    lower, upper = None, as_of
    if window.within is not None:
        lower = window.within.before(as_of)
    if window.between is not None:
        lower, until = sorted(duration.before(as_of) for duration in window.between)
        upper = min(upper, until)
    if window.until is not None:
        upper = min(upper, window.until)
    return lower, upper


def _fingerprint(config: Config, audience: Audience, names: set[str], followed: Sequence[_Followed]) -> str:
    """Of all that, when it changes, makes the earlier sync no ground to start from."""
    columns = {one.table: [f"{column.name} {column.type!r}" for column in one.found.table.c] for one in followed}
    said = [
        __version__,
        config.source.url,
        fingerprint(config, audience),
        {name: config.events[name].model_dump(mode="json") for name in sorted(names)},
        columns,
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def moment_of(value: Any) -> datetime | None:
    """The instant of a raw column's value; None for none, and for what is no time."""
    if value is None:
        return None
    try:
        if isinstance(value, (datetime, date, str)):
            return parse_moment(value)
        return datetime.fromtimestamp(float(value), UTC)
    except (ValueError, TypeError, OverflowError, OSError):
        return None
