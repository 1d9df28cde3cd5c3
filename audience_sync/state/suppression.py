"""Who is forgotten, without their ids being kept: the SHA-256 of the state's own random salt and the id.

Hashing is the database's, so that rows need not travel to be checked, and it is done only where somebody is forgotten
at all, and then only of the users that a sync is about to change: its cost follows changes, not members.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from audience_sync.state.tables import computations, meta, suppressed

_CHUNK = 500


def salt(connection: Connection) -> str:
    return str(connection.execute(sa.select(meta.c.value).where(meta.c.name == "salt")).scalar_one())


def hash_of(user_id: str, salt: str) -> str:
    return hashlib.sha256((salt + user_id).encode()).hexdigest()


def somebody_is_forgotten(connection: Connection) -> bool:
    return connection.execute(sa.select(suppressed.c.hash).limit(1)).first() is not None


def is_suppressed(connection: Connection, user_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition, as SQL, that a user is forgotten."""
    salted = sa.literal(salt(connection)) + user_id
    if connection.dialect.name == "postgresql":
        digest = sa.func.encode(sa.func.sha256(sa.func.convert_to(salted, "UTF8")), "hex")
    else:
        digest = sa.func.sha256_hex(salted)
    return digest.in_(sa.select(suppressed.c.hash))


def suppressed_among(connection: Connection, user_ids: Iterable[str]) -> set[str]:
    """Those of these users who are forgotten."""
    known = salt(connection)
    hashes = {hash_of(user_id, known): user_id for user_id in user_ids}
    found: set[str] = set()
    for chunk in chunks(list(hashes)):
        query = sa.select(suppressed.c.hash).where(suppressed.c.hash.in_(chunk))
        found |= {hashes[row.hash] for row in connection.execute(query)}
    return found


def suppress(connection: Connection, user_ids: Sequence[str], now: datetime) -> None:
    known = salt(connection)
    rows = [{"hash": hash_of(user_id, known), "forgotten_at": now} for user_id in user_ids]
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(insert(suppressed).on_conflict_do_nothing(), rows)


def unsuppress(connection: Connection, user_ids: Sequence[str]) -> None:
    known = salt(connection)
    for chunk in chunks([hash_of(user_id, known) for user_id in user_ids]):
        connection.execute(sa.delete(suppressed).where(suppressed.c.hash.in_(chunk)))
    # No event brings them back into their audiences: the next sync must compare everyone.
    connection.execute(sa.update(computations).values(basis=None))


def chunks(values: Sequence[str]) -> Iterable[Sequence[str]]:
    """So many hashes as one statement may name."""
    return (values[at : at + _CHUNK] for at in range(0, len(values), _CHUNK))
