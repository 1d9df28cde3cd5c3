"""Following the events and comparing everyone always agree (docs/incremental.md), and what is not followed, is not."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audience_sync.config import Config, load_config
from audience_sync.database import open_state
from audience_sync.state import schema
from audience_sync.state.suppression import suppress, unsuppress
from audience_sync.state.tables import computations, synced
from audience_sync.sync import RunReport, plan, run

START = datetime(2026, 3, 1, tzinfo=UTC)
USERS = ["1", "01", "Ü", "a", "A"]
HOUR = timedelta(hours=1)
EXAMPLES = int(os.environ.get("HISTORIES", "8"))

windows = st.one_of(
    st.just({}),
    st.sampled_from(["1 day", "36 hours", "5 days", "1 month"]).map(lambda d: {"within": d}),
    st.sampled_from([["1 day", "3 days"], ["12 hours", "1 month"], ["0 days", "2 days"]]).map(lambda d: {"between": d}),
    st.sampled_from([{"since": "2026-03-02"}, {"until": "2026-03-03T06:00:00Z"}]),
)
counts = st.sampled_from(
    [
        *({}, {"at_least": 2}, {"at_most": 1}, {"exactly": 0}, {"exactly": 1}, {"at_least": 1, "at_most": 2}),
        *({"sum": {"amount": {"gte": 4}}}, {"avg": {"amount": {"lt": 3}}}, {"max": {"amount": 5}}),
    ]
)
tests = st.sampled_from([{}, {"where": {"amount": {"gte": 2}}}, {"where": {"amount": [1, 5]}}])
dids = st.builds(
    lambda name, window, count, test: {"did": name, **window, **count, **test},
    st.sampled_from(["A", "B"]),
    windows,
    counts,
    tests,
)
rules = st.recursive(
    dids,
    lambda inner: st.one_of(
        inner.map(lambda r: {"not": r}),
        st.lists(inner, min_size=2, max_size=3).map(lambda r: {"all": r}),
        st.lists(inner, min_size=2, max_size=3).map(lambda r: {"any": r}),
    ),
    max_leaves=4,
)
rows = st.fixed_dictionaries(
    {
        "user": st.sampled_from(USERS),
        "name": st.sampled_from(["A", "B"]),
        "ago": st.integers(-30, 24 * 40),  # hours before its step; some are ahead of their time
        "lag": st.integers(0, 50),  # minutes from `arrived_at` to the commit
        "amount": st.integers(0, 5),
    }
)
steps = st.lists(
    st.fixed_dictionaries(
        {"hours": st.integers(0, 60), "behind": st.sampled_from([0, 0, 0, 30]), "rows": st.lists(rows)}
    ),
    min_size=2,
    max_size=5,
)


@pytest.fixture(autouse=True)
def nothing_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["audience_sync.sync.run"], "deliver", lambda *_, **__: [])


def jobs_yaml(
    source: str, state: str, audiences: dict[str, Any], *, arrived: bool, people: bool = False, **job: Any
) -> str:
    event = {"table": "e", "user_id": "user_id", "name": "name", "at": "at"}
    document = {
        "version": 1,
        "source": source,
        "state": state,
        "events": {"*": event | ({"arrived_at": "arrived"} if arrived else {})},
        "workflows": {"crm": {"url": "http://127.0.0.1:9/"}},
        "jobs": [
            {
                "name": "J",
                "guard": "off",
                "audiences": [{"name": name, "who": rule} for name, rule in audiences.items()],
                **job,
            }
        ],
    }
    if people:
        document["people"] = {"table": "people", "user_id": "id"}
    return json.dumps(document)


class Shop:
    """A table of events, and one state that follows them beside one that compares everyone each time."""

    def __init__(
        self,
        folder: Path,
        source: str,
        state: Callable[[str], str],
        *,
        numbers: bool = False,
        seconds: bool = False,
    ) -> None:
        self.folder, self.source, self.state = folder, source, state
        self.engine = sa.create_engine(source, poolclass=sa.pool.NullPool)
        self.seconds = seconds
        times: Any = sa.BigInteger if seconds else sa.DateTime(timezone=True)
        if source.startswith("sqlite") and not seconds:
            times = sa.Text
        self.e = sa.Table(
            "e",
            sa.MetaData(),
            sa.Column("user_id", sa.BigInteger if numbers else sa.Text, index=True),
            sa.Column("name", sa.Text),
            sa.Column("at", times, index=True),
            sa.Column("arrived", times, index=True),
            sa.Column("amount", sa.Integer),
        )
        with self.engine.begin() as connection:
            self.e.drop(connection, checkfirst=True)
            self.e.create(connection)

    def time(self, moment: datetime) -> Any:
        if self.seconds:
            return int(moment.timestamp())
        return moment if self.source.startswith("postgresql") else moment.strftime("%Y-%m-%d %H:%M:%S")

    def add(self, now: datetime, found: list[dict[str, Any]]) -> None:
        if not found:
            return
        with self.engine.begin() as connection:
            connection.execute(
                sa.insert(self.e),
                [
                    {
                        "user_id": row["user"],
                        "name": row["name"],
                        "at": self.time(now - row["ago"] * HOUR),
                        "arrived": self.time(now - timedelta(minutes=row["lag"])),
                        "amount": row["amount"],
                    }
                    for row in found
                ],
            )

    def config(self, name: str, audiences: dict[str, Any], **options: Any) -> Config:
        path = self.folder / f"{name}.yaml"
        path.write_text(jobs_yaml(self.source, self.state(name), audiences, **options))
        config = load_config(path)
        engine = open_state(config.state)
        schema.migrate(engine)
        engine.dispose()
        return config


def members(config: Config) -> dict[str, set[str]]:
    engine = open_state(config.state)
    try:
        with engine.connect() as connection:
            found: dict[str, set[str]] = {a.key: set() for job in config.jobs for a in job.audiences}
            query = sa.select(computations.c.key, synced.c.user_id).join(
                synced, synced.c.computation_id == computations.c.id
            )
            for key, user in connection.execute(query):
                found[key].add(user)
            for key, size in connection.execute(sa.select(computations.c.key, computations.c.size)):
                assert size == len(found[key])
            return found
    finally:
        engine.dispose()


def followed(report: RunReport) -> list[bool]:
    return [c.followed for c in report.jobs[0].computations]


def agree(shop: Shop, audiences: dict[str, Any], history: list[dict[str, Any]]) -> None:
    follows = shop.config("follows", audiences, arrived=True, full_every="1000 days")
    compares = shop.config("compares", audiences, arrived=False)
    now, latest = START, START
    for number, step in enumerate(history):
        now += step["hours"] * HOUR
        as_of = now - step["behind"] * HOUR
        shop.add(now, step["rows"])
        report = run(follows, [], as_of)
        assert report.exit_code == 0
        assert followed(report) == [number > 0 and as_of >= latest] * len(audiences)
        latest = as_of
        assert not any(followed(run(compares, [], as_of)))
        assert members(follows) == members(compares), (number, audiences)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(audiences=st.lists(rules, min_size=2, max_size=4), history=steps)
@pytest.mark.slow
def test_following_and_comparing_agree_on_sqlite(audiences: list[Any], history: list[Any]) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        shop = Shop(folder, f"sqlite:///{folder}/shop.db", lambda name: f"sqlite:///{folder}/{name}.db", seconds=True)
        agree(shop, {f"a{n}": rule for n, rule in enumerate(audiences)}, history)
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])
def test_following_and_comparing_agree_on_postgresql(
    apart: bool, new_database: Callable[[], str], tmp_path: Path
) -> None:
    source = new_database()
    spare = new_database()

    @settings(max_examples=max(3, EXAMPLES // 4), deadline=None, suppress_health_check=list(HealthCheck))
    @given(audiences=st.lists(rules, min_size=2, max_size=4), history=steps)
    def check(audiences: list[Any], history: list[Any]) -> None:
        for name in ("follows", "compares"):
            (tmp_path / f"{name}.db").unlink(missing_ok=True)
        states = {"follows": source, "compares": spare}
        for url in states.values():
            empty(url)
        shop = Shop(tmp_path, source, lambda name: f"sqlite:///{tmp_path}/{name}.db" if apart else states[name])
        agree(shop, {f"a{n}": rule for n, rule in enumerate(audiences)}, history)

    check()


def empty(url: str) -> None:
    with sa.create_engine(url, poolclass=sa.pool.NullPool).begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")


# -- what is followed, and when everyone is compared --------------------------------------------------------------

ONE = {"a": {"did": "A", "within": "2 days"}}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    yield Shop(tmp_path, f"sqlite:///{tmp_path}/shop.db", lambda name: f"sqlite:///{tmp_path}/{name}.db")


def row(user: str, ago: int = 1, **more: Any) -> dict[str, Any]:
    return {"user": user, "name": "A", "ago": ago, "lag": 0, "amount": 1} | more


def test_two_syncs_later_only_those_with_events_that_moved_were_looked_at(shop: Shop) -> None:
    shop.add(START, [row("1"), row("Ü", ago=47)])
    config = shop.config("s", ONE, arrived=True)
    assert followed(run(config, [], START)) == [False]
    shop.add(START + HOUR, [row("a")])
    planned = plan(config, [], START + 2 * HOUR).jobs[0].computations[0]
    assert (planned.followed, planned.entered, planned.exited, planned.size) == (True, 1, 1, 2)
    assert planned.as_json()["followed"] is True
    assert followed(run(config, [], START + 2 * HOUR)) == [True]
    assert members(config) == {"a": {"1", "a"}}


def test_work_follows_the_change_and_not_the_size(tmp_path: Path) -> None:
    shop = Shop(tmp_path, f"sqlite:///{tmp_path}/shop.db", lambda name: f"sqlite:///{tmp_path}/{name}.db", seconds=True)
    shop.add(START, [row("leaves", ago=47), *[row(f"stays {n}", lag=120) for n in range(10_000)]])
    follows, compares = (shop.config(name, ONE, arrived=name == "follows") for name in ("follows", "compares"))
    for config in (follows, compares):
        run(config, [], START)
    shop.add(START + HOUR, [row("comes")])
    steps = {}
    for config in (follows, compares):
        with counting() as counted:
            found = run(config, [], START + 2 * HOUR).jobs[0].computations[0]
        assert (found.followed, found.entered, found.exited) == (config is follows, 1, 1)
        steps[found.followed] = sum(counted)
    assert 20 * steps[True] < steps[False]


@contextmanager
def counting() -> Iterator[list[int]]:
    """Hundreds of steps of SQLite's virtual machine, which do not depend on the machine's load.
    https://www.sqlite.org/c3ref/progress_handler.html"""
    counted: list[int] = []

    def connected(connection: Any, _record: Any) -> None:
        connection.set_progress_handler(lambda: counted.append(1), 100)

    sa.event.listen(sa.Engine, "connect", connected)
    try:
        yield counted
    finally:
        sa.event.remove(sa.Engine, "connect", connected)


