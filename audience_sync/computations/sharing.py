"""What several computations of a job read: each such thing is computed once a sync, into a temporary table.

That is an audience which others name in `in`, and a table of events that many a `did` asks (`passes`). `share` gives
each such computation a second form that reads those tables. Who fills them, when, and what if a source refuses
temporary tables, is `snapshot.shared`'s business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa

from audience_sync.computations.catalog import Catalog
from audience_sync.computations.compile import Compiler, Computation, Ids, SharedSet, without_values
from audience_sync.computations.passes import Pass, SharedId, passes
from audience_sync.computations.spellings import ROWS
from audience_sync.config.model import Audience, Config, Job
from audience_sync.config.rules import Did, Rule, audiences_named, parts_of
from audience_sync.state.tables import PREFIX


class _Sharing(Compiler):
    """Reads what is shared from its tables, and notes what it `read`."""

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        as_of: datetime,
        audiences: Mapping[str, sa.Table],
        seen: Mapping[str, Pass],
    ) -> None:
        super().__init__(config, catalog, as_of)
        self.audiences = audiences
        self.seen = seen
        self.read: set[str] = set()

    def members_of(self, name: str) -> Ids:
        other = self.config.audience(name)
        if other is None or other.key not in self.audiences:
            return super().members_of(name)
        self.read.add(other.key)
        return sa.select(self.audiences[other.key].c.user_id)

    def joins(self, rule: Did) -> bool:
        return super().joins(rule) and rule.model_dump_json() not in self.seen

    def did(self, rule: Did) -> Ids:
        seen = self.seen.get(rule.model_dump_json())
        if seen is None:
            return super().did(rule)
        self.read.add(seen.users.key)
        if self.counting:
            self.read.add(seen.lacking.key)
            self.skipped.append(seen.skipped(rule, self.as_of))
        return seen.ids(rule, self.as_of)


def share(config: Config, catalog: Catalog, job: Job, as_of: datetime, compiled: Sequence[Computation]) -> None:
    """Give the job's computations their `shared` form, where they have one."""
    if not ROWS[catalog.dialect].temporary_tables:
        return
    reached, several = _reached(config, job)
    dids = [did for audience in reached if audience.who is not None for did in _dids(audience.who)]
    found = passes(config, catalog, dids, as_of)
    needed: dict[str, tuple[SharedSet, ...]] = {}
    for each in found.values():
        needed |= {each.users.key: (each.users,), each.lacking.key: (each.lacking,)}
    tables: dict[str, sa.Table] = {}
    for number, audience in enumerate(several):
        compiler = _Sharing(config, catalog, as_of, tables, found)
        ids = compiler.audience(audience, count=False)
        made = SharedSet(audience.key, f"in {audience.name}: ", _table(number), ids)
        needed[audience.key] = (*_in_order(needed, compiler.read), made)
        tables[audience.key] = made.table
    of_key = {computation.key: computation for computation in compiled}
    for audience in job.audiences:
        compiler = _Sharing(config, catalog, as_of, tables, found)
        ids = compiler.audience(audience, count=True)
        holds_sql = compiler.holds_sql
        if audience.key in tables:
            ids, holds_sql = compiler.members_of(audience.key), False
        if compiler.read:
            of_key[audience.key].shared = replace(
                of_key[audience.key],
                rows=without_values(ids),
                ids=None if holds_sql else ids,
                skipped=compiler.skipped,
                reads=_in_order(needed, compiler.read),
            )


def shared_sets(compiled: Iterable[Computation]) -> list[SharedSet]:
    """All that these computations read, each once."""
    forms = [computation.shared for computation in compiled if computation.shared is not None]
    return list(dict.fromkeys(one for form in forms for one in form.reads))


def _reached(config: Config, job: Job) -> tuple[list[Audience], list[Audience]]:
    """The audiences that a job reads, each after those that it reads itself; and which of them are read more than once.

    What is read counts once for each audience that names it, whichever its job, and once if it is of this job itself.
    As each of those is computed once, so is everything. A whole table is not copied: it is there already.
    """
    readers = Counter(audience.key for audience in job.audiences)
    found: dict[str, Audience] = {}

    def visit(audience: Audience) -> None:
        if audience.key in found:
            return
        named = [config.audience(name) for name in audiences_named(audience.who)] if audience.who is not None else []
        others = {other.key: other for other in named if other is not None}
        readers.update(list(others))
        for key in sorted(others):
            visit(others[key])
        found[audience.key] = audience

    for audience in job.audiences:
        visit(audience)
    several = [one for one in found.values() if readers[one.key] > 1 and not (one.table and not one.table.where)]
    return list(found.values()), several


def _dids(rule: Rule) -> list[Did]:
    if type(rule) is Did:
        return [rule]
    return [did for part in parts_of(rule) for did in _dids(part)]


def _in_order(needed: Mapping[str, tuple[SharedSet, ...]], read: Iterable[str]) -> tuple[SharedSet, ...]:
    return tuple(dict.fromkeys(one for key in sorted(read) for one in needed[key]))


def _table(number: int) -> sa.Table:
    return sa.Table(
        f"{PREFIX}shared_{number}",
        sa.MetaData(),
        sa.Column("user_id", SharedId, nullable=False),
        sa.PrimaryKeyConstraint("user_id").ddl_if(dialect="sqlite"),
        prefixes=["TEMPORARY"],
        sqlite_with_rowid=False,
    )
