"""Audiences that several computations of a job read: each is computed once a sync, into a temporary table.

`share` gives each such computation a second form that reads those tables. Who fills them, when, and what if a source
refuses temporary tables, is `snapshot.shared`'s business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import LONGTEXT

from audience_sync.computations.catalog import Catalog
from audience_sync.computations.compile import Compiler, Computation, Ids, without_values
from audience_sync.computations.spellings import MARIADB_COLLATION
from audience_sync.config.model import Audience, Config, Job
from audience_sync.config.rules import audiences_named
from audience_sync.state.tables import PREFIX, UserId

_UserId = UserId.with_variant(LONGTEXT(collation=MARIADB_COLLATION), "mysql", "mariadb")


@dataclass(frozen=True, eq=False)
class SharedSet:
    """An audience's user ids, which `ids` selects and `table` is to hold. `ids` may read the tables of other sets."""

    key: str
    name: str
    table: sa.Table
    ids: Ids


def share(config: Config, catalog: Catalog, job: Job, as_of: datetime, compiled: Sequence[Computation]) -> None:
    """Give the job's computations their `shared` form, where they have one."""
    if catalog.dialect == "mysql":
        return  # which cannot name a temporary table twice in one statement; MariaDB can
    tables: dict[str, sa.Table] = {}
    needed: dict[str, tuple[SharedSet, ...]] = {}
    for number, audience in enumerate(_shared(config, job)):
        compiler = Compiler(config, catalog, as_of, shared=tables)
        ids = compiler.audience(audience, count=False)
        made = SharedSet(audience.key, audience.name, _table(number), ids)
        needed[audience.key] = (*_in_order(needed, compiler.read), made)
        tables[audience.key] = made.table
    for computation in compiled:
        audience_ = next((one for one in job.audiences if one.key == computation.key), None)
        if audience_ is None:
            continue
        compiler = Compiler(config, catalog, as_of, shared=tables)
        ids = (
            compiler.members_of(audience_.key) if audience_.key in tables else compiler.audience(audience_, count=False)
        )
        if compiler.read:
            computation.shared = replace(
                computation,
                rows=without_values(ids),
                ids=None if compiler.holds_sql else ids,
                reads=_in_order(needed, compiler.read),
            )


def shared_sets(compiled: Iterable[Computation]) -> list[SharedSet]:
    """All that these computations read, each once."""
    return list(
        {one.key: one for computation in compiled if computation.shared for one in computation.shared.reads}.values()
    )


def _shared(config: Config, job: Job) -> list[Audience]:
    """The audiences that are read more than once, each after those that it reads itself.

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
    return [one for one in found.values() if readers[one.key] > 1 and not (one.table and not one.table.where)]


def _in_order(needed: dict[str, tuple[SharedSet, ...]], read: Iterable[str]) -> tuple[SharedSet, ...]:
    return tuple(dict.fromkeys(one for key in sorted(read) for one in needed[key]))


def _table(number: int) -> sa.Table:
    return sa.Table(
        f"{PREFIX}shared_{number}",
        sa.MetaData(),
        sa.Column("user_id", _UserId, nullable=False),
        sa.PrimaryKeyConstraint("user_id").ddl_if(dialect="sqlite"),
        prefixes=["TEMPORARY"],
        sqlite_with_rowid=False,
    )
