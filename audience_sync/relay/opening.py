"""Before the relay opens: its place in the outbox, that is a computation for each type of message, and their routes."""

from __future__ import annotations

import secrets
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import outbox
from audience_sync.config import Config
from audience_sync.config.model import MESSAGES
from audience_sync.outbox.record import head, take_turn
from audience_sync.relay.store import Routes
from audience_sync.state.tables import computations, leftovers, routes, syncs

JOB = "relay"
CLASS = "message"


def open_routes(connection: Connection, config: Config, now: datetime) -> tuple[Routes, dict[str, int]]:
    """Make state's routes of messages those of jobs.yaml, in the caller's transaction; also the workflows' ids.

    A workflow that was not told a type before is told it from now on, not what came in earlier.
    """
    workflow_ids = outbox.register_workflows(connection, config.workflows, now)
    take_turn(connection)
    wanted = {
        name: frozenset(MESSAGES if workflow.messages is None else workflow.messages)
        for name, workflow in config.workflows.items()
    }
    ids = _computation_ids(connection)
    for message_type, computation_id in ids.items():
        told = {workflow_ids[name] for name, types in wanted.items() if message_type in types}
        _route(connection, computation_id, told)
    sync_id = connection.execute(
        sa.insert(syncs)
        .values(token=secrets.token_hex(8), job=JOB, as_of=now, started_at=now, status="running")
        .returning(syncs.c.id)
    ).scalar_one()
    return Routes(sync_id, ids, wanted), workflow_ids


def close(connection: Connection, opened: Routes, now: datetime) -> None:
    connection.execute(sa.update(syncs).where(syncs.c.id == opened.sync_id).values(finished_at=now, status="succeeded"))


def _computation_ids(connection: Connection) -> dict[str, int]:
    keys = {f"{JOB}:{message_type}": message_type for message_type in MESSAGES}
    query = sa.select(computations.c.key, computations.c.id).where(computations.c.key.in_(keys))
    found = {keys[key]: id_ for key, id_ in connection.execute(query)}
    for key, message_type in keys.items():
        if message_type not in found:
            row = {"key": key, "name": message_type, "class": CLASS, "job": JOB, "definition": ""}
            found[message_type] = connection.execute(
                sa.insert(computations).values(row).returning(computations.c.id)
            ).scalar_one()
    return found


def _route(connection: Connection, computation_id: int, told: set[int]) -> None:
    of_this = routes.c.computation_id == computation_id
    known = dict(connection.execute(sa.select(routes.c.workflow_id, routes.c.ended).where(of_this)).all())
    since = head(connection)
    for workflow_id in told:
        if workflow_id not in known:
            connection.execute(
                sa.insert(routes).values(
                    workflow_id=workflow_id, computation_id=computation_id, since_seq=since, ended=False
                )
            )
        elif known[workflow_id]:
            connection.execute(
                sa.update(routes)
                .where(of_this, routes.c.workflow_id == workflow_id)
                .values(since_seq=since, ended=False)
            )
    if ended := {workflow_id for workflow_id, over in known.items() if not over} - told:
        connection.execute(sa.update(routes).where(of_this, routes.c.workflow_id.in_(ended)).values(ended=True))
        connection.execute(
            sa.delete(leftovers).where(leftovers.c.computation_id == computation_id, leftovers.c.workflow_id.in_(ended))
        )
