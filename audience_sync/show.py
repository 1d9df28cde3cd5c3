"""What is known of one user: what they are in, and what each workflow was told about them, when, and how it went."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.clock import text
from audience_sync.config import Config
from audience_sync.errors import AudienceSyncError
from audience_sync.outbox.dead_letters import DISCARDED, tries
from audience_sync.outbox.workflows import message_prefix
from audience_sync.snapshot import Databases
from audience_sync.state.schema import state_id
from audience_sync.state.suppression import suppressed_among
from audience_sync.state.tables import (
    checkpoints,
    computations,
    lanes,
    leftovers,
    outbox,
    passed_over,
    routes,
    synced,
    syncs,
    workflows,
)
from audience_sync.warehouse import memberships, warehouse_of


def what_is_known(connection: Connection, user_id: str, config: Config) -> dict[str, Any]:
    """One document on a user, as far back as `retention:` keeps deliveries.

    `unknown` says why a warehouse that keeps the snapshots could not be asked; else it is None.
    """
    forgotten = bool(suppressed_among(connection, [user_id]))
    now, unknown = _now(connection, user_id), None
    if not forgotten:
        try:
            now += _in_warehouse(connection, user_id, config)
        except AudienceSyncError as error:
            unknown = str(error)
    return {
        "user_id": user_id,
        "forgotten": forgotten,
        "now": sorted(now, key=lambda item: str(item["key"])),
        "unknown": unknown,
        "told": _told(connection, user_id),
    }


def _now(connection: Connection, user_id: str) -> list[dict[str, Any]]:
    """The audiences they are in and the traits they have, as last synced."""
    query = (
        sa.select(computations.c.key, computations.c.name, computations.c["class"], synced.c.value)
        .join(synced, synced.c.computation_id == computations.c.id)
        .where(synced.c.user_id == user_id)
    )
    return [_item(row, row.value) for row in connection.execute(query)]


def _in_warehouse(connection: Connection, user_id: str, config: Config) -> list[dict[str, Any]]:
    """The same of those whose snapshots the source keeps."""
    rows = {
        row.key: row for row in connection.execute(sa.select(computations).where(computations.c.snapshot.is_not(None)))
    }
    if not rows:
        return []
    databases = Databases.open(config.source, config.state)
    try:
        warehouse = warehouse_of(connection, databases, rows.values())
        assert warehouse is not None
        found = memberships(warehouse, {key: row.snapshot for key, row in rows.items()}, [user_id])
    finally:
        databases.dispose()
    return [_item(rows[key], value) for _, key, value in found]


def _item(row: Any, value: str | None) -> dict[str, Any]:
    told = True if value is None else json.loads(value)
    return {"key": row.key, "name": row.name, "class": row._mapping["class"], "value": told}


def _told(connection: Connection, user_id: str) -> list[dict[str, Any]]:
    """Every change for every workflow it was meant for, the newest first."""
    meant = sa.or_(
        outbox.c.workflow_id == routes.c.workflow_id,
        sa.and_(outbox.c.workflow_id.is_(None), outbox.c.seq > routes.c.since_seq),
    )
    of_workflow = lanes.c.workflow_id == routes.c.workflow_id
    skipped = sa.and_(passed_over.c.workflow_id == routes.c.workflow_id, passed_over.c.seq == outbox.c.seq)
    waiting = sa.and_(leftovers.c.workflow_id == routes.c.workflow_id, leftovers.c.seq == outbox.c.seq)
    rows = connection.execute(
        sa.select(
            outbox,
            routes.c.workflow_id.label("to_id"),
            workflows.c.name.label("workflow"),
            computations.c.key,
            syncs.c.token,
            syncs.c.job,
            syncs.c.as_of,
            syncs.c.started_at,
            lanes.c.cursor,
            passed_over.c.seq.label("skipped"),
            passed_over.c.merged_into,
            leftovers.c.seq.label("waiting"),
            leftovers.c.dead_at,
            leftovers.c.next_attempt_at,
        )
        .join(routes, sa.and_(routes.c.computation_id == outbox.c.computation_id, meant))
        .join(workflows, workflows.c.id == routes.c.workflow_id)
        .join(computations, computations.c.id == outbox.c.computation_id)
        .join(syncs, syncs.c.id == outbox.c.sync_id)
        .join(lanes, sa.and_(of_workflow, lanes.c.lane == outbox.c.lane))
        .outerjoin(passed_over, skipped)
        .outerjoin(leftovers, waiting)
        .where(outbox.c.user_id == user_id, routes.c.ended.is_(False))
        .order_by(outbox.c.seq.desc(), routes.c.workflow_id)
    ).all()
    identity = state_id(connection)
    failed = {row.seq for row in rows if row.skipped is None and tries(connection, row.to_id, row.seq)}
    failed_pairs = {(row.to_id, row.computation_id) for row in rows if row.seq in failed}
    newer: dict[tuple[int, int], Any] = {}
    found = []
    for row in rows:
        pair = (row.to_id, row.computation_id)
        after = newer.get(pair)
        newer[pair] = row
        attempts = list(tries(connection, row.to_id, row.seq))
        status, at = _status(
            connection,
            row,
            attempts,
            took_over=after is None and pair in failed_pairs,
            taken_over=after is not None and after.skipped is not None and after.merged_into is None,
        )
        seq = row.merged_into or row.seq
        found.append(
            {
                "workflow": row.workflow,
                "key": row.key,
                "value": json.loads(row.value),
                "status": status,
                "at": at if isinstance(at, str) else text(at),
                "recorded_at": text(row.started_at),
                "job": row.job,
                "as_of": text(row.as_of),
                "message_id": f"{message_prefix(identity, row.token, row.workflow)}-{seq}",
                "failed_attempts": attempts,
            }
        )
    return found


def _status(
    connection: Connection, row: Any, attempts: list[Any], *, took_over: bool, taken_over: bool
) -> tuple[str, Any]:
    """What became of one delivery, and when.

    One that failed waits in `leftovers`; a newer value takes over its place there, and its own row is passed over. The
    moment at which one that failed was acknowledged is not kept, only that it came after its last attempt.
    """
    if row.waiting is not None:
        return ("dead", row.dead_at) if row.dead_at is not None else ("waiting", row.next_attempt_at)
    if row.skipped is not None and row.merged_into is None:
        return ("acknowledged", None) if took_over else ("superseded", None)
    seq = row.merged_into or row.seq
    if seq > row.cursor:
        return "pending", None
    if attempts:
        if attempts[-1]["error"] == DISCARDED:
            return "discarded", attempts[-1]["at"]
        return ("superseded" if taken_over else "acknowledged"), None
    passed = (
        sa.select(sa.func.min(checkpoints.c.at))
        .where(checkpoints.c.workflow_id == row.to_id, checkpoints.c.lane == row.lane)
        .where(checkpoints.c.from_seq < seq, checkpoints.c.to_seq >= seq)
    )
    return "acknowledged", connection.execute(passed).scalar()
