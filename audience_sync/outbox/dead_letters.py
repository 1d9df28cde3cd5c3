"""Dead letters: deliveries given up on, kept until somebody retries or discards them.

**A retry never brings back an older value.** A dead letter holds the newest value of its (workflow, computation, user)
that was recorded when it was looked at: a newer change takes its place and is delivered instead (`windows`). So what is
retried is always the newest, and needs no check of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection

from audience_sync.clock import text, utcnow
from audience_sync.outbox.workflows import message_prefix
from audience_sync.state.schema import state_id
from audience_sync.state.tables import attempts, computations, leftovers, syncs, workflows


@dataclass(frozen=True)
class Chosen:
    """Which dead letters are meant; what is not given does not matter."""

    workflows: Sequence[str] = ()
    keys: Sequence[str] = ()
    users: Sequence[str] = ()
    statuses: Sequence[int] = ()
    before: datetime | None = None
    """Given up on before this instant."""
    after: datetime | None = None

    @property
    def is_all(self) -> bool:
        return self == Chosen()

    def conditions(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = [leftovers.c.dead_at.is_not(None)]
        if self.workflows:
            named = sa.select(workflows.c.id).where(workflows.c.name.in_(self.workflows))
            found.append(leftovers.c.workflow_id.in_(named))
        if self.keys:
            keyed = sa.select(computations.c.id).where(computations.c.key.in_(self.keys))
            found.append(leftovers.c.computation_id.in_(keyed))
        if self.users:
            found.append(leftovers.c.user_id.in_(self.users))
        if self.statuses:
            found.append(leftovers.c.status_code.in_(self.statuses))
        if self.before is not None:
            found.append(leftovers.c.dead_at < self.before)
        if self.after is not None:
            found.append(leftovers.c.dead_at >= self.after)
        return found


def list_dead(connection: Connection, chosen: Chosen, limit: int | None = None) -> list[dict[str, Any]]:
    """The dead letters, the newest first, each with its failed attempts."""
    identity = state_id(connection)
    rows = connection.execute(
        sa.select(leftovers, workflows.c.name.label("workflow"), computations.c.key, syncs.c.token)
        .join(workflows, workflows.c.id == leftovers.c.workflow_id)
        .join(computations, computations.c.id == leftovers.c.computation_id)
        .join(syncs, syncs.c.id == leftovers.c.sync_id)
        .where(*chosen.conditions())
        .order_by(leftovers.c.dead_at.desc(), leftovers.c.seq)
        .limit(limit)
    ).all()
    return [
        {
            "workflow": row.workflow,
            "key": row.key,
            "user_id": row.user_id,
            "value": row.value,
            "message_id": f"{message_prefix(identity, row.token, row.workflow)}-{row.seq}",
            "status": row.status_code,
            "error": row.error,
            "attempts": row.attempts,
            "first_attempt_at": text(row.first_attempt_at),
            "dead_at": text(row.dead_at),
            "tried": list(tries(connection, row.workflow_id, row.seq)),
        }
        for row in rows
    ]


def tries(connection: Connection, workflow_id: int, seq: int) -> list[dict[str, Any]]:
    """The failed attempts of one delivery, in order."""
    query = (
        sa.select(attempts)
        .where(attempts.c.workflow_id == workflow_id, attempts.c.seq == seq)
        .order_by(attempts.c.at, attempts.c.id)
    )
    return [
        {
            "at": text(row.at),
            "seconds": round(row.seconds, 4),
            "status": row.status_code,
            "error": row.error,
            "answer": row.answer,
        }
        for row in connection.execute(query)
    ]


def count_dead(connection: Connection, chosen: Chosen) -> int:
    return int(connection.execute(sa.select(sa.func.count()).where(*chosen.conditions())).scalar_one())


def retry_dead(connection: Connection, chosen: Chosen, now: datetime) -> int:
    """Make them due again, as if never tried; returns how many. In the caller's transaction."""
    revived = {"dead_at": None, "attempts": 0, "first_attempt_at": now, "next_attempt_at": now}
    return connection.execute(sa.update(leftovers).where(*chosen.conditions()).values(revived)).rowcount


DISCARDED = "discarded by hand"
"""The error of the last attempt of a delivery that somebody discarded, so that it is known what became of it."""


def discard_dead(connection: Connection, chosen: Chosen) -> int:
    """Delete them; returns how many. In the caller's transaction."""
    note = ["workflow_id", "seq", "computation_id", "user_id", "at", "seconds", "error"]
    found = [getattr(leftovers.c, name) for name in note[:4]]
    instead = [sa.literal(utcnow(), attempts.c.at.type), sa.literal(0.0), sa.literal(DISCARDED)]
    connection.execute(sa.insert(attempts).from_select(note, sa.select(*found, *instead).where(*chosen.conditions())))
    return connection.execute(sa.delete(leftovers).where(*chosen.conditions())).rowcount
