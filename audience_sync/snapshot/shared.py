"""Temporary tables for what several computations read, on the connection that reads the source.

That connection may not write, so that nothing a user's own SQL calls can change anything; temporary tables are
excepted everywhere, once they are there. Making one is excepted on SQLite and DuckDB only: PostgreSQL's transaction
becomes one that only reads after they are made, and MariaDB, where they outlive it, has one before for that.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.computations import SharedSet
from audience_sync.database import one_line
from audience_sync.snapshot.stage import analyze

log = logging.getLogger(__name__)


def made_beside(source: Connection, tables: Sequence[sa.Table], *, may_write: bool = False) -> bool:
    """Make the tables on a source's own connection, before its first query; False where it refuses. `may_write`: it is
    a warehouse's that is about to keep snapshots, so nothing stands in the way."""
    if not tables:
        return False
    postgresql, mariadb = (
        not may_write and source.dialect.name in names for names in (("postgresql",), ("mysql", "mariadb"))
    )
    if may_write or mariadb:
        source.detach()  # its temporary tables go when it is closed
    try:
        if postgresql:
            source.execution_options(postgresql_readonly=False)
        elif mariadb:
            source.exec_driver_sql("SET SESSION TRANSACTION READ WRITE")
        for table in tables:
            table.create(source)
        if postgresql:
            source.exec_driver_sql("SET TRANSACTION READ ONLY")
        elif mariadb:
            source.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")
        if may_write or mariadb:
            source.commit()
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated:
            raise
        log.debug("the source has no temporary tables, so nothing is computed once for several: %s", one_line(error))
        source.rollback()
        if postgresql:
            source.execution_options(postgresql_readonly=True)
        elif mariadb:
            source.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")
            source.commit()
        return False
    return True


def fill(connection: Connection, one: SharedSet) -> None:
    columns = [column.name for column in one.table.c]
    # SQLite appends to a key what comes in its order; what PostgreSQL finds by name lies together then.
    in_order = connection.dialect.name == "sqlite" or len(columns) > 1
    rows = one.rows.order_by(*columns[:2]) if in_order else one.rows
    connection.execute(sa.insert(one.table).from_select(columns, rows))
    analyze(connection, one.table)
