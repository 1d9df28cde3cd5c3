"""Users who did one thing after another, each within so long of the one before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Select

from audience_sync.computations.times import earlier
from audience_sync.config.durations import Duration

_REACHED, _CANDIDATE = 1, 0


def in_order(
    steps: Sequence[tuple[Select[Any], Duration | None]], named: Callable[[Any], sa.CTE], dialect: str
) -> Select[str]:
    """`steps` select (user_id, at), each with the time within which it follows the one before; `named` names a query.

    An event reaches a step when an event that reached the step before is strictly earlier and within the duration;
    and the latest such event decides. So for each step the two kinds of events are sorted once, by user and time,
    and a running maximum carries the latest along. At one instant candidates stand before what they would follow.
    """
    reached = steps[0][0]
    for candidates, within in steps[1:]:
        before, now = named(reached), named(candidates)
        both = named(
            sa.union_all(
                sa.select(before.c.user_id, before.c.at, sa.literal(_REACHED).label("kind")),
                sa.select(now.c.user_id, now.c.at, sa.literal(_CANDIDATE).label("kind")),
            )
        )
        latest = sa.func.max(sa.case((both.c.kind == _REACHED, both.c.at), else_=sa.null()), type_=both.c.at.type).over(
            partition_by=both.c.user_id, order_by=(both.c.at, both.c.kind), rows=(None, 0)
        )
        carried = named(sa.select(both.c.user_id, both.c.at, both.c.kind, latest.label("latest")))
        follows: sa.ColumnElement[bool] = carried.c.latest.is_not(None)
        if within is not None:
            follows = carried.c.latest > earlier(carried.c.at, within, dialect)
        reached = sa.select(carried.c.user_id, carried.c.at).where(carried.c.kind == _CANDIDATE, follows)
    last = named(reached)
    return sa.select(last.c.user_id).distinct()
