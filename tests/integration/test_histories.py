"""Random histories of memberships, several audiences and workflows, random failures: what holds always.

The oracle is the membership itself: after each sync a workflow that has acknowledged everything must believe exactly
the latest snapshot (rule 1), it must never have been told an older value after a newer one (rule 3), and, where
nothing failed, never a value that it was told last (rule 2).
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audience_sync.config import load_config
from audience_sync.delivery.sender import Patience
from audience_sync.receiver import Receiver, Serving
from audience_sync.snapshot import Databases
from audience_sync.sync import prepare, run

USERS = ["1", "01", "Ünï", "a b", "x'y", "名", "u7", "u8"]
AUDIENCES = ["a", "b"]
WORKFLOWS = ["w1", "w2", "w3"]
START = datetime(2026, 1, 1, tzinfo=UTC)

members = sa.Table(
    "members",
    sa.MetaData(),
    sa.Column("audience", sa.Text),
    sa.Column("user_id", sa.Text),
    sa.Column("value", sa.Integer),
)

step = st.fixed_dictionaries(
    {
        "members": st.fixed_dictionaries({name: st.sets(st.sampled_from(USERS)) for name in AUDIENCES}),
        "values": st.dictionaries(st.sampled_from(USERS), st.integers(0, 2)),
        "down": st.sets(st.sampled_from(WORKFLOWS)),
        "flaky": st.sampled_from([0.0, 0.0, 0.3]),
        "routed": st.sets(st.sampled_from(WORKFLOWS), min_size=1),
    }
)


def jobs_yaml(source: str, state: str, url: str, routed: set[str]) -> str:
    workflows = "\n".join(f"  {name}: {{url: '{url}/{name}'}}" for name in WORKFLOWS)
    audiences = "\n".join(
        f"      - {{name: {name}, table: {{name: members, user_id: user_id, where: {{audience: {name}}}}}}}"
        for name in AUDIENCES
    )
    return f"""\
version: 1
source: {source}
state: {state}
workflows:
{workflows}
jobs:
  - name: J
    guard: off
    workflows: [{", ".join(sorted(routed))}]
    audiences:
{audiences}
    traits:
      - {{name: t, sql: "select user_id, value from members where audience = 't'"}}
