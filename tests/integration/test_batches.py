"""Reading the outbox batch by batch: each row for the workflow once, in order, at a cost that does not grow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Connection

from audience_sync.database import open_state
from audience_sync.outbox import next_batch
from audience_sync.outbox.lanes import COUNT
from audience_sync.state import schema
from audience_sync.state.tables import outbox, passed_over, routes

NOW = datetime(2026, 1, 1)
OURS, OTHER = 1, 2


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection]:
    url = f"sqlite:///{tmp_path}/state.db"
    if request.param == "postgresql":
        new_database: Callable[[], str] = request.getfixturevalue("new_database")
        url = new_database()
    engine = open_state(url)
    schema.migrate(engine)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def row(seq: int, workflow_id: int | None, lane: int) -> dict[str, Any]:
    return {
        "seq": seq,
        "lane": lane,
        "computation_id": 1,
        "sync_id": 1,
        "workflow_id": workflow_id,
        "user_id": f"u{seq}",
        "value": "true",
    }


ROWS = st.lists(
    st.tuples(
        st.integers(1, 500),  # how far from the row before: rolled back transactions and pruning leave gaps
        st.sampled_from([None, OURS, OTHER]),
        st.integers(0, 7),
        st.booleans(),  # passed over
    ),
    max_size=60,
)


@settings(max_examples=25, deadline=None, database=None)
@given(drawn=ROWS, limit=st.integers(1, 12), beyond=st.integers(0, 2000))
def check_all_are_read(state: Connection, drawn: list[Any], limit: int, beyond: int) -> None:
    lanes = COUNT[state.dialect.name]
    rows, gone, seq = [], [], 0
    for gap, workflow_id, lane, passed in drawn:
        seq += gap
        rows.append(row(seq, workflow_id, lane % lanes))
        gone += [seq] * passed
    for table in (outbox, routes, passed_over):
        state.execute(sa.delete(table))
    state.execute(sa.insert(routes).values(workflow_id=OURS, computation_id=1, since_seq=100, ended=False))
    if rows:
        state.execute(sa.insert(outbox), rows)
    if gone:
        state.execute(sa.insert(passed_over), [{"workflow_id": OURS, "seq": seq} for seq in gone])
    for lane in range(lanes):
        found, after, end = [], 0, seq + beyond
        while after < end:
            batch = next_batch(state, OURS, lane, after=after, end=end, limit=limit, now=NOW)
            assert batch.reaches > after
            assert len(batch.deliveries) <= limit
            assert all(after < one.seq <= batch.reaches for one in batch.deliveries)
            found += [one.seq for one in batch.deliveries]
            after = batch.reaches
        meant = [
            one["seq"]
            for one in rows
            if one["lane"] == lane
            and one["seq"] not in gone
            and (one["workflow_id"] == OURS or (one["workflow_id"] is None and one["seq"] > 100))
        ]
        assert found == meant


def test_batches_leave_nothing_out_and_bring_nothing_twice(state: Connection) -> None:
    with state.begin():
        check_all_are_read(state)


@pytest.mark.parametrize("analyzed", [False, True])
def test_a_batch_costs_the_same_however_much_waits(new_database: Callable[[], str], analyzed: bool) -> None:
    """Right after a large sync PostgreSQL has no statistics of the outbox; with them it plans otherwise, no better."""
    engine = open_state(new_database())
    schema.migrate(engine)
    number = sa.func.generate_series(1, sa.bindparam("count")).column_valued("number")
    many = sa.select(sa.func.mod(number, 8), sa.literal(1), sa.literal(1), sa.cast(number, sa.Text), sa.literal("true"))
    costs = []
    with engine.connect() as connection, connection.begin():
        connection.execute(sa.insert(routes).values(workflow_id=OURS, computation_id=1, since_seq=0, ended=False))
        for count in (10_000, 50_000):
            fill = sa.insert(outbox).from_select(["lane", "computation_id", "sync_id", "user_id", "value"], many)
            connection.execute(fill, {"count": count})
            if analyzed:
                connection.exec_driver_sql("ANALYZE " + outbox.name)
            costs.append(blocks_read(connection))
    engine.dispose()
    assert costs[1] < 2 * costs[0], costs


def blocks_read(connection: Connection) -> int:
    """How many blocks PostgreSQL looks at for the first batch."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    sa.event.listen(connection, "before_cursor_execute", note)
    batch = next_batch(connection, OURS, 0, after=0, end=60_000, limit=1000, now=NOW)
    sa.event.remove(connection, "before_cursor_execute", note)
    assert len(batch.deliveries) == 1000
    blocks = 0
    for statement, parameters in seen:
        explained = connection.exec_driver_sql(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement, parameters
        ).scalar_one()
        plan = (json.loads(explained) if isinstance(explained, str) else explained)[0]["Plan"]
        blocks += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return blocks