def test_everyone_is_compared_once_in_full_every(shop: Shop) -> None:
    shop.add(START, [row("1")])
    config = shop.config("s", ONE, arrived=True, full_every="6 hours")
    hours = [0, 3, 5, 6, 8, 12, 13]
    found = [followed(run(config, [], START + n * HOUR))[0] for n in hours]
    assert found == [False, True, True, False, True, False, True]


def test_the_check_tells_what_was_missed(shop: Shop) -> None:
    shop.add(START, [row("1"), row("a")])
    config = shop.config("s", ONE, arrived=True, full_every="6 hours")
    run(config, [], START)
    with shop.engine.begin() as connection:  # against what arrived_at promises
        connection.execute(sa.delete(shop.e).where(shop.e.c.user_id == "1"))
    quiet = run(config, [], START + 3 * HOUR).jobs[0].computations[0]
    assert (quiet.followed, quiet.exited) == (True, 0)
    told = run(config, [], START + 6 * HOUR).jobs[0].computations[0]
    assert (told.followed, told.exited, told.missed) == (False, 1, 1)
    assert told.as_json()["missed"] == 1
    assert members(config) == {"a": {"a"}}


def test_a_row_that_comes_late_is_found_when_it_arrives(shop: Shop) -> None:
    shop.add(START, [row("1")])
    config = shop.config("s", ONE, arrived=True)
    run(config, [], START)
    shop.add(START + 3 * HOUR, [row("a", ago=40)])
    late = run(config, [], START + 4 * HOUR).jobs[0].computations[0]
    assert (late.followed, late.entered) == (True, 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"audiences": {"a": {"did": "A", "within": "3 days"}}},
        {"audiences": ONE, "sql": 'ALTER TABLE e ADD COLUMN "more" TEXT'},
    ],
)
def test_everyone_is_compared_after_the_rule_or_a_table_changed(shop: Shop, changed: dict[str, Any]) -> None:
    shop.add(START, [row("1"), row("a", ago=60)])
    run(shop.config("s", ONE, arrived=True), [], START)
    if "sql" in changed:
        with shop.engine.begin() as connection:
            connection.exec_driver_sql(changed["sql"])
    config = shop.config("s", changed["audiences"], arrived=True)
    assert followed(run(config, [], START + HOUR)) == [False]
    assert followed(run(config, [], START + 2 * HOUR)) == [True]


