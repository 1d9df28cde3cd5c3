"""Where things stand: for the operator at 3 a.m., what is behind, why, and what to do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import outbox
from audience_sync.config import Config
from audience_sync.database import is_sqlite, open_source, open_state, sqlite_path, told
from audience_sync.redact import database_address, web_address
from audience_sync.state import schema
from audience_sync.state.tables import computations, results, syncs, workflows


def _z(instant: datetime | None) -> str | None:
    return None if instant is None else instant.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")


def look(config: Config) -> dict[str, Any]:
    """The whole picture as one document; writes nothing."""
    found: dict[str, Any] = {
        "state": database_address(config.state),
        "jobs": [],
        "workflows": [],
        "advice": [],
    }
    if is_sqlite(config.state) and not sqlite_path(config.state).exists():
        found["jobs"] = [_never(job.key, job.name) for job in config.jobs]
        found["advice"].append("nothing was synced yet: `audience-sync run`")
        return found
    with told("state", config.state):
        engine = open_source(config.state) if is_sqlite(config.state) else open_state(config.state)
        try:
            with engine.connect() as connection:
                version = schema.version(connection)
                schema.refuse_newer(version)
                if version is None:
                    found["jobs"] = [_never(job.key, job.name) for job in config.jobs]
                    found["advice"].append("state has no tables yet: `audience-sync migrate`")
                else:
                    _fill(connection, config, found)
        finally:
            engine.dispose()
    return found


def _never(key: str, name: str) -> dict[str, Any]:
    return {"job": key, "name": name, "in_config": True, "last_sync": None, "computations": []}


def _fill(connection: Connection, config: Config, found: dict[str, Any]) -> None:
    named = {c.key for job in config.jobs for c in job.computed}
    titles = {job.key: job.name for job in config.jobs}
    held = _held(connection)
    rows = connection.execute(sa.select(computations).order_by(computations.c.key)).all()
    for key in dict.fromkeys([*titles, *(row.job for row in rows)]):
        last = connection.execute(
            sa.select(syncs).where(syncs.c.job == key).order_by(syncs.c.id.desc()).limit(1)
        ).first()
        job = _never(key, titles.get(key, key)) | {"in_config": key in titles}
        if last is not None:
            job["last_sync"] = {
                "as_of": _z(last.as_of),
                "started_at": _z(last.started_at),
                "finished_at": _z(last.finished_at),
                "status": last.status if last.finished_at else "running or killed",
                "error": last.error,
            }
        for row in rows:
            if row.job != key:
                continue
            removed = row.key not in named
            if removed and not row.size:
                continue
            job["computations"].append(
                {
                    "key": row.key,
                    "name": row.name,
                    "class": row._mapping["class"],
                    "size": row.size,
                    "as_of": _z(row.last_as_of),
                    "held": row.id in held,
                    "removed": removed,
                }
            )
            if row.id in held:
                found["advice"].append(
                    f"{row.key} is held by the guard: look at `audience-sync plan`; "
                    f"to send it: `audience-sync run {key} --allow-large-change`"
                )
            if removed:
                found["advice"].append(
                    f"{row.key} is no longer in jobs.yaml; its {row.size:,} members are kept and told nothing "
                    "(on_remove: send false on the job tells them false)"
                )
        found["jobs"].append(job)
    for row in connection.execute(
        sa.select(workflows).where(workflows.c.removed_at.is_(None)).order_by(workflows.c.id)
    ):
        counts = outbox.pending(connection, row.id).values()
        pending, dead = sum(count for count, _ in counts), sum(dead for _, dead in counts)
        address = web_address(config.workflows[row.name].url) if row.name in config.workflows else None
        found["workflows"].append(
            {
                "workflow": row.name,
                "address": address,
                "pending": pending,
                "dead": dead,
                "last_acknowledged_at": _z(row.last_ack_at),
                "last_error_at": _z(row.last_error_at),
                "last_error": row.last_error,
            }
        )
        if pending:
            why = f" ({row.last_error})" if row.last_error else ""
            found["advice"].append(f"{row.name} is {pending:,} behind{why}: mend it, then `audience-sync run`")
        if dead:
            found["advice"].append(f"{row.name} has {dead:,} dead letters ({row.last_error or 'refused'})")


def _held(connection: Connection) -> set[int]:
    """The computations whose latest sync was held."""
    latest = sa.select(results.c.computation_id, sa.func.max(results.c.sync_id).label("sync_id")).group_by(
        results.c.computation_id
    )
    newest = latest.subquery()
    return set(
        connection.execute(
            sa.select(results.c.computation_id)
            .join(
                newest,
                sa.and_(newest.c.computation_id == results.c.computation_id, newest.c.sync_id == results.c.sync_id),
            )
            .where(results.c.held)
        ).scalars()
    )
