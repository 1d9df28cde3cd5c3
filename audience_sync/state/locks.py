"""Locks that die with their holder (DESIGN, rule 6).

A lock that outlives a killed process would make the next run wait for a lease to expire, or step over it.
So the operating system or the server holds it: on SQLite a file lock (state is a local file, and all its users
share that file system), on PostgreSQL a session advisory lock, which the server drops with the connection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.dialects.postgresql import OID
from sqlalchemy.engine import Connection, Engine

from audience_sync.database import is_sqlite, sqlite_path

LOOK_SECONDS = 0.2
"""Far longer than `is_held` keeps a file lock, so that a look at a job never makes its run pass it by."""


def _file(url: str, name: str) -> Path:
    path = sqlite_path(url)
    return path.with_name(path.name + ".locks") / hashlib.sha256(name.encode()).hexdigest()[:16]


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"audience_sync {name}".encode()).digest()[:8], "big", signed=True)


@contextmanager
def try_lock(engine: Engine, url: str, name: str) -> Iterator[bool]:
    """Hold the named lock of this state if it is free; yields whether it is held. Never waits, but for a `is_held`."""
    if is_sqlite(url):
        file = _file(url, name)
        file.parent.mkdir(exist_ok=True)
        lock = FileLock(file, is_singleton=False, thread_local=False)
        try:
            lock.acquire(timeout=LOOK_SECONDS, poll_interval=LOOK_SECONDS / 10)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()
        return
    number = _number(name)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # A holder whose machine vanished sends no farewell; have the server notice within a minute.
        for setting, seconds in (("tcp_keepalives_idle", 20), ("tcp_keepalives_interval", 10)):
            connection.execute(sa.select(sa.func.set_config(setting, str(seconds), False)))
        if not connection.execute(sa.select(sa.func.pg_try_advisory_lock(number))).scalar():
            yield False
            return
        try:
            yield True
        finally:
            try:
                connection.execute(sa.select(sa.func.pg_advisory_unlock(number)))
            except sa.exc.SQLAlchemyError:
                connection.invalidate()


def is_held(connection: Connection, url: str, name: str) -> bool:
    """Whether somebody, here or on another machine, holds the named lock of this state now."""
    if not is_sqlite(url):
        # One 64-bit key is shown as two halves (PostgreSQL, "pg_locks": classid, objid, objsubid 1).
        high, low = divmod(_number(name) % 2**64, 2**32)
        locks = sa.table("pg_locks", *map(sa.column, ("locktype", "database", "classid", "objid", "objsubid")))
        here: sa.Select[Any] = sa.select(sa.column("oid")).select_from(sa.table("pg_database"))
        here = here.where(sa.column("datname") == sa.func.current_database())
        found = sa.select(sa.literal(1)).where(
            locks.c.locktype == "advisory",
            locks.c.database == here.scalar_subquery(),
            locks.c.classid == sa.cast(sa.literal(high), OID),
            locks.c.objid == sa.cast(sa.literal(low), OID),
            locks.c.objsubid == 1,
        )
        return connection.execute(found.limit(1)).first() is not None
    file = _file(url, name)
    if not file.exists():
        return False
    lock = FileLock(file, is_singleton=False, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return False  # a reader who may not write beside state cannot tell
    lock.release()
    return False
