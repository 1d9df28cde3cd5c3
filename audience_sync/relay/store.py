"""Messages into state: one transaction for all that came in at about the same time.

When it is committed, a message is in the outbox for the workflows that are to be told, its event and its traits are
where rules find them, and its messageId is known, so that the client's repeat of it changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.outbox.lanes import lane_of
from audience_sync.outbox.record import take_turn
from audience_sync.relay.bulk import insert_rows
from audience_sync.relay.identities import remember
from audience_sync.relay.messages import Message
from audience_sync.state.suppression import somebody_is_forgotten, suppressed_among
from audience_sync.state.tables import outbox, relay_counts, relay_messages, relay_seen

DEDUPE_WINDOW = timedelta(hours=24)
"""For so long a messageId that comes again is dropped (Segment's own window is a day as well)."""

RECEIVED, DUPLICATE, FORGOTTEN, FORWARDED = "received", "duplicate", "of a forgotten user", "forwarded"
BY_INTEGRATIONS, BY_WORKFLOW = "filtered by integrations", "filtered by messages"


@dataclass(frozen=True)
class Routes:
    """Where messages go: made once, when the relay starts (see `opening`)."""

    sync_id: int
    computation_ids: Mapping[str, int]
    """By type."""
    workflows: Mapping[str, frozenset[str]]
    """The types that each workflow is told."""

    def told(self, message_type: str) -> list[str]:
        return [name for name, types in self.workflows.items() if message_type in types]


def store(connection: Connection, messages: Sequence[Message], routes: Routes, now: datetime) -> int:
    """Keep the messages that are new, in their order, in the caller's transaction; returns how many go to workflows."""
    take_turn(connection)
    new = _unseen(connection, messages, now)
    kept = _of_remembered(connection, new)
    counts: Counter[tuple[str, str, str]] = Counter((m.type, RECEIVED, "") for m in messages)
    counts.update(Counter((m.type, DUPLICATE, "") for m in messages))
    counts.subtract(Counter((m.type, DUPLICATE, "") for m in new))
    counts.update(Counter((m.type, FORGOTTEN, "") for m in new))
    counts.subtract(Counter((m.type, FORGOTTEN, "") for m in kept))
    remember(connection, kept)
    _keep_events(connection, kept, now)
    sent = _forward(connection, kept, routes, counts)
    _count(connection, counts)
    return sent


def drop_old_ids(connection: Connection, now: datetime) -> None:
    """Forget messageIds that are older than the window."""
    connection.execute(sa.delete(relay_seen).where(relay_seen.c.received_at < now - DEDUPE_WINDOW))


def _unseen(connection: Connection, messages: Sequence[Message], now: datetime) -> list[Message]:
    by_id = {message.message_id: message for message in reversed(messages)}  # of two the first counts
    if not by_id:
        return []
    rows = [{"message_id": message_id, "received_at": now} for message_id in by_id]
    inserted = insert_rows(
        connection,
        relay_seen,
        rows,
        conflict=lambda insert: insert.on_conflict_do_nothing().returning(relay_seen.c.message_id),
    )
    new = set(inserted.scalars())
    return [m for m in messages if m.message_id in new and by_id[m.message_id] is m]


def _of_remembered(connection: Connection, messages: list[Message]) -> list[Message]:
    """Those that are not of a forgotten user (DESIGN, rule 10). A device that a forgotten user shared is not forgotten
    with them: what another user does on it is theirs."""
    if not somebody_is_forgotten(connection):
        return messages
    ids = {id_ for m in messages for id_ in (m.who, m.previous_id) if id_ is not None}
    forgotten = suppressed_among(connection, ids)
    return [m for m in messages if m.who not in forgotten and m.previous_id not in forgotten]


def _keep_events(connection: Connection, messages: Iterable[Message], now: datetime) -> None:
    rows = [
        {
            "message_id": m.message_id,
            "type": m.type,
            "name": m.name,
            "user_id": m.user_id,
            "anonymous_id": m.anonymous_id,
            "at": m.at,
            "received_at": now,
            "properties": orjson.dumps(m.details).decode(),
        }
        for m in messages
        if m.name is not None
    ]
    if rows:
        insert_rows(connection, relay_messages, rows)


def _forward(
    connection: Connection, messages: Iterable[Message], routes: Routes, counts: Counter[tuple[str, str, str]]
) -> int:
    rows = []
    for m in messages:
        if not m.forwarded:
            counts[m.type, BY_INTEGRATIONS, ""] += 1
            continue
        told = routes.told(m.type)
        for workflow in routes.workflows:
            counts[m.type, FORWARDED if workflow in told else BY_WORKFLOW, workflow] += 1
        if told:
            rows.append(
                {
                    "computation_id": routes.computation_ids[m.type],
                    "sync_id": routes.sync_id,
                    "user_id": m.who,
                    "value": m.body,
                }
            )
    if rows:
        dialect = connection.dialect.name
        insert_rows(connection, outbox, rows, computed={"lane": lambda given: lane_of(given("user_id"), dialect)})
    return len(rows)


def _count(connection: Connection, counts: Mapping[tuple[str, str, str], int]) -> None:
    rows = [
        {"type": type_, "outcome": outcome, "workflow": workflow, "count": count}
        for (type_, outcome, workflow), count in sorted(counts.items())
        if count
    ]
    if rows:
        insert_rows(
            connection,
            relay_counts,
            rows,
            conflict=lambda insert: insert.on_conflict_do_update(
                index_elements=[relay_counts.c.type, relay_counts.c.outcome, relay_counts.c.workflow],
                set_={"count": relay_counts.c.count + insert.excluded.count},
            ),
        )
