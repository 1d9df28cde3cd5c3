"""What came in through the relay since state was made, and what became of it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.state.tables import relay_counts


def figures(connection: Connection) -> list[dict[str, Any]]:
    """For each type and outcome (see `store`), and for each workflow where they differ, how many messages."""
    order = (relay_counts.c.type, relay_counts.c.outcome, relay_counts.c.workflow)
    return [
        {"type": row.type, "outcome": row.outcome, "workflow": row.workflow or None, "count": row.count}
        for row in connection.execute(sa.select(relay_counts).order_by(*order))
    ]
