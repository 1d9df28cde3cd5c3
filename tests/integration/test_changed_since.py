"""Reading the rows that changed and comparing everyone always agree (docs/incremental.md), as long as `changed_since`
does what its name says; and what goes against it is found by the full comparison, and told."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.statements import statements

from audience_sync.computations import in_words
from audience_sync.config import Config, load_config
from audience_sync.database import open_state
from audience_sync.errors import ConfigError
from audience_sync.forget import forget, unforget
from audience_sync.state import schema
from audience_sync.state.tables import computations, synced
from audience_sync.sync import RunReport, plan, run
from audience_sync.sync.reports import ComputationReport

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
USERS = ["1", "01", "Ü", "a", "A"]
EXAMPLES = int(os.environ.get("HISTORIES", "6"))
MEMBERS = "select user_id, changed from vip where active = 1"
VALUES = "select user_id, value, changed from vip where active = 1"


@pytest.fixture(autouse=True)
def nothing_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sync.run", "forget"):
        monkeypatch.setattr(sys.modules[f"audience_sync.{module}"], "deliver", lambda *_, **__: [])


class Shop:
    """A table of which each row says when it last changed. `kind` is how it says so."""

    def __init__(self, folder: Path, source: str, state: Callable[[str], str], kind: str = "text") -> None:
        self.folder, self.source, self.state, self.kind = folder, source, state, kind
        self.engine = sa.create_engine(source, poolclass=sa.pool.NullPool)
        types: dict[str, Any] = {
            "text": sa.String(40),
            "number": sa.BigInteger(),
            "time": sa.DateTime(),
            "zoned": sa.DateTime(timezone=True),
        }
        self.vip = sa.Table(
            "vip",
            sa.MetaData(),
            sa.Column("user_id", sa.String(20)),
            sa.Column("value", sa.Integer),
            sa.Column("active", sa.Integer, server_default="1"),
            sa.Column("changed", types[kind], index=True),
        )
        with self.engine.begin() as connection:
            self.vip.drop(connection, checkfirst=True)
            self.vip.create(connection)

    def time(self, moment: datetime | None) -> Any:
        if moment is None or self.kind == "zoned":
            return moment
        if self.kind == "number":
            return int(moment.timestamp())
        return moment.replace(tzinfo=None) if self.kind == "time" else moment.isoformat()

    def put(self, user: str | None, changed: datetime | None, value: int | None = 1, *, active: bool = True) -> None:
        """The user's one row as it is now; None for `value` leaves the user without one."""
        row = {"user_id": user, "value": value, "active": int(active), "changed": self.time(changed)}
        with self.engine.begin() as connection:
            connection.execute(sa.delete(self.vip).where(self.vip.c.user_id == user))
            connection.execute(sa.insert(self.vip), [row])

    def drop(self, user: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.delete(self.vip).where(self.vip.c.user_id == user))

    def config(
        self, name: str, *, by: str | None = "changed", sql: str = MEMBERS, values: str = VALUES, **job: Any
    ) -> Config:
        how = {"changed_since": by} if by else {}
        document = {
            "version": 1,
            "source": self.source,
            "state": self.state(name),
            "workflows": {"crm": {"url": "http://127.0.0.1:9/"}},
            "jobs": [
                {
                    "name": "J",
                    "guard": "off",
                    "audiences": [{"name": "VIP", "sql": sql, **how}],
                    "traits": [{"name": "Value", "sql": values, **how}],
                    **job,
                }
            ],
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps(document))
        config = load_config(path)
        engine = open_state(config.state)
        schema.migrate(engine)
        engine.dispose()
        return config


def kept(config: Config) -> dict[str, dict[str, str | None]]:
    engine = open_state(config.state)
    try:
        with engine.connect() as connection:
            found: dict[str, dict[str, str | None]] = {"vip": {}, "value": {}}
            query = sa.select(computations.c.key, synced.c.user_id, synced.c.value).join(
                synced, synced.c.computation_id == computations.c.id
            )
            for key, user, value in connection.execute(query):
                found[key][user] = value
            sizes = sa.select(computations.c.key, computations.c.size).where(computations.c.key.in_(found))
            for key, size in connection.execute(sizes):
                assert size == len(found[key])
            return found
    finally:
        engine.dispose()


