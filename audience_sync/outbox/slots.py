"""The ceiling `rate`, shared by all senders of a workflow, on whatever machine they are.

It is a token bucket, kept as the one number that describes it: the instant at which the next call is due (the
generic cell rate algorithm, ITU-T I.371). A sender takes slots for some calls at a time, in one UPDATE.
"""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.state.tables import workflows

BURST_SECONDS = 0.1
"""How much unused time may be made up for."""


def take_slots(connection: Connection, workflow_id: int, count: int, rate: float) -> float:
    """Reserve `count` calls at `rate` a second; returns in how many seconds the first of them is due (negative: it is
    overdue). In the caller's transaction."""
    now: sa.ColumnElement[float] = sa.literal(time.time(), sa.Float)
    if connection.dialect.name == "postgresql":  # one clock for all machines
        now = sa.cast(sa.func.extract("epoch", sa.func.clock_timestamp()), sa.Float)
    earliest = now - BURST_SECONDS
    start = sa.case((workflows.c.next_slot_at > earliest, workflows.c.next_slot_at), else_=earliest)
    row = connection.execute(
        sa.update(workflows)
        .where(workflows.c.id == workflow_id)
        .values(next_slot_at=start + count / rate)
        .returning(workflows.c.next_slot_at, now)
    ).one()
    return float(row[0] - count / rate - row[1])
