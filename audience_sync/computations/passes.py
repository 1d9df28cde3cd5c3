"""One pass over a table of events for all the `did` of a job that ask whether a user did something lately.

The pass finds, for each event and user, when it last was; `did: E, within: W` then holds of those with whom that is
within W. So 200 audiences over one table of everything that was tracked read it once, and not 200 times. docs/diff.md
has the figures. Counts, totals and tests of properties are left to a statement of their own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Select
from sqlalchemy.dialects.mysql import LONGTEXT, VARCHAR

from audience_sync.computations.catalog import Catalog
from audience_sync.computations.compile import Ids, SharedSet
from audience_sync.computations.expressions import lacks_id
from audience_sync.computations.occurrences import Events, events, in_window
from audience_sync.computations.spellings import MARIADB_COLLATION, ROWS, is_number
from audience_sync.computations.times import TimeColumn
from audience_sync.computations.values import text_of
from audience_sync.config.model import Config
from audience_sync.config.rules import Did
from audience_sync.state.tables import PREFIX, UserId

FEWEST = 40
"""So many `did` make a pass pay on PostgreSQL, too, which scans with several processes; on SQLite ten are enough."""
ALIKE = 4
"""Windows are alike, and read together, that differ by no more than about this factor: a narrow one, which an index may
answer at once, does not wait for a wide one."""

SharedId = UserId.with_variant(LONGTEXT(collation=MARIADB_COLLATION), "mysql", "mariadb")
_Name = UserId.with_variant(VARCHAR(700, collation=MARIADB_COLLATION), "mysql", "mariadb")


@dataclass(frozen=True, eq=False)
class Pass:
    """Of some events of one table: `users` who did each, and when last; and rows that are `lacking` a user id."""

    users: SharedSet
    lacking: SharedSet
    dialect: str
    seconds: bool
    """Whether times are numbers, as they are in the events' table."""
    named: bool

    def ids(self, rule: Did, as_of: datetime) -> Ids:
        """The users of whom the rule holds."""
        found = self.users.table.c
        return sa.select(found.user_id).where(*self._meets(self.users.table, rule, as_of))

    def skipped(self, rule: Did, as_of: datetime) -> Select[int]:
        """How many rows without a user id the rule would have counted."""
        table = self.lacking.table
        return sa.select(sa.func.count()).select_from(table).where(*self._meets(table, rule, as_of))

    def _meets(self, table: sa.Table, rule: Did, as_of: datetime) -> list[ColumnElement[bool]]:
        at = TimeColumn(table.c.at, self.dialect, canonical=not self.seconds)
        return [table.c.name == (rule.did if self.named else ""), *in_window(rule, at, as_of)]


def passes(config: Config, catalog: Catalog, dids: Iterable[Did], as_of: datetime) -> dict[str, Pass]:
    """The pass that answers a rule, by the rule as JSON; none for what is asked of too seldom or in other ways."""
    together: dict[Any, dict[str, Did]] = defaultdict(dict)
    for did in dids:
        if not _asks_when_last(did) or config.events.get(did.did, config.events.get("*")) is None:
            continue
        name = did.did if did.did in config.events else "*"
        source = config.events[name]
        if source.arrived_at is not None:
            continue  # it is followed: few syncs would read all of it
        place = (source.table, source.user_id, source.at, source.name, _width(did, as_of))
        together[place][did.model_dump_json()] = did
    found: dict[str, Pass] = {}
    for number, rules in enumerate(each for each in together.values() if len(each) >= FEWEST):
        made = _pass(config, catalog, number, list(rules.values()), as_of)
        found |= dict.fromkeys(rules, made)
    return found


def _asks_when_last(did: Did) -> bool:
    once = did.at_least in (None, 1)
    return type(did) is Did and once and did.model_fields_set <= {"did", "within", "since", "at_least"}


def _lower(did: Did, as_of: datetime) -> datetime | None:
    edges = [did.within.before(as_of)] if did.within is not None else []
    return max([*edges, *([did.since] if did.since is not None else [])], default=None)


def _width(did: Did, as_of: datetime) -> int | None:
    lower = _lower(did, as_of)
    return None if lower is None else int(math.log(max((as_of - lower).total_seconds(), 1), ALIKE))


def _pass(config: Config, catalog: Catalog, number: int, rules: Sequence[Did], as_of: datetime) -> Pass:
    found = events(config, catalog, rules[0].did)
    widest = min(rules, key=lambda did: _lower(did, as_of) or datetime.min.replace(tzinfo=as_of.tzinfo))
    conditions = in_window(Did(did=widest.did, within=widest.within, since=widest.since), found.at, as_of)
    name, named = _names(config, catalog, found, rules)
    seconds = is_number(found.at.column)
    at = sa.cast(found.at.column, sa.Double) if seconds else found.at.moment
    kind: Any = sa.Double() if seconds else ROWS[catalog.dialect].moment_type
    users, lacking = _users(number, kind, seconds), _lacking(number, kind, seconds)
    by = [name, found.id_text] if named else [found.id_text]
    latest = (
        sa.select(name.label("name"), found.id_text.label("user_id"), sa.func.max(at, type_=at.type).label("at"))
        .select_from(found.table)
        .where(found.has_id, *named, *conditions)
        .group_by(*by)
    )
    without = (
        sa.select(name.label("name"), at.label("at"))
        .select_from(found.table)
        .where(lacks_id(found.user_id, catalog.dialect), *named, *conditions)
    )
    sets = SharedSet(users.name, "", users, latest), SharedSet(lacking.name, "", lacking, without)
    return Pass(*sets, catalog.dialect, seconds, bool(named))


def _names(
    config: Config, catalog: Catalog, found: Events, rules: Sequence[Did]
) -> tuple[ColumnElement[Any], list[ColumnElement[bool]]]:
    """What tells the events apart, and the condition that a row is of one of them."""
    if not found.named:
        return sa.literal("", sa.Text), []
    source = config.events[rules[0].did if rules[0].did in config.events else "*"]
    column = catalog.column(found.table, source.name or "", "events")
    wanted = sorted({rule.did for rule in rules})
    name = text_of(column, catalog.dialect)
    # The column as it stands is asked first, so that an index on it is used; then to the letter.
    plain = isinstance(column.type, sa.String) and not isinstance(column.type, sa.Enum)
    return name, [*([column.in_(wanted)] if plain else []), name.in_(wanted)]


def _users(number: int, kind: Any, seconds: bool) -> sa.Table:
    name = f"{PREFIX}users_{_of(seconds)}_{number}"
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("name", _Name, nullable=False),
        sa.Column("user_id", SharedId, nullable=False),
        sa.Column("at", kind, nullable=False),
        sa.PrimaryKeyConstraint("name", "user_id").ddl_if(dialect="sqlite"),
        sa.Index(f"{name}_of", "name").ddl_if(callable_=_is_indexed),
        prefixes=["TEMPORARY"],
        sqlite_with_rowid=False,
    )


def _lacking(number: int, kind: Any, seconds: bool) -> sa.Table:
    return sa.Table(
        f"{PREFIX}lacking_{_of(seconds)}_{number}",
        sa.MetaData(),
        sa.Column("name", _Name, nullable=False),
        sa.Column("at", kind, nullable=False),
        prefixes=["TEMPORARY"],
    )


def _of(seconds: bool) -> str:
    """In a table's name, as a connection may hold another job's of the same number."""
    return "seconds" if seconds else "moments"


def _is_indexed(*_: Any, dialect: sa.Dialect, **__: Any) -> bool:
    return dialect.name in ("postgresql", "mysql", "mariadb")
