"""A quarter of a year, a sync every 2 hours, over real orders of CDNOW (every tenth customer): workflows come and go,
the process restarts, a user is forgotten, a workflow is added. At its end each workflow believes what the orders say.

APScheduler is woken by hand on freezegun's clock; the syncs, the databases and the calls are real.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from freezegun import freeze_time
from support.clockwork import ByHand, pass_time
from support.project import Project
from support.shop import cdnow, jobs_yaml, load

from audience_sync.config import Config, Job, load_config
from audience_sync.delivery.sender import Patience
from audience_sync.forget import forget
from audience_sync.scheduler import Outcome, Scheduler
from audience_sync.state.tables import outbox, synced
from audience_sync.sync import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

KEY = "order_completed_last_30days"
START = datetime(1997, 3, 1, 0, 30, tzinfo=UTC)
DAYS = int(os.environ.get("DAYS", "10"))  # 90 is the quarter: minutes of syncs


@pytest.fixture
def clock() -> Iterator[Any]:
    with freeze_time(START, real_asyncio=True) as frozen:
        yield frozen


class Quarter:
    def __init__(self, project: Project) -> None:
        self.project = project
        self.orders = [order for order in cdnow() if str(order["customer_id"]).endswith("7")]
        self.source = f"sqlite:///{project.folder}/shop.db"
        load(self.source, self.orders)
        self.workflows = 2
        self.forgotten = ""
        self.write()
        self.ran: list[str] = []
        self.draw = random.Random(97)
        self.down: set[str] = set()
        project.receiver.answer = lambda path, _body: 503 if path in self.down else None

    def write(self) -> None:
        text = jobs_yaml("sqlite:///shop.db", "sqlite:///state.db", self.project.url, workflows=self.workflows)
        self.path = self.project.write(text.replace("    audiences:", "    schedule: every 2 hours\n    audiences:"))

    def sync(self, config: Config, job: Job) -> Outcome:
        now = datetime.now(UTC)
        patience = Patience(silent=-1.0, total=0.0) if self.down else Patience()
        report = run(config, [job.key], now, patience=patience).jobs[0]
        self.ran.append(report.status)
        return Outcome(job.key, job.name, report.status, report.error, now, 0.0, "run", report)

    def live(self, frozen: Any, length: timedelta) -> None:
        """One process, from its start to its end."""
        clock = ByHand()
        scheduler = Scheduler(lambda: load_config(self.path), self.sync, lambda *_: None, clock)
        scheduler.start()
        pass_time(clock, frozen, length)
        scheduler.stop()

    def expected(self, at: datetime) -> set[str]:
        day = at.replace(tzinfo=None)
        within = (day - timedelta(days=30), day)
        return {
            str(order["customer_id"])
            for order in self.orders
            if within[0] < datetime.combine(order["ordered_on"], datetime.min.time()) <= within[1]  # type: ignore[arg-type]
        } - {self.forgotten}

    def believed(self, path: str) -> set[str]:
        told = self.project.receiver.told
        return {user for (where, user, key), value in told.items() if (where, key) == (path, KEY) and value is True}


def test_a_quarter(project: Project, clock: Any) -> None:
    quarter = Quarter(project)
    day = 0
    while day < DAYS:
        length = quarter.draw.randrange(1, 9)
        quarter.down = {path for path in ("/w1", "/w2", "/w3") if quarter.draw.random() < 0.2}
        quarter.live(clock, timedelta(days=length))
        day += length
        clock.tick(timedelta(hours=quarter.draw.choice([0, 0, 5, 30])))  # nothing runs for a while
        if day > DAYS / 3 and not quarter.forgotten:
            quarter.forgotten = min(quarter.believed("/w1"))
            quarter.down = set()
            assert forget(load_config(quarter.path), [quarter.forgotten]).is_done
        if day > DAYS / 2:
            quarter.workflows = 3
            quarter.write()
    gone = quarter.forgotten
    quarter.down = set()
    quarter.live(clock, timedelta(hours=3))
    last = quarter.ran[-1]
    assert last == "succeeded"
    at = datetime.now(UTC)
    for path in ("/w1", "/w2", "/w3"):
        now_there = quarter.believed(path)
        told = [
            call
            for call in project.receiver.calls
            if call.path == path and gone in (call.body.get("userID"), call.body.get("userId"))
        ]
        if path != "/w3":
            assert told[-1].body["type"] == "delete"
            now_there.discard(gone)
        else:
            assert told == []
        assert now_there == quarter.expected(at), path
    assert len(quarter.ran) > 8 * DAYS
    assert "undelivered" in quarter.ran and "failed" not in quarter.ran
    engine = sa.create_engine(f"sqlite:///{project.folder}/state.db", poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        for table in (outbox, synced):
            who = sa.select(sa.func.count()).where(table.c.user_id == gone)
            assert connection.execute(who).scalar() == 0
        kept = connection.execute(sa.select(sa.func.count()).select_from(outbox)).scalar_one()
        assert kept < 3_000, "what was acknowledged more than a week ago is pruned"
