"""Deletion and suppression: a user leaves state and is deleted at every workflow, and no sync brings them back."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import outbox, relay
from audience_sync.clock import text, utcnow
from audience_sync.config import Config
from audience_sync.database import told, writing
from audience_sync.delivery import Progress, deliver
from audience_sync.errors import AudienceSyncError, DatabaseError
from audience_sync.outbox.forget import JOB, computation, erase, write_delete
from audience_sync.snapshot import Databases
from audience_sync.state.locks import try_lock
from audience_sync.state.schema import state_id
from audience_sync.state.suppression import hash_of, salt, suppress, suppressed_among, unsuppress
from audience_sync.state.tables import computations, lanes, leftovers, syncs
from audience_sync.sync.checks import prepare
from audience_sync.warehouse import cleanse, holding_forgotten, memberships, warehouse_of

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
    still_in: dict[str, str] = field(default_factory=dict)
    """Why the warehouse's last snapshots of these keys hold them yet. The next sync writes new ones, without them."""

    @property
    def is_done(self) -> bool:
        return not self.still_in and all(
            status == "acknowledged" for user in self.users for _, status in user.calls.values()
        )

    def count(self, workflow: str, status: str) -> int:
        return sum(user.calls[workflow][1] == status for user in self.users)

    @property
    def workflows(self) -> list[str]:
        return list(self.users[0].calls) if self.users else []

    def as_json(self) -> dict[str, Any]:
        return {
            "forgotten_at": self.at,
            "done": self.is_done,
            "still_in": self.still_in,
            "users": [user.as_json() for user in self.users],
        }


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
    databases = Databases.open(config.source, config.state, writing=True)
    try:
        prepare(config, databases)
        with told("state", config.state), databases.state.connect() as connection:
            now = utcnow()
            with writing(connection):
                workflow_ids = outbox.register_workflows(connection, config.workflows, now)
                sync = _begin(connection, now)
            found: list[Forgotten] = []
            for at in range(0, len(ids), AT_ONCE):
                chunk = ids[at : at + AT_ONCE]
                away = _memberships(connection, databases, chunk)
                with writing(connection):
                    routed = list(workflow_ids.values())
                    found += _forget(connection, chunk, sync.id, routed, away, databases.keeps_snapshots)
            deliver(config, databases, workflow_ids, progress=progress, stopping=stopping, **delivering)
            report = ForgetReport(str(text(now)), found, _cleanse(connection, config, databases, sync.token))
            with connection.begin():
                identity = state_id(connection)
                for name, workflow_id in workflow_ids.items():
                    prefix = outbox.message_prefix(identity, sync.token, name)
                    for user, status in zip(found, _statuses(connection, workflow_id, found), strict=True):
                        user.calls[name] = f"{prefix}-{user.seq}", status
            with writing(connection):
                _end(connection, sync, "succeeded" if report.is_done else "undelivered")
            return report
    finally:
        databases.dispose()


def _begin(connection: Connection, now: datetime) -> Any:
    """A sync's row for history; its token names what is written in a warehouse."""
    row = {"token": secrets.token_hex(8), "job": JOB, "as_of": now, "started_at": now, "status": "running"}
    return connection.execute(sa.insert(syncs).values(row).returning(syncs.c.id, syncs.c.token)).one()


def _end(connection: Connection, sync: Any, status: str) -> None:
    ended = {"finished_at": utcnow(), "status": status}
    connection.execute(sa.update(syncs).where(syncs.c.id == sync.id).values(ended))


def _forget(
    connection: Connection,
    user_ids: Sequence[str],
    sync_id: int,
    workflow_ids: Sequence[int],
    away: Sequence[tuple[str, str, Any]],
    keeps_snapshots: bool,
) -> list[Forgotten]:
    """These users, and the ids that the relay has linked to them."""
    computation_id = computation(connection, workflow_ids)
    known = salt(connection)
    linked = relay.forget(connection, user_ids)
    user_ids = [*user_ids, *sorted(linked - set(user_ids))]
    erased = erase(connection, user_ids)
    for user_id, key, _ in away:
        erased[user_id]["in"].append(key)
        erased[user_id]["memberships"] += 1
    suppress(connection, user_ids, utcnow())
    if keeps_snapshots:  # also those whose first snapshot a sync is just writing there
        computed = computations.c["class"].in_(["audience", "computed_trait"])
        connection.execute(sa.update(computations).where(computed).values(holds_forgotten=True))
    return [
        Forgotten(
            user_id,
            hash_of(user_id, known),
            *write_delete(connection, computation_id, sync_id, user_id),
            erased[user_id],
        )
        for user_id in user_ids
    ]


def _memberships(connection: Connection, databases: Databases, user_ids: Sequence[str]) -> list[tuple[str, str, Any]]:
    """What these users are in by the warehouse's snapshots; nothing where it can't be asked: it is but told."""
    with connection.begin():
        rows = connection.execute(sa.select(computations).where(computations.c.snapshot.is_not(None))).all()
        try:
            warehouse = warehouse_of(connection, databases, rows)
            return memberships(warehouse, {row.key: row.snapshot for row in rows}, user_ids) if warehouse else []
        except AudienceSyncError:
            return []


def _cleanse(connection: Connection, config: Config, databases: Databases, token: str) -> dict[str, str]:
    """Take them out of the warehouse's snapshots; returns, by key, why that could not be done now."""
    with connection.begin():
        rows = holding_forgotten(connection)
    still_in: dict[str, str] = {}
    for job in dict.fromkeys(row.job for row in rows):
        try:
            with connection.begin():
                warehouse = warehouse_of(connection, databases, rows)
            assert warehouse is not None
            with try_lock(databases.state, config.state, f"job {job}") as is_ours:
                if is_ours:
                    cleanse(connection, warehouse, token, job)
                    continue
                why = "a sync of its job is running, and takes them out when it ends"
        except AudienceSyncError as error:
            why = str(error)
        with connection.begin():
            left = {row.key for row in holding_forgotten(connection)}
        still_in |= {row.key: why for row in rows if row.job == job and row.key in left}
    return still_in


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
    """Lift the suppression: the next sync treats them as anyone. Returns those who were forgotten.

    DatabaseError, and nothing is lifted, where a warehouse's snapshot holds users who were forgotten and can't be rid
    of them now: to the next sync they would look as if they had been told.
    """
    databases = Databases.open(config.source, config.state, writing=True)
    try:
        prepare(config, databases)
        with told("state", config.state), databases.state.connect() as connection:
            with connection.begin():
                held = holding_forgotten(connection)
            if held:
                _cleanse_first(connection, config, databases)
            with writing(connection):
                forgotten = suppressed_among(connection, user_ids)
                unsuppress(connection, user_ids)
        return [user_id for user_id in dict.fromkeys(user_ids) if user_id in forgotten]
    finally:
        databases.dispose()


def _cleanse_first(connection: Connection, config: Config, databases: Databases) -> None:
    with writing(connection):
        sync = _begin(connection, utcnow())
    still_in = _cleanse(connection, config, databases, sync.token)
    with writing(connection):
        _end(connection, sync, "failed" if still_in else "succeeded")
    if still_in:
        key, why = next(iter(still_in.items()))
        raise DatabaseError(
            f"the last snapshot of {key} still holds users who were forgotten ({why}); nothing was done"
        )