"""


class World:
    def __init__(self, folder: Path, source: str, state: str, *, keeps_snapshots: bool = False) -> None:
        self.folder = folder
        self.source, self.state = source, state
        self.engine = sa.create_engine(source, poolclass=sa.pool.NullPool)
        if keeps_snapshots:
            self.source = f"{{url: '{source}', synced: warehouse}}"
        self.receiver = Receiver()

    def play(self, url: str, steps: list[dict[str, Any]]) -> None:
        members.drop(self.engine, checkfirst=True)
        members.create(self.engine)
        path = self.folder / "jobs.yaml"
        for number, today in enumerate(steps):
            rows = [{"audience": a, "user_id": u, "value": None} for a in AUDIENCES for u in today["members"][a]]
            rows += [{"audience": "t", "user_id": u, "value": v} for u, v in today["values"].items()]
            with self.engine.begin() as connection:
                connection.execute(sa.delete(members))
                if rows:
                    connection.execute(sa.insert(members), rows)
            path.write_text(jobs_yaml(self.source, self.state, url, today["routed"]))
            self.sync(path, number, today["down"], today["flaky"])
            for workflow in set() if today["down"] and today["flaky"] else today["routed"] - today["down"]:
                assert self.believes(workflow) == expected(today), (workflow, number)
        last = steps[-1]
        self.sync(path, len(steps), set(), 0.0)
        for workflow in last["routed"]:
            assert self.believes(workflow) == expected(last), workflow
        quiet = len(self.receiver.calls)
        self.sync(path, len(steps) + 1, set(), 0.0)
        assert len(self.receiver.calls) == quiet, "a sync without changes told something"
        self.check_order_and_repeats(steps)

    def sync(self, path: Path, number: int, down: set[str], flaky: float) -> None:
        draw = random.Random(number)

        def answer(where: str, _body: dict[str, Any]) -> int | None:
            if where.strip("/") in down:
                return 503
            return 503 if flaky and draw.random() < flaky else None

        self.receiver.answer = answer
        config = load_config(path)
        databases = Databases.open(config.source, config.state)
        prepare(config, databases)
        databases.dispose()
        # Who is down is given up on at once; who is flaky, waited for.
        report = run(
            config,
            [],
            START + timedelta(days=number),
            patience=Patience(silent=0.0 if down else 20.0, first_pause=0.01),
        )
        assert report.exit_code == (1 if any(d["pending"] for j in report.jobs for d in j.deliveries) else 0)

    def believes(self, workflow: str) -> dict[tuple[str, str], Any]:
        return {
            (user, key): value
            for (path, user, key), value in self.receiver.told.items()
            if path == f"/{workflow}" and value is not False and value is not None
        }

    def check_order_and_repeats(self, steps: list[dict[str, Any]]) -> None:
        """Sequence numbers, the end of each messageId, never go back for a (workflow, user, key) (rule 3); and no
        value is told twice in a row (rule 2) to a workflow that was routed throughout and never failed."""
        failing = {call.path for call in self.receiver.calls if call.status >= 300}
        steady = set.intersection(*(step["routed"] for step in steps))
        newest: dict[tuple[str, str, str], tuple[int, Any]] = {}
        for call in self.receiver.calls:
            if call.status >= 300:
                continue
            ((key, value),) = call.body["traits"].items()
            place = (call.path, call.body["userId"], key)
            number = int(call.body["messageId"].rpartition("-")[2])
            before, last = newest.get(place, (0, None))
            assert number > before, place
            if call.path.strip("/") in steady and call.path not in failing:
                assert value is not last and value != last, place
            newest[place] = number, value


def expected(today: dict[str, Any]) -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = {(u, a): True for a in AUDIENCES for u in today["members"][a]}
    return found | {(u, "t"): v for u, v in today["values"].items()}


def check_with_files(source: str, examples: int, *, keeps_snapshots: bool = False) -> None:
    """`source` is the kind of file that it is."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(steps=st.lists(step, min_size=1, max_size=5))
    def check(steps: list[dict[str, Any]]) -> None:
        folder = Path(tempfile.mkdtemp())
        state = f"sqlite:///{folder}/state.db"
        world = World(folder, f"{source}:///{folder}/shop.db", state, keeps_snapshots=keeps_snapshots)
        try:
            with Serving(world.receiver) as url:
                world.play(url, steps)
        finally:
            shutil.rmtree(folder)

    check()


def test_a_few_histories_end_in_the_latest_snapshot_on_sqlite() -> None:
    check_with_files("sqlite", examples=3)


@pytest.mark.slow
def test_every_history_ends_in_the_latest_snapshot_on_sqlite() -> None:
    check_with_files("sqlite", examples=int(os.environ.get("HISTORIES", "25")))


def test_a_few_histories_end_in_the_latest_snapshot_in_a_warehouse() -> None:
    check_with_files("duckdb", examples=2, keeps_snapshots=True)


@pytest.mark.slow
def test_every_history_ends_in_the_latest_snapshot_in_a_warehouse() -> None:
    check_with_files("duckdb", examples=8, keeps_snapshots=True)


@pytest.mark.slow
def test_every_history_ends_in_the_latest_snapshot_on_postgresql(
    new_database: Callable[[], str], tmp_path: Path
) -> None:
    from audience_sync.database import open_state
    from audience_sync.state import schema

    @settings(max_examples=7, deadline=None, suppress_health_check=list(HealthCheck))
    @given(steps=st.lists(step, min_size=1, max_size=5))
    def check(steps: list[dict[str, Any]]) -> None:
        url = new_database()
        engine = open_state(url)
        schema.migrate(engine)
        engine.dispose()
        world = World(tmp_path, url, url)
        with Serving(world.receiver) as address:
            world.play(address, steps)

    check()
