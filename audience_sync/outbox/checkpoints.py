"""Writing down what became of deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.outbox.batches import Delivery
from audience_sync.state.tables import attempts, checkpoints, lanes, leftovers, workflows


@dataclass(frozen=True)
class Failure:
    """A delivery that was not acknowledged. `attempts` counts all that told against it, this one included."""

    delivery: Delivery
    attempts: int
    error: str
    status_code: int | None
    next_attempt_at: datetime
    dead: bool = False
    chained: bool = False
    merged_into: int | None = None


@dataclass(frozen=True)
class Attempt:
    """One HTTP request that failed, for people to look at."""

    delivery: Delivery
    at: datetime
    seconds: float
    status_code: int | None
    error: str
    answer: str | None


@dataclass(frozen=True)
class Done:
    """What a checkpoint writes down."""

    lane: int
    from_seq: int
    cursor: int
    acknowledged: int
    seconds: float
    retried: Sequence[Delivery] = ()
    """Acknowledged leftovers."""
    failed: Sequence[Failure] = ()
    attempts: Sequence[Attempt] = ()


_workflow = sa.bindparam("workflow", type_=sa.BigInteger)
# Built once, as those of `batches` are.
_MOVE = (
    sa.update(lanes)
    .where(
        lanes.c.workflow_id == _workflow,
        lanes.c.lane == sa.bindparam("of_lane"),
        lanes.c.leased_by == sa.bindparam("sender"),
    )
    .values(cursor=sa.bindparam("reached"))
)
_CHECKPOINT = sa.insert(checkpoints)
# Good news are told at most once a second: the senders of one workflow would wait for each other's commits.
_WELL = (
    sa.update(workflows)
    .where(
        workflows.c.id == _workflow,
        sa.or_(
            workflows.c.last_ack_at.is_(None),
            workflows.c.last_ack_at < sa.bindparam("lately"),
            workflows.c.paused_at.is_not(None),
            workflows.c.last_error.is_not(None),
        ),
    )
    .values(last_ack_at=sa.bindparam("now"), paused_at=None, last_error=None, last_error_at=None)
)


def checkpoint(connection: Connection, workflow_id: int, sender: str, done: Done, now: datetime) -> bool:
    """Move the cursor and write down what was left behind, in the caller's transaction.

    False when the lane went to another sender meanwhile: then nothing is written.
    """
    moved = {"workflow": workflow_id, "of_lane": done.lane, "sender": sender, "reached": done.cursor}
    if connection.execute(_MOVE, moved).rowcount != 1:
        return False
    this = sa.and_(leftovers.c.workflow_id == workflow_id, leftovers.c.seq == sa.bindparam("s"))
    if done.retried:
        connection.execute(sa.delete(leftovers).where(this), [{"s": d.seq} for d in done.retried])
    again = [f for f in done.failed if f.delivery.waited]
    if again:
        connection.execute(
            sa.update(leftovers)
            .where(this)
            .values(
                attempts=sa.bindparam("n"),
                next_attempt_at=sa.bindparam("at"),
                status_code=sa.bindparam("code"),
                error=sa.bindparam("said"),
                dead_at=sa.bindparam("dead"),
            ),
            [
                {
                    "s": f.delivery.seq,
                    "n": f.attempts,
                    "at": f.next_attempt_at,
                    "code": f.status_code,
                    "said": f.error,
                    "dead": now if f.dead else None,
                }
                for f in again
            ],
        )
    fresh = [f for f in done.failed if not f.delivery.waited]
    if fresh:
        connection.execute(
            sa.insert(leftovers),
            [
                {
                    "workflow_id": workflow_id,
                    "seq": f.delivery.seq,
                    "lane": done.lane,
                    "computation_id": f.delivery.computation_id,
                    "user_id": f.delivery.user_id,
                    "chained": f.chained,
                    "sync_id": f.delivery.sync_id,
                    "value": f.delivery.value,
                    "merged_into": f.merged_into,
                    "attempts": f.attempts,
                    "first_attempt_at": now,
                    "next_attempt_at": f.next_attempt_at,
                    "status_code": f.status_code,
                    "error": f.error,
                    "dead_at": now if f.dead else None,
                }
                for f in fresh
            ],
        )
    if done.attempts:
        connection.execute(
            sa.insert(attempts),
            [
                {
                    "workflow_id": workflow_id,
                    "seq": a.delivery.seq,
                    "computation_id": a.delivery.computation_id,
                    "user_id": a.delivery.user_id,
                    "at": a.at,
                    "seconds": a.seconds,
                    "status_code": a.status_code,
                    "error": a.error,
                    "answer": a.answer,
                }
                for a in done.attempts
            ],
        )
    if done.acknowledged or done.attempts:
        connection.execute(
            _CHECKPOINT,
            {
                "workflow_id": workflow_id,
                "lane": done.lane,
                "at": now,
                "from_seq": done.from_seq,
                "to_seq": done.cursor,
                "acknowledged": done.acknowledged,
                "failed": len(done.attempts),
                "seconds": done.seconds,
            },
        )
        _note(connection, workflow_id, done, now)
    return True


def _note(connection: Connection, workflow_id: int, done: Done, now: datetime) -> None:
    """What people see of the workflow."""
    if not done.attempts:
        connection.execute(_WELL, {"workflow": workflow_id, "now": now, "lately": now - timedelta(seconds=1)})
        return
    last = done.attempts[-1]
    changed: dict[str, Any] = {"last_error_at": last.at, "last_error": last.error}
    if done.acknowledged:
        changed |= {"last_ack_at": now, "paused_at": None}
    connection.execute(sa.update(workflows).where(workflows.c.id == workflow_id).values(changed))
