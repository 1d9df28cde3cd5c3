"""The state's side of it: which table holds a computation's last snapshot, and which tables nobody needs any more.

The pointer moves in the transaction that writes the outbox, so nothing is asked of the warehouse's own transactions:

1. the warehouse writes the snapshot, and the changes are read from it;
2. state records the changes and the name of the snapshot, at once or not at all;
3. the warehouse drops what no name points at.

Killed before 2, the sync was not: the next one finds the table that it left, and drops it. Killed after 2, it was: the
next one drops the snapshot before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import logs
from audience_sync.clock import utcnow
from audience_sync.database import told
from audience_sync.errors import AudienceSyncError, ConfigError
from audience_sync.snapshot import Databases
from audience_sync.state.schema import state_id
from audience_sync.state.suppression import salt
from audience_sync.state.tables import computations, suppressed, syncs
from audience_sync.warehouse.compare import Keeping
from audience_sync.warehouse.engines import CAPABILITIES
from audience_sync.warehouse.snapshots import Warehouse, bare

LONGEST_SYNC = timedelta(days=2)
"""What a sync that long ago left behind is nobody's, though no other has said yet that it was killed."""


def warehouse_of(state: Connection, databases: Databases, rows: Iterable[Any] = ()) -> Warehouse | None:
    """The source, where it keeps the snapshots, or has kept one of these computations' last."""
    if not databases.keeps_snapshots and all(row.snapshot is None for row in rows):
        return None
    can = CAPABILITIES.get(databases.source.dialect.name)
    if can is None:
        raise ConfigError(
            "source: the last snapshots were kept in a warehouse, which this source is not",
            "give source: the warehouse again, without synced: warehouse, for one sync: it brings them home",
        )
    return Warehouse(databases.source, databases.source_url, databases.schema, can, state_id(state))


def keeping(state: Connection, warehouse: Warehouse, token: str, label: str = "") -> Keeping:
    """What writes snapshots for the sync with this token; `label` tells apart what one sync writes twice."""
    hashes = frozenset(state.execute(sa.select(suppressed.c.hash)).scalars())
    return Keeping(warehouse, token, label, salt(state), hashes)


def sweep(state: Connection, warehouse: Warehouse, token: str, left: Iterable[str] = ()) -> None:
    """Drop what this state's syncs have left and no pointer names. `token`: of the sync that is at its end; `left` are
    places that pointers have left, in whichever schema.

    What can't be dropped now is dropped by a later sync.
    """
    try:
        with told("source", warehouse.url), warehouse.engine.connect() as connection:
            names = warehouse.names(connection)  # before state is asked: what is made from here on is not among them
            connection.rollback()
            places = [*map(warehouse.place, names), *left]
            for place in _unneeded(state, warehouse, dict.fromkeys(places), token):
                if warehouse.can.impatient is not None:
                    connection.execute(warehouse.can.impatient)
                warehouse.snapshot(place).drop(connection, checkfirst=True)
                connection.commit()
    except AudienceSyncError as error:
        logs.warning(f"old snapshots are still in the warehouse, until the next sync: {error}")


def _unneeded(state: Connection, warehouse: Warehouse, places: Iterable[str], token: str) -> list[str]:
    with state.begin():
        rows = state.execute(sa.select(syncs.c.token, syncs.c.status, syncs.c.started_at)).all()
        named = state.execute(sa.select(computations.c.snapshot).where(computations.c.snapshot.is_not(None)))
        # By the bare name, which is one of its kind: a table has as many places as there are ways to write its schema.
        pointed = {bare(place) for place in named.scalars()}
    since = utcnow() - LONGEST_SYNC
    # A token that state does not know is another's, whose state was copied from this one: it may point at it.
    ended = {row.token for row in rows if row.status != "running" or row.started_at < since}
    ended.add(token)
    return [place for place in places if bare(place) not in pointed and warehouse.token_of(bare(place)) in ended]