def test_everyone_is_compared_when_somebody_is_no_longer_forgotten(shop: Shop) -> None:
    shop.add(START, [row("1")])
    config = shop.config("s", ONE, arrived=True)
    engine = open_state(config.state)
    with engine.begin() as connection:
        suppress(connection, ["1"], START.replace(tzinfo=None))
    run(config, [], START)
    assert members(config) == {"a": set()}
    with engine.begin() as connection:
        unsuppress(connection, ["1"])
    engine.dispose()
    assert followed(run(config, [], START + HOUR)) == [False]
    assert members(config) == {"a": {"1"}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [
        {"has": {"country": "DE"}},
        {"in": "other"},
        {"not": {"did": "A"}},  # people come and go without an event
        {"did": "A", "exactly": 0},
        {"then": [{"did": "A"}, {"did": "B"}]},
        {"first": {"did": "A", "within": "3 days"}},
        {"did": "A", "where": {"at": {"within": "3 days"}}},
        {"any": [{"did": "A"}, {"has": {"country": "DE"}}]},
    ],
)
def test_what_cannot_be_proved_is_compared(shop: Shop, rule: dict[str, Any]) -> None:
    with shop.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE people (id TEXT, country TEXT)")
        connection.exec_driver_sql("INSERT INTO people VALUES ('1', 'DE'), ('a', 'AT')")
    shop.add(START, [row("1")])
    config = shop.config("s", {"a": rule, "other": ONE["a"]}, arrived=True, people=True)
    run(config, [], START)
    assert followed(run(config, [], START + HOUR)) == [False, True]