def audience(report: RunReport) -> ComputationReport:
    assert report.jobs[0].error is None
    return report.jobs[0].computations[0]


def trait(report: RunReport) -> ComputationReport:
    assert report.jobs[0].error is None
    return report.jobs[0].computations[1]


def followed(report: RunReport) -> list[bool]:
    assert report.jobs[0].error is None
    return [c.followed for c in report.jobs[0].computations]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, f"sqlite:///{tmp_path}/shop.db", lambda name: f"sqlite:///{tmp_path}/{name}.db")


# -- any history --------------------------------------------------------------------------------------------------

changes = st.fixed_dictionaries(
    {
        "user": st.sampled_from(USERS),
        "what": st.sampled_from(["put", "put", "put", "drop", "leave", "forget", "unforget"]),
        "value": st.one_of(st.none(), st.integers(1, 3)),
        "lag": st.integers(0, 55),  # minutes from the column's time to the commit
        "unknown": st.sampled_from([False, False, False, True]),  # NULL in the column
    }
)
steps = st.lists(
    st.fixed_dictionaries(
        {
            "minutes": st.sampled_from([0, 0, 20, 60, 300]),
            "behind": st.sampled_from([0, 0, 0, 0, 1]),
            "changes": st.lists(changes, max_size=4),
        }
    ),
    min_size=2,
    max_size=6,
)


def agree(shop: Shop, history: list[dict[str, Any]], *, twice: bool) -> None:
    """`twice`: the SELECT gives each user two times over."""
    sqls = {"sql": MEMBERS, "values": VALUES}
    if twice:
        sqls = {word: f"{sql} union all {sql}" for word, sql in sqls.items()}
    follows = shop.config("follows", full_every="1000 days", **sqls)
    compares = shop.config("compares", by=None, **sqls)
    now, latest, has_basis = START, START, False
    shop.put("first", START - 100 * HOUR)
    for number, step in enumerate(history):
        now += timedelta(minutes=step["minutes"])
        as_of = now - step["behind"] * HOUR
        lifted = False
        for change in step["changes"]:
            user, at = change["user"], now - timedelta(minutes=change["lag"])
            if change["what"] == "put":
                shop.put(user, None if change["unknown"] else at, change["value"])
            elif change["what"] == "leave":
                shop.put(user, at - 10 * HOUR, active=False)  # who leaves has no row to tell of it
            elif change["what"] == "drop":
                shop.drop(user)
            else:
                for config in (follows, compares):
                    (forget if change["what"] == "forget" else unforget)(config, [user])
                lifted = lifted or change["what"] == "unforget"
        report = run(follows, [], as_of)
        has_basis = number > 0 and as_of >= latest and not lifted
        assert followed(report) == [has_basis] * 2
        latest = as_of
        assert not any(followed(run(compares, [], as_of)))
        assert kept(follows) == kept(compares), number


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "number"])
def test_reading_what_changed_and_comparing_agree_on_sqlite(kind: str, tmp_path: Path) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(history=steps, twice=st.booleans())
    def check(history: list[Any], twice: bool) -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            url = f"sqlite:///{folder}/shop.db"
            agree(Shop(Path(folder), url, lambda name: f"sqlite:///{folder}/{name}.db", kind), history, twice=twice)

    check()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "apart"), [("zoned", False), ("time", True)])
