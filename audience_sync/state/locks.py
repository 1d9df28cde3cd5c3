"""Locks that die with their holder (DESIGN, rule 6).

A lock that outlives a killed process would make the next run wait for a lease to expire, or step over it.
So the operating system or the server holds it: on SQLite a file lock (state is a local file, and all its users
share that file system), on PostgreSQL a session advisory lock, which the server drops with the connection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.engine import Engine

from audience_sync.database import is_sqlite, sqlite_path


@contextmanager
def try_lock(engine: Engine, url: str, name: str) -> Iterator[bool]:
    """Hold the named lock of this state if it is free; yields whether it is held. Never waits."""
    if is_sqlite(url):
        path = sqlite_path(url)
        folder = path.with_name(path.name + ".locks")
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / hashlib.sha256(name.encode()).hexdigest()[:16], is_singleton=False, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()
        return
    number = int.from_bytes(hashlib.sha256(f"audience_sync {name}".encode()).digest()[:8], "big", signed=True)
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
