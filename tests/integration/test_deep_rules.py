"""Rules nested as deep as people nest them, on SQLite, whose parser gives up on deep statements: the whole sync, not
only the SELECT, must go through with times that are kept as text."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.direct import DirectTransport

from audience_sync.config import load_config
from audience_sync.receiver import Receiver
from audience_sync.sync import run

ORDERS = sa.Table(
    "orders",
    sa.MetaData(),
    sa.Column("customer_id", sa.Text),
    sa.Column("ordered_at", sa.Text),
    sa.Column("revenue", sa.Float),
)
SPENT = "{did: A, within: 30 days, sum: {revenue: {gte: 50}}, where: {revenue: {gt: 1}}}"
TOTALS = f"{{any: [{{did: A, within: 20 days}}, {SPENT}]}}"


@pytest.mark.parametrize(
    ("rule", "members"),
    [
        (f"{{not: {{not: {TOTALS}}}}}", {"u1", "u2"}),
        (f"{{all: [{{not: {{not: {TOTALS}}}}}, {{any: [{{not: {{did: A, exactly: 0}}}}, {TOTALS}]}}]}}", {"u1", "u2"}),
        ("{not: {not: {then: [{did: A}, {did: A, within: 60 days}, {did: A, within: 60 days}]}}}", {"u2"}),
        (f"{{not: {{not: {{not: {{not: {{all: [{TOTALS}, {{first: {{did: A, within: 30 days}}}}]}}}}}}}}}}", {"u1"}),
    ],
)
def test_a_deep_rule_goes_through_the_whole_sync(tmp_path: Path, rule: str, members: set[str]) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db", poolclass=sa.pool.NullPool)
    ORDERS.create(engine)
    days = {"u1": ["03-10 10:00:00"], "u2": ["01-20 10:00:00", "02-20 10:00:00.5", "02-25T10:00:00Z"], "u3": ["01-02"]}
    with engine.begin() as connection:
        for user, times in days.items():
            for time in times:
                row = {"customer_id": user, "ordered_at": f"2026-{time}", "revenue": 60.0}
                connection.execute(sa.insert(ORDERS), row)
    path = tmp_path / "jobs.yaml"
    path.write_text(
        "version: 1\nsource: sqlite:///shop.db\n"
        "events: {A: {table: orders, user_id: customer_id, at: ordered_at}}\n"
        "workflows: {w: {url: 'http://127.0.0.1/w'}}\n"
        f"jobs:\n  - name: J\n    audiences:\n      - name: X\n        who: {rule}\n"
    )
    receiver = Receiver()
    for _ in range(2):  # a first sync, and a later one, are different statements
        report = run(
            load_config(path),
            [],
            datetime(2026, 3, 18, tzinfo=UTC),
            transports=lambda _: DirectTransport(receiver),
        )
        assert (report.jobs[0].status, report.jobs[0].error) == ("succeeded", None)
    assert {user for (_, user, _), value in receiver.told.items() if value} == members
