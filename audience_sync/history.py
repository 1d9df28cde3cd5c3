"""Past syncs: what each found, what it told, and how it ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.clock import text
from audience_sync.state.locks import is_held
from audience_sync.state.tables import computations, handed_over, results, syncs, workflows


def past_syncs(connection: Connection, state_url: str, jobs: Collection[str], limit: int) -> list[dict[str, Any]]:
    """The latest syncs of the jobs of these keys (none given: of all), the newest first."""
    chosen = sa.select(syncs).order_by(syncs.c.id.desc()).limit(limit)
    if jobs:
        chosen = chosen.where(syncs.c.job.in_(jobs))
    rows = connection.execute(chosen).all()
    ids = [row.id for row in rows]
    found = _results(connection, ids)
    told = _handed_over(connection, ids)
    running: dict[str, bool] = {}
    shown = []
    for row in rows:
        status = row.status
        if status == "running":
            if row.job not in running:
                running[row.job] = is_held(connection, state_url, f"job {row.job}")
            status = "running" if running[row.job] else "killed"
        seconds = (row.finished_at - row.started_at).total_seconds() if row.finished_at else None
        shown.append(
            {
                "sync": row.id,
                "job": row.job,
                "as_of": text(row.as_of),
                "started_at": text(row.started_at),
                "finished_at": text(row.finished_at),
                "seconds": None if seconds is None else round(seconds, 3),
                "status": status,
                "error": row.error,
                "computations": found.get(row.id, []),
                "deliveries": told.get(row.id, []),
            }
        )
    return shown


def _results(connection: Connection, ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in connection.execute(
        sa.select(results, computations.c.key, computations.c["class"])
        .join(computations, computations.c.id == results.c.computation_id)
        .where(results.c.sync_id.in_(ids))
        .order_by(computations.c.key)
    ):
        found.setdefault(row.sync_id, []).append(
            {
                "key": row.key,
                "class": row._mapping["class"],
                "initial": row.initial,
                "held": row.held,
                "held_because": row.held_because,
                "size": row.size,
                "entered": row.entered,
                "exited": row.exited,
                "changed": row.changed,
                "skipped_ids": row.skipped_ids,
                "seconds": round(row.seconds, 3),
            }
        )
    return found


def _handed_over(connection: Connection, ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    told: dict[int, list[dict[str, Any]]] = {}
    for row in connection.execute(
        sa.select(handed_over, workflows.c.name)
        .join(workflows, workflows.c.id == handed_over.c.workflow_id)
        .where(handed_over.c.sync_id.in_(ids))
        .order_by(workflows.c.id)
    ):
        told.setdefault(row.sync_id, []).append(
            {
                "workflow": row.name,
                "delivered": row.delivered,
                "pending": row.pending,
                "dead": row.dead,
                "superseded": row.superseded,
                "seconds": row.seconds,
            }
        )
    return told
