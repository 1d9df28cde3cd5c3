"""Where things stand: for the operator at 3 a.m., what is behind, why, and what to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import outbox, relay
from audience_sync.clock import ago, text
from audience_sync.config import Config, Job
from audience_sync.config.schedule import ClockTrigger, first_after, trigger
from audience_sync.database import is_sqlite
from audience_sync.history import past_syncs
from audience_sync.redact import database_address, web_address
from audience_sync.state.reading import reading
from audience_sync.state.tables import checkpoints, computations, results, syncs, workflows

LATE = timedelta(minutes=10)
"""A sync that has been due for so long, and was not started, is late, if `alerts:` does not say otherwise."""


def look(config: Config, now: datetime | None = None) -> dict[str, Any]:
    """The whole picture as one document; writes nothing."""
    now = now or datetime.now(UTC)
    found: dict[str, Any] = {
        "state": database_address(config.state),
        "jobs": [],
        "workflows": [],
        "relay": None,
        "advice": [],
    }
    with reading(config.state) as connection:
        if connection is not None:
            _fill(connection, config, found, now)
            return found
    found["jobs"] = [_job(config, job.key, job, None, now) for job in config.jobs]
    found["advice"].append(
        "nothing was synced yet: `audience-sync run`"
        if is_sqlite(config.state)
        else "state has no tables yet: `audience-sync migrate`, then `audience-sync run`"
    )
    return found


def due_at(job: Job, last_started: datetime | None, now: datetime) -> datetime | None:
    """When the job's next sync is due, given when its last one started; in the past, if that was missed.

    A job that was never synced is due at once where its schedule is a length of time, and at the next instant where it
    is one of the clock. None without a schedule.
    """
    if job.schedule is None:
        return None
    when = trigger(job.schedule, job.timezone)
    if last_started is None and not isinstance(when, ClockTrigger):
        return now
    return first_after(when, last_started or now)


def _job(config: Config, key: str, job: Job | None, last: dict[str, Any] | None, now: datetime) -> dict[str, Any]:
    late = timedelta(seconds=config.alerts.late_after) if config.alerts else LATE
    started = datetime.fromisoformat(last["started_at"]) if last else None
    due = due_at(job, started, now) if job else None
    running = last is not None and last["status"] == "running"
    return {
        "job": key,
        "name": job.name if job else key,
        "in_config": job is not None,
        "schedule": job.schedule if job else None,
        "next_run": None if due is None else text(due.astimezone(UTC).replace(tzinfo=None)),
        "late": due is not None and not running and now - due > late,
        "last_sync": last,
        "last_success_at": None,
        "computations": [],
    }


def _fill(connection: Connection, config: Config, found: dict[str, Any], now: datetime) -> None:
    named = {c.key for job in config.jobs for c in job.computed}
    jobs = {job.key: job for job in config.jobs}
    held = _held(connection)
    computed = computations.c["class"].in_(["audience", "computed_trait"])
    rows = connection.execute(sa.select(computations).where(computed).order_by(computations.c.key)).all()
    for key in dict.fromkeys([*jobs, *(row.job for row in rows)]):
        last = next(iter(past_syncs(connection, config.state, [key], 1)), None)
        job = _job(config, key, jobs.get(key), last, now)
        job["last_success_at"] = _last_success(connection, key)
        for row in rows:
            removed = row.key not in named
            if row.job != key or (removed and not row.size):
                continue
            job["computations"].append(
                {
                    "key": row.key,
                    "name": row.name,
                    "class": row._mapping["class"],
                    "size": row.size,
                    "as_of": text(row.last_as_of),
                    "held": row.id in held,
                    "held_because": held.get(row.id),
                    "removed": removed,
                }
            )
        found["jobs"].append(job)
        found["advice"] += _advice_on_job(job, now)
    for row in connection.execute(
        sa.select(workflows).where(workflows.c.removed_at.is_(None)).order_by(workflows.c.id)
    ):
        counts = outbox.pending(connection, row.id).values()
        workflow = {
            "workflow": row.name,
            "address": web_address(config.workflows[row.name].url) if row.name in config.workflows else None,
            "pending": sum(count for count, _ in counts),
            "dead": sum(dead for _, dead in counts),
            "paused_since": text(row.paused_at),
            "breaker_open_since": text(row.breaker_opened_at),
            "last_acknowledged_at": text(row.last_ack_at),
            **_speed(connection, row.id, row.last_ack_at),
            "last_error_at": text(row.last_error_at),
            "last_error": row.last_error,
        }
        found["workflows"].append(workflow)
        running = any(job["last_sync"] and job["last_sync"]["status"] == "running" for job in found["jobs"])
        found["advice"] += _advice_on_workflow(workflow, running)
    for name in config.workflows.keys() - {workflow["workflow"] for workflow in found["workflows"]}:
        found["advice"].append(f"{name} is new in jobs.yaml: it is told of all members by the next `audience-sync run`")

    found["relay"] = _relay(connection, config)


def _relay(connection: Connection, config: Config) -> dict[str, Any] | None:
    last = next(iter(past_syncs(connection, config.state, [relay.JOB], 1)), None)
    if last is None:
        return None
    return {"status": last["status"], "started_at": last["started_at"], "messages": relay.figures(connection)}


SPEED_WINDOW = timedelta(minutes=1)


def _speed(connection: Connection, workflow_id: int, until: datetime | None) -> dict[str, float | None]:
    """Calls acknowledged a second, and seconds an answer took, over the last minute in which it delivered."""
    if until is None:
        return {"per_second": None, "latency_seconds": None}
    first, acknowledged, calls, seconds = connection.execute(
        sa.select(
            sa.func.min(checkpoints.c.at),
            sa.func.coalesce(sa.func.sum(checkpoints.c.acknowledged), 0),
            sa.func.coalesce(sa.func.sum(checkpoints.c.acknowledged + checkpoints.c.failed), 0),
            sa.func.coalesce(sa.func.sum(checkpoints.c.seconds), 0.0),
        ).where(
            checkpoints.c.workflow_id == workflow_id,
            checkpoints.c.at >= until - SPEED_WINDOW,
            checkpoints.c.at <= until,
        )
    ).one()
    if not calls:
        return {"per_second": None, "latency_seconds": None}
    # A checkpoint covers about the second before it.
    span = max(1.0, (until - first).total_seconds() + 1.0)
    return {"per_second": round(acknowledged / span, 1), "latency_seconds": round(seconds / calls, 4)}


def _last_success(connection: Connection, job: str) -> str | None:
    query = sa.select(sa.func.max(syncs.c.finished_at)).where(syncs.c.job == job, syncs.c.status == "succeeded")
    return text(connection.execute(query).scalar())


def _advice_on_job(job: dict[str, Any], now: datetime) -> list[str]:
    key, last = job["job"], job["last_sync"]
    advice = []
    if last is None and job["in_config"]:
        advice.append(f"{key} was never synced: `audience-sync run {key}`")
    elif last is not None and last["status"] == "failed":
        advice.append(
            f"{key} failed {ago(last['finished_at'], now)}: {last['error']}: mend it, `audience-sync run {key}`"
        )
    elif last is not None and last["status"] == "killed":
        advice.append(f"{key}: its last sync was cut short; what it recorded is kept: `audience-sync run {key}`")
    if job["late"] and (last is None or last["status"] != "killed"):
        advice.append(
            f"{key} is late: it was due {ago(job['next_run'], now)}; see that `audience-sync start` is running, "
            f"or `audience-sync run {key}`"
        )
    for item in job["computations"]:
        if item["held"]:
            why = f": {item['held_because']}" if item["held_because"] else ""
            advice.append(
                f"{item['key']} is held by the guard{why}; look at `audience-sync plan {key}`; "
                f"to send it: `audience-sync run {key} --allow-large-change`"
            )
        if item["removed"]:
            advice.append(
                f"{item['key']} is no longer in jobs.yaml; its {item['size']:,} members are kept and told nothing "
                "(on_remove: send false on the job tells them false)"
            )
    return advice


def _advice_on_workflow(workflow: dict[str, Any], running: bool) -> list[str]:
    name, pending, dead = workflow["workflow"], workflow["pending"], workflow["dead"]
    why = f" ({workflow['last_error']})" if workflow["last_error"] else ""
    advice = []
    if workflow["paused_since"]:
        advice.append(
            f"{name} is paused{why}: it takes no call at all; correct its url: or shared_secret:, "
            f"then `audience-sync deliver --workflow {name}`; {pending:,} wait"
        )
    elif pending and workflow["breaker_open_since"]:
        advice.append(f"{name} fails steadily{why} and is asked once in a while; {pending:,} wait for it")
    elif pending and not (running and workflow["last_error"] is None):
        advice.append(f"{name} is {pending:,} behind{why}: `audience-sync deliver` goes on at once")
    if dead:
        letters = "1 dead letter" if dead == 1 else f"{dead:,} dead letters"
        advice.append(f"{name} has {letters}{why}: `audience-sync dead-letters list --workflow {name}`")
    return advice


def _held(connection: Connection) -> dict[int, str | None]:
    """The computations whose latest sync was held, and why."""
    newest = (
        sa.select(results.c.computation_id, sa.func.max(results.c.sync_id).label("sync_id"))
        .group_by(results.c.computation_id)
        .subquery()
    )
    latest = sa.and_(newest.c.computation_id == results.c.computation_id, newest.c.sync_id == results.c.sync_id)
    held: dict[int, str | None] = dict(
        connection.execute(
            sa.select(results.c.computation_id, results.c.held_because).join(newest, latest).where(results.c.held)
        ).all()
    )
    return held
