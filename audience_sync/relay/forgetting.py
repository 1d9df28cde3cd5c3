"""A forgotten user's messages, traits and ids (DESIGN, rule 10)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.outbox.record import take_turn
from audience_sync.relay.identities import ANONYMOUS, USER
from audience_sync.relay.opening import CLASS
from audience_sync.state.tables import (
    attempts,
    computations,
    leftovers,
    outbox,
    relay_links,
    relay_messages,
    relay_profiles,
)


def forget(connection: Connection, user_ids: Collection[str]) -> set[str]:
    """Delete what came in about these users, under every id that was linked to them, sent or not, in the caller's
    transaction. Returns all those ids. What another user did on the same device stays."""
    take_turn(connection)
    users = _under_every_name(connection, user_ids)
    whose = sa.and_(relay_links.c.kind == ANONYMOUS, relay_links.c.user_id.in_(users))
    anonymous = set(connection.execute(sa.select(relay_links.c.id).where(whose)).scalars())
    ids = users | anonymous
    without_user = sa.and_(relay_messages.c.user_id.is_(None), relay_messages.c.anonymous_id.in_(anonymous))
    connection.execute(sa.delete(relay_messages).where(sa.or_(relay_messages.c.user_id.in_(users), without_user)))
    for table in (relay_profiles, relay_links):
        connection.execute(sa.delete(table).where(_is(table, USER, users) | _is(table, ANONYMOUS, anonymous)))
    messages = sa.select(computations.c.id).where(computations.c["class"] == CLASS)
    for table in (outbox, leftovers, attempts):
        connection.execute(
            sa.delete(table).where(table.c.user_id.in_(ids), table.c.computation_id.in_(messages.scalar_subquery()))
        )
    return ids


def _under_every_name(connection: Connection, user_ids: Collection[str]) -> set[str]:
    """The users' newest names and all that led to them."""
    renamed = sa.select(relay_links.c.user_id).where(relay_links.c.kind == USER, relay_links.c.id.in_(user_ids))
    newest = set(user_ids) | set(connection.execute(renamed).scalars())
    led_here = sa.select(relay_links.c.id).where(relay_links.c.kind == USER, relay_links.c.user_id.in_(newest))
    return newest | set(connection.execute(led_here).scalars())


def _is(table: sa.Table, kind: str, ids: Collection[str]) -> sa.ColumnElement[Any]:
    return sa.and_(table.c.kind == kind, table.c.id.in_(ids))
