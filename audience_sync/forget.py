"""Deletion and suppression: a user leaves state and is deleted at every workflow, and no sync brings them back."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import outbox, relay
from audience_sync.clock import text, utcnow
from audience_sync.config import Config
from audience_sync.database import told, writing
from audience_sync.delivery import Progress, deliver
from audience_sync.outbox.forget import JOB, computation, erase, write_delete
from audience_sync.snapshot import Databases
from audience_sync.state.schema import state_id
from audience_sync.state.suppression import hash_of, salt, suppress, suppressed_among, unsuppress
from audience_sync.state.tables import lanes, leftovers, syncs
from audience_sync.sync.checks import prepare

AT_ONCE = 500
"""Users a transaction; each is forgotten whole in one."""


@dataclass
class Forgotten:
    """One user, and what became of them."""

    user_id: str
    hash: str
    seq: int
    lane: int
    erased: dict[str, Any]
    calls: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By workflow: the delete's messageId, and `acknowledged`, `pending` or `dead`."""

    def as_json(self) -> dict[str, Any]:
        return {
            "user_id": self.user_id,
            "hash": self.hash,
            "was_in": self.erased["in"],
            "erased": {name: count for name, count in self.erased.items() if name != "in"},
            "calls": [
                {"workflow": name, "message_id": message, "status": status}
                for name, (message, status) in self.calls.items()
            ],
        }


@dataclass
class ForgetReport:
    at: str
    users: list[Forgotten]

    @property
    def is_done(self) -> bool:
        return all(status == "acknowledged" for user in self.users for _, status in user.calls.values())

    def count(self, workflow: str, status: str) -> int:
        return sum(user.calls[workflow][1] == status for user in self.users)

    @property
    def workflows(self) -> list[str]:
        return list(self.users[0].calls) if self.users else []

    def as_json(self) -> dict[str, Any]:
        return {"forgotten_at": self.at, "done": self.is_done, "users": [user.as_json() for user in self.users]}


def forget(
    config: Config,
    user_ids: Sequence[str],
    *,
    progress: Progress | None = None,
    stopping: threading.Event | None = None,
    **delivering: Any,
) -> ForgetReport:
    """Forget these users. What could not be delivered is kept in the outbox and goes out with the next delivery.

    `delivering` goes to `delivery.deliver`.
    """
    ids = list(dict.fromkeys(user_ids))
    databases = Databases.open(config.source, config.state)
    try:
        prepare(config, databases)
        with told("state", config.state), databases.state.connect() as connection:
            now = utcnow()
            with writing(connection):
                workflow_ids = outbox.register_workflows(connection, config.workflows, now)
                sync = connection.execute(
                    sa.insert(syncs)
                    .values(token=secrets.token_hex(8), job=JOB, as_of=now, started_at=now, status="running")
                    .returning(syncs.c.id, syncs.c.token)
                ).one()
            found: list[Forgotten] = []
            for at in range(0, len(ids), AT_ONCE):
                with writing(connection):
                    found += _forget(connection, ids[at : at + AT_ONCE], sync.id, list(workflow_ids.values()))
            deliver(config, databases, workflow_ids, progress=progress, stopping=stopping, **delivering)
            report = ForgetReport(str(text(now)), found)
            with connection.begin():
                identity = state_id(connection)
                for name, workflow_id in workflow_ids.items():
                    prefix = outbox.message_prefix(identity, sync.token, name)
                    for user, status in zip(found, _statuses(connection, workflow_id, found), strict=True):
                        user.calls[name] = f"{prefix}-{user.seq}", status
            with writing(connection):
                status = "succeeded" if report.is_done else "undelivered"
                ended = {"finished_at": utcnow(), "status": status}
                connection.execute(sa.update(syncs).where(syncs.c.id == sync.id).values(ended))
            return report
    finally:
        databases.dispose()


def _forget(
    connection: Connection, user_ids: Sequence[str], sync_id: int, workflow_ids: Sequence[int]
) -> list[Forgotten]:
    """These users, and the ids that the relay has linked to them."""
    computation_id = computation(connection, workflow_ids)
    known = salt(connection)
    linked = relay.forget(connection, user_ids)
    user_ids = [*user_ids, *sorted(linked - set(user_ids))]
    erased = erase(connection, user_ids)
    suppress(connection, user_ids, utcnow())
    return [
        Forgotten(
            user_id,
            hash_of(user_id, known),
            *write_delete(connection, computation_id, sync_id, user_id),
            erased[user_id],
        )
        for user_id in user_ids
    ]


def _statuses(connection: Connection, workflow_id: int, users: Sequence[Forgotten]) -> list[str]:
    cursors: dict[int, int] = dict(
        connection.execute(sa.select(lanes.c.lane, lanes.c.cursor).where(lanes.c.workflow_id == workflow_id)).all()
    )
    ids = {user.user_id for user in users}
    waiting: dict[int, bool] = {
        row.seq: row.dead_at is not None
        for row in connection.execute(
            sa.select(leftovers.c.seq, leftovers.c.user_id, leftovers.c.dead_at).where(
                leftovers.c.workflow_id == workflow_id
            )
        )
        if row.user_id in ids
    }
    found = []
    for user in users:
        if user.seq in waiting:
            found.append("dead" if waiting[user.seq] else "pending")
        else:
            found.append("acknowledged" if cursors[user.lane] >= user.seq else "pending")
    return found


def unforget(config: Config, user_ids: Sequence[str]) -> list[str]:
    """Lift the suppression: the next sync treats them as anyone. Returns those who were forgotten."""
    databases = Databases.open(config.source, config.state)
    try:
        prepare(config, databases)
        with told("state", config.state), databases.state.connect() as connection, writing(connection):
            forgotten = suppressed_among(connection, user_ids)
            unsuppress(connection, user_ids)
        return [user_id for user_id in dict.fromkeys(user_ids) if user_id in forgotten]
    finally:
        databases.dispose()
