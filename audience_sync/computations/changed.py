"""Which rows of a user's own SELECT changed since an earlier sync, by the column that says when they did.

What came or has another value is among the rows whose column is no earlier than the latest value seen then. Who left
has no row to tell of it; but who is in now are those who were, less those who left, and those who came. So one count
says whether anybody left, and only then are they looked for. docs/incremental.md has the proof and its conditions.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Select

from audience_sync import __version__
from audience_sync.computations.catalog import Catalog
from audience_sync.computations.compile import Compiler, without_values
from audience_sync.computations.definition import fingerprint
from audience_sync.computations.expressions import lacks_id
from audience_sync.computations.incremental import COMMITTED_WITHIN, Ask, Basis, moment_of
from audience_sync.computations.times import TimeColumn
from audience_sync.computations.traits import one_each, values_given
from audience_sync.config.model import Audience, Config, Trait
from audience_sync.config.strict import did_you_mean
from audience_sync.errors import ConfigError, DatabaseError

# What the driver makes of the column's values, and so what they are compared as.
_KINDS: dict[str, tuple[tuple[type, ...], Any]] = {
    "time": ((datetime,), sa.DateTime()),
    "time with zone": ((), sa.DateTime(timezone=True)),
    "date": ((date,), sa.Date()),
    "number": ((int, float, Decimal), sa.BigInteger()),
    "text": ((str,), sa.Text()),
}


@dataclass(frozen=True)
class ChangedRows:
    """Finds the rows of one `sql:` audience or trait that changed, at T."""

    config: Config
    catalog: Catalog
    computed: Audience | Trait
    as_of: datetime
    fingerprint: str

    def read(self, ask: Ask, basis: Basis | None, *, full: bool) -> dict[str, Any]:
        """What `next` is to know: the latest value of the column, and how many rows there are, or users."""
        query = self._query()
        newest: Select[Any] = sa.select(sa.func.max(query.c[self._column])).select_from(query)
        if basis is not None:
            newest = newest.where(self._time(query, basis).since(basis.arrived[""]))
        by_rows = full or basis is None or basis.unique
        everyone = (self._rows(query) if by_rows else self.users()).subquery("everyone")
        return {"newest": ask(newest), "count": ask(sa.select(sa.func.count()).select_from(everyone))}

    def next(self, basis: Basis | None, read: dict[str, Any], *, full: bool, users: int) -> Basis | None:
        """The basis for the sync after this one; None where no row says when it changed. `users`: how many were found
        by comparing everyone, those who are forgotten included."""
        kind, newest = self._kind_and_moment(read["newest"])
        now = datetime.now(UTC)
        moments = [*(basis.arrived.values() if basis else ()), *([min(newest, now)] if newest else ())]
        kind = kind or (basis.kind if basis else None)
        if not moments:
            return None
        mark = {"": max(moments)}
        if full or basis is None:
            return Basis(self.fingerprint, self.as_of, self.as_of, mark, kind, users, unique=read["count"] == users)
        return Basis(self.fingerprint, self.as_of, basis.full_as_of, mark, kind, read["count"], basis.unique)

    def looked_at(self, basis: Basis) -> Select[Any]:
        """(user_id, value, other) of the rows that may have changed since the basis."""
        query = self._query()
        since = self._time(query, basis).since(basis.arrived[""] - COMMITTED_WITHIN)
        # Two arms, not one OR, for which SQLite would rather run along the whole index of the ids.
        rows = sa.union_all(self._rows(query, since), self._rows(query, query.c[self._column].is_(None)))
        if isinstance(self.computed, Trait):
            return one_each(rows)
        return without_values(sa.select(rows.subquery("changed").c.user_id).distinct())

    def users(self) -> Select[Any]:
        """The user ids of all rows, each once."""
        rows = self._rows(self._query()).subquery("given_rows")
        found = sa.select(rows.c.user_id).distinct()
        return found.where(rows.c.value.is_not(None)) if isinstance(self.computed, Trait) else found

    def skipped(self, basis: Basis) -> list[Select[Any]]:
        """Counts the rows without a user id among those that changed since."""
        query = self._query()
        since = self._time(query, basis).after(basis.arrived[""])
        return [sa.select(sa.func.count()).select_from(query).where(lacks_id(query.c.user_id, self._dialect), since)]

    @property
    def _column(self) -> str:
        return self.computed.changed_since or ""

    @property
    def _dialect(self) -> str:
        return self.catalog.dialect

    def _query(self) -> Any:
        compiler = Compiler(self.config, self.catalog, self.as_of)
        return compiler.sql(self.computed.sql or "", list(dict.fromkeys([*_needed(self.computed), self._column])))

    def _rows(self, query: Any, *conditions: ColumnElement[bool]) -> Select[Any]:
        if isinstance(self.computed, Trait):
            return values_given(query, self._dialect, *conditions)
        compiler = Compiler(self.config, self.catalog, self.as_of)
        return compiler.matching(query, query.c.user_id, conditions, count=False)

    def _time(self, query: Any, basis: Basis) -> TimeColumn:
        kind = _KINDS[basis.kind or "text"][1]
        return TimeColumn(sa.type_coerce(query.c[self._column], kind), self._dialect)

    def _kind_and_moment(self, value: Any) -> tuple[str | None, datetime | None]:
        if value is None:
            return None, None
        moment = None if isinstance(value, bool) else moment_of(value)
        kind = next((kind for kind, (types, _) in _KINDS.items() if isinstance(value, types)), None)
        if kind is None or moment is None:
            raise DatabaseError(
                f"changed_since: {self._column} holds {value!r}, which is no time: "
                "it must hold times, ISO 8601 text or seconds since 1970"
            )
        zoned = isinstance(value, datetime) and value.tzinfo is not None
        return "time with zone" if zoned else kind, moment


def changed_rows(config: Config, catalog: Catalog, computed: Audience | Trait, as_of: datetime) -> ChangedRows | None:
    """How to follow a `sql:` by its `changed_since`, if any; ConfigError where the SELECT does not give that column."""
    column = computed.changed_since
    if column is None:
        return None
    given = catalog.selected(Compiler(config, catalog, as_of).sql(computed.sql or "", _needed(computed)))
    if column not in given:
        raise ConfigError(
            f"{computed.name}: changed_since: its sql: does not select {column!r}",
            did_you_mean(column, list(given)) or "select it beside " + " and ".join(_needed(computed)),
        )
    said = [__version__, config.source.url, fingerprint(config, computed), column, sorted(given.items())]
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]
    return ChangedRows(config, catalog, computed, as_of, digest)


def _needed(computed: Audience | Trait) -> list[str]:
    return ["user_id", "value"] if isinstance(computed, Trait) else ["user_id"]