def test_reading_what_changed_and_comparing_agree_on_postgresql(
    kind: str, apart: bool, tmp_path: Path, new_database: Callable[[], str]
) -> None:
    source, spare = new_database(), new_database()
    states = {"follows": source, "compares": spare}

    @settings(max_examples=max(3, EXAMPLES // 2), deadline=None, suppress_health_check=list(HealthCheck))
    @given(history=steps, twice=st.booleans())
    def check(history: list[Any], twice: bool) -> None:
        for url in states.values():
            with sa.create_engine(url, poolclass=sa.pool.NullPool).begin() as connection:
                connection.exec_driver_sql("DROP SCHEMA public CASCADE")
                connection.exec_driver_sql("CREATE SCHEMA public")
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            files = {name: f"sqlite:///{folder}/{name}.db" for name in states}
            shop = Shop(Path(folder), source, lambda name: files[name] if apart else states[name], kind)
            agree(shop, history, twice=twice)

    check()


def file_of(tmp_path: Path, other: str) -> Shop:
    return Shop(tmp_path, other, lambda name: f"sqlite:///{tmp_path}/{name}.db", "time")


@pytest.fixture(params=["duckdb", pytest.param("mariadb", marks=pytest.mark.slow)])
def read_only(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    if request.param == "duckdb":
        return file_of(tmp_path, f"duckdb:///{tmp_path}/shop.duckdb")
    new: Callable[[], str] = request.getfixturevalue("new_mariadb")
    return file_of(tmp_path, new())


def test_sources_that_are_read_only_are_followed_too(read_only: Shop) -> None:
    history: list[dict[str, Any]] = [
        {"minutes": 60, "behind": 0, "changes": [dict(base, user=user, what=what) for user, what in step]}
        for base in [{"value": 2, "lag": 5, "unknown": False}]
        for step in ([("1", "put"), ("a", "put")], [("A", "put"), ("a", "leave")], [("Ü", "put")], [("1", "drop")])
    ]
    agree(read_only, history, twice=False)


# -- case by case -------------------------------------------------------------------------------------------------


def test_who_came_changed_and_left_are_found(shop: Shop) -> None:
    for user in ("1", "a", "A"):
        shop.put(user, START - HOUR)
    config = shop.config("s")
    assert followed(run(config, [], START)) == [False, False]
    shop.put("Ü", START + HOUR)
    shop.put("a", START + HOUR, 2)
    shop.drop("1")
    planned = plan(config, [], START + 2 * HOUR)
    assert (audience(planned).followed, audience(planned).entered, audience(planned).exited) == (True, 1, 1)
    found = trait(run(config, [], START + 2 * HOUR))
    assert (found.followed, found.entered, found.changed, found.exited) == (True, 1, 1, 1)
    assert kept(config) == {"vip": dict.fromkeys(["A", "a", "Ü"]), "value": {"A": "1", "a": "2", "Ü": "1"}}


def test_where_nobody_left_nobody_is_looked_for(shop: Shop) -> None:
    shop.put("1", START - HOUR)
    config = shop.config("s")
    run(config, [], START)
    shop.put("a", START + HOUR)
    with statements() as found:
        run(config, [], START + 2 * HOUR)
    assert not [one for one in found if " EXCEPT " in one]
    shop.drop("1")
    with statements() as found:
        run(config, [], START + 3 * HOUR)
    assert len([one for one in found if " EXCEPT " in one]) == 2


def test_one_who_comes_as_another_leaves_hides_nobody(shop: Shop) -> None:
    shop.put("1", START - HOUR)
    config = shop.config("s")
    run(config, [], START)
    shop.drop("1")
    shop.put("a", START + HOUR)
    found = audience(run(config, [], START + 2 * HOUR))
    assert (found.followed, found.entered, found.exited) == (True, 1, 1)


def test_one_who_is_forgotten_hides_nobody_who_leaves(shop: Shop) -> None:
    for user in ("1", "a", "A"):
        shop.put(user, START - 10 * HOUR)
    config = shop.config("s")
    run(config, [], START)
    forget(config, ["1"])
    shop.drop("a")
    found = audience(run(config, [], START + HOUR))
    assert (found.followed, found.entered, found.exited) == (True, 0, 1)
    assert set(kept(config)["vip"]) == {"A"}
    shop.put("1", START + HOUR)  # still forgotten, and in the SELECT with a new time
    shop.drop("A")
    found = audience(run(config, [], START + 2 * HOUR))
    assert (found.followed, found.entered, found.exited) == (True, 0, 1)


def test_a_row_of_the_same_time_as_the_latest_is_seen(shop: Shop) -> None:
    shop.put("1", START)
    config = shop.config("s")
    run(config, [], START)
    shop.put("a", START)
    assert audience(run(config, [], START)).entered == 1


def test_a_row_that_was_committed_after_later_ones_is_seen(shop: Shop) -> None:
    shop.put("1", START)
    config = shop.config("s")
    run(config, [], START)
    shop.put("a", START - timedelta(minutes=59))
    assert audience(run(config, [], START)).entered == 1


def test_rows_without_a_time_are_always_looked_at(shop: Shop) -> None:
    shop.put("1", START)
    shop.put("a", None)
    config = shop.config("s")
    run(config, [], START)
    shop.put("a", None, 2)
    shop.put("A", None)
    found = trait(run(config, [], START + 24 * 3 * HOUR - timedelta(hours=49)))
    assert (found.followed, found.entered, found.changed) == (True, 1, 1)


def test_where_no_row_has_a_time_everyone_is_compared(shop: Shop) -> None:
    shop.put("1", None)
    config = shop.config("s")
    for hour in range(2):
        assert followed(run(config, [], START + hour * HOUR)) == [False, False]


def test_a_column_that_is_ahead_of_the_clock_hides_nothing(shop: Shop) -> None:
    shop.put("1", datetime.now(UTC) + timedelta(days=3000))
    config = shop.config("s")
    run(config, [], START)
    shop.put("a", datetime.now(UTC))
    assert audience(run(config, [], START)).entered == 1


def test_rows_without_a_user_id_are_counted_among_the_new(shop: Shop) -> None:
    shop.put("1", START)
    shop.put("", START)
    config = shop.config("s")
    assert audience(run(config, [], START)).skipped_ids == 1
    shop.put("", START + HOUR)
    assert audience(run(config, [], START + HOUR)).skipped_ids == 1
    assert audience(run(config, [], START + 2 * HOUR)).skipped_ids == 0


@pytest.mark.parametrize("changed", ["sql", "time", "column", "removed"])
def test_everyone_is_compared_when_there_is_no_ground_to_start_from(shop: Shop, changed: str) -> None:
    shop.put("1", START)
    shop.put("a", START - 100 * HOUR)
    shop.put("A", START, 5)
    run(shop.config("s"), [], START)
    as_of, config = START + HOUR, shop.config("s")
    if changed == "sql":
        config = shop.config("s", sql=MEMBERS + " and value = 5")
    elif changed == "time":
        as_of = START - HOUR
    elif changed == "column":
        by_another = MEMBERS.replace("changed", "changed as other, changed")
        config = shop.config("s", sql=by_another)
    else:
        gone = shop.config("s", audiences=[], on_remove="send false")
        run(gone, [], START)
        config = shop.config("s")
    found = run(config, [], as_of)
    assert found.jobs[0].error is None
    mine = next(c for c in found.jobs[0].computations if c.key == "vip")
    assert not mine.followed
    assert set(kept(config)["vip"]) == ({"A"} if changed == "sql" else {"1", "a", "A"})
    assert not mine.redefined or changed in ("sql", "column")


def test_to_name_the_column_is_no_other_definition(shop: Shop) -> None:
    shop.put("1", START)
    run(shop.config("s", by=None), [], START)
    config = shop.config("s")
    found = audience(run(config, [], START + HOUR))
    assert (found.redefined, found.followed) == (False, False)
    assert audience(run(config, [], START + 2 * HOUR)).followed


def test_everyone_is_compared_once_in_full_every_and_what_was_missed_is_told(shop: Shop) -> None:
    for user in ("1", "a", "A"):
        shop.put(user, START - 100 * HOUR)
    shop.put("last", START)
    config = shop.config("s", full_every="6 hours")
    run(config, [], START)
    shop.put("1", START - 100 * HOUR, 7)  # against what changed_since promises
    shop.put("Ü", START - 100 * HOUR)
    shop.drop("a")
    quiet = run(config, [], START + 3 * HOUR)
    assert followed(quiet) == [True, True]
    assert (audience(quiet).entered, audience(quiet).exited, trait(quiet).changed) == (0, 0, 0)
    shop.put("New", START + 4 * HOUR)
    told = run(config, [], START + 6 * HOUR)
    assert followed(told) == [False, False]
    assert (audience(told).entered, audience(told).exited, audience(told).missed) == (2, 1, 2)
    assert (trait(told).entered, trait(told).changed, trait(told).exited, trait(told).missed) == (2, 1, 1, 3)
    assert audience(told).as_json()["missed"] == 2
    assert trait(run(config, [], START + 7 * HOUR)).followed


def test_two_values_of_one_user_are_refused(shop: Shop) -> None:
    shop.put("1", START)
    config = shop.config("s")
    run(config, [], START)
    with shop.engine.begin() as connection:
        at = shop.time(START + HOUR)
        connection.execute(sa.insert(shop.vip), [{"user_id": "a", "value": n, "changed": at} for n in (1, 2)])
    report = run(config, [], START + HOUR)
    assert "gives user 'a' two values, 1 and 2" in (report.jobs[0].error or "")


# -- what is said -------------------------------------------------------------------------------------------------


def test_a_select_without_the_column_is_told_with_its_place(shop: Shop) -> None:
    with pytest.raises(ConfigError) as caught:
        run(shop.config("s", by="chnged"), [], START)
    problem = caught.value.problems()[0]
    assert problem.message == "VIP: changed_since: its sql: does not select 'chnged'"
    assert problem.hint == "did you mean 'changed'?"
    assert problem.file.endswith("s.yaml")
    assert problem.line == 1


@pytest.mark.parametrize("value", ["soon", "01/02/2026"])
def test_a_column_that_holds_no_times_is_told(shop: Shop, value: str) -> None:
    shop.put("1", START)
    with shop.engine.begin() as connection:
        connection.execute(sa.update(shop.vip).values(changed=value))
    error = run(shop.config("s"), [], START).jobs[0].error or ""
    assert f"VIP: changed_since: changed holds {value!r}, which is no time" in error


def test_milliseconds_are_no_seconds(tmp_path: Path) -> None:
    shop = Shop(tmp_path, f"sqlite:///{tmp_path}/shop.db", lambda name: f"sqlite:///{tmp_path}/{name}.db", "number")
    shop.put("1", START)
    with shop.engine.begin() as connection:
        connection.execute(sa.update(shop.vip).values(changed=shop.vip.c.changed * 1000))
    assert "seconds since 1970" in (run(shop.config("s"), [], START).jobs[0].error or "")


@pytest.mark.parametrize(
    "entry",
    [
        {"audiences": [{"name": "A", "table": {"name": "vip", "user_id": "user_id"}, "changed_since": "changed"}]},
        {"audiences": [{"name": "A", "who": {"did": "E"}, "changed_since": "changed"}]},
        {"traits": [{"name": "A", "count": "E", "changed_since": "changed"}]},
    ],
)
def test_it_stands_beside_sql_only(tmp_path: Path, entry: dict[str, Any]) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_text(
        json.dumps(
            {
                "version": 1,
                "source": "sqlite:///shop.db",
                "events": {"E": {"table": "e", "user_id": "u", "at": "at"}},
                "workflows": {"crm": {"url": "http://127.0.0.1:9/"}},
                "jobs": [{"name": "J", **entry}],
            }
        )
    )
    with pytest.raises(ConfigError, match="changed_since: stands beside sql: only"):
        load_config(path)


def test_it_is_said_in_words(shop: Shop) -> None:
    job = shop.config("s").jobs[0]
    assert [in_words(computed) for computed in job.computed] == [
        "everyone whom its SQL gives, followed by changed",
        "for each user, the value that its SQL gives, followed by changed",
    ]