def test_ids_that_are_numbers_are_looked_up_as_numbers(tmp_path: Path) -> None:
    shop = Shop(tmp_path, f"sqlite:///{tmp_path}/shop.db", lambda name: f"sqlite:///{tmp_path}/{name}.db", numbers=True)
    shop.add(START, [row("7"), row("10")])
    config = shop.config("s", ONE, arrived=True)
    run(config, [], START)
    shop.add(START + HOUR, [row("8")])
    found = run(config, [], START + 2 * HOUR).jobs[0].computations[0]
    assert (found.followed, found.entered) == (True, 1)
    assert members(config) == {"a": {"7", "8", "10"}}


def test_the_last_hour_is_looked_at_again_only_if_a_row_came_late(shop: Shop) -> None:
    shop.add(START, [row("1", lag=30), row("a")])
    config = shop.config("s", ONE, arrived=True, full_every="1000 days")
    run(config, [], START)
    long_ago = {"at": shop.time(START - 999 * HOUR)}
    with shop.engine.begin() as connection:  # against what arrived_at promises, so that looking can be told from not
        connection.execute(sa.update(shop.e).where(shop.e.c.user_id == "1").values(long_ago))
    run(config, [], START + HOUR)
    assert members(config) == {"a": {"1", "a"}}
    shop.add(START, [row("A", lag=40)])
    run(config, [], START + 2 * HOUR)
    assert members(config) == {"a": {"A", "a"}}
