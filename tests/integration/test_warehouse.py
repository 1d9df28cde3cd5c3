"""A source that keeps the snapshots itself: what happens to its tables, and what the workflows are told."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.project import Project
from support.scores import START, Shop, believed, members
from support.statements import statements

from audience_sync import backfill as backfill_module
from audience_sync import database
from audience_sync.backfill import backfill
from audience_sync.config import load_config
from audience_sync.errors import ConfigError, DatabaseError
from audience_sync.forget import forget, unforget
from audience_sync.receiver import Receiver
from audience_sync.show import what_is_known
from audience_sync.state.reading import reading
from audience_sync.sync import plan, run

Receiving = tuple[Receiver, str]


@pytest.fixture
def warehouse(tmp_path: Path, receiver: Receiving) -> Shop:
    state = f"sqlite:///{tmp_path}/state.db"
    return Shop(tmp_path, f"duckdb:///{tmp_path}/shop.duckdb", state, receiver[1], keeps_snapshots=True)


def tables(shop: Shop, schema: str | None = None) -> set[str]:
    with shop.engine.connect() as connection:
        return {name for name in sa.inspect(connection).get_table_names(schema) if name != members.name}


def in_state(tmp_path: Path, statement: str) -> list[Any]:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/state.db", poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        return list(connection.exec_driver_sql(statement).all())


def edit(shop: Shop, *changes: tuple[str, str]) -> None:
    text = shop.path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    shop.path.write_text(text)


def test_members_stay_in_the_warehouse(warehouse: Shop, receiver: Receiving, tmp_path: Path) -> None:
    warehouse.sync(ann=1, bob=2)
    first = tables(warehouse)
    assert len(first) == 2
    assert in_state(tmp_path, "SELECT * FROM audience_sync_synced") == []
    assert {row[0] for row in in_state(tmp_path, "SELECT snapshot FROM audience_sync_computations")} == first
    warehouse.sync(bob=3, eve=1)
    assert len(tables(warehouse)) == 2 and not tables(warehouse) & first
    assert believed(receiver[0], "w1") == {("bob", "a"): True, ("eve", "a"): True, ("bob", "t"): 3, ("eve", "t"): 1}


def test_a_plan_leaves_the_warehouse_as_it_is(warehouse: Shop, tmp_path: Path) -> None:
    warehouse.sync(ann=1, bob=2)
    warehouse.set(bob=3, eve=1)
    before = hashlib.sha256((tmp_path / "shop.duckdb").read_bytes()).hexdigest()
    report = plan(warehouse.config, [], START)
    found = {c.key: (c.size, c.entered, c.exited, c.changed) for c in report.jobs[0].computations}
    assert found == {"a": (2, 1, 1, 0), "t": (2, 1, 1, 1)}
    assert hashlib.sha256((tmp_path / "shop.duckdb").read_bytes()).hexdigest() == before


def test_what_is_held_is_dropped_and_compared_again(warehouse: Shop, receiver: Receiving) -> None:
    warehouse.sync(ann=1)
    kept = tables(warehouse)
    edit(warehouse, ("guard: off", "guard: 50%"))
    warehouse.set()
    report = warehouse.run()
    assert report.exit_code == 3 and all(c.held for c in report.jobs[0].computations)
    assert tables(warehouse) == kept
    assert believed(receiver[0], "w1") == {("ann", "a"): True, ("ann", "t"): 1}
    assert warehouse.run(allow_large_change=True).exit_code == 0
    assert believed(receiver[0], "w1") == {}


def test_from_state_to_the_warehouse_and_back_tells_changes_only(
    tmp_path: Path, receiver: Receiving, warehouse: Shop
) -> None:
    url = f"duckdb:///{tmp_path}/shop.duckdb"
    keeping, plain = f"source: {{url: '{url}', synced: warehouse}}", f"source: {url}"
    edit(warehouse, (keeping, plain))
    warehouse.sync(ann=1, bob=2)
    edit(warehouse, (plain, keeping))
    receiver[0].calls.clear()
    warehouse.sync(bob=2, eve=1)
    told = {(c.body["userId"], *c.body["traits"].items()) for c in receiver[0].calls if c.path == "/w1"}
    assert told == {("ann", ("a", False)), ("ann", ("t", None)), ("eve", ("a", True)), ("eve", ("t", 1))}
    assert in_state(tmp_path, "SELECT * FROM audience_sync_synced") == []
    edit(warehouse, (keeping, plain))
    receiver[0].calls.clear()
    planned = plan(warehouse.config, [], START)
    assert [c.entered + c.exited + c.changed for c in planned.jobs[0].computations] == [0, 0]
    warehouse.sync(bob=4, eve=1)
    told = {(c.body["userId"], *c.body["traits"].items()) for c in receiver[0].calls if c.path == "/w1"}
    assert told == {("bob", ("t", 4))}
    assert len(in_state(tmp_path, "SELECT * FROM audience_sync_synced")) == 4


def test_a_snapshot_that_somebody_dropped(warehouse: Shop, receiver: Receiving, tmp_path: Path) -> None:
    warehouse.sync(ann=1)
    ((name,),) = in_state(tmp_path, "SELECT snapshot FROM audience_sync_computations WHERE key = 'a'")
    with warehouse.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE {name}")
    warehouse.set(ann=2, bob=1)
    report = warehouse.run()
    assert report.exit_code == 1
    assert report.jobs[0].error is not None
    assert f"a: the table {name}, its last snapshot, is not in the warehouse any more" in report.jobs[0].error
    # The trait is synced all the same, and of the audience nothing is told.
    assert believed(receiver[0], "w1") == {("ann", "a"): True, ("ann", "t"): 2, ("bob", "t"): 1}


def test_two_values_of_a_user_fail_that_trait_alone(warehouse: Shop, receiver: Receiving) -> None:
    warehouse.sync(ann=1)
    with warehouse.engine.begin() as connection:
        connection.execute(sa.insert(members), [{"user_id": "ann", "score": 2}, {"user_id": "bob", "score": 5}])
    report = warehouse.run()
    assert report.exit_code == 1 and "gives user 'ann' two values" in str(report.jobs[0].error)
    assert believed(receiver[0], "w1") == {("ann", "a"): True, ("bob", "a"): True, ("ann", "t"): 1}
    assert len(tables(warehouse)) == 2


def test_a_user_forgotten_while_the_warehouse_is_away(warehouse: Shop, receiver: Receiving, tmp_path: Path) -> None:
    warehouse.sync(ann=1, bob=2)
    (tmp_path / "shop.duckdb").rename(tmp_path / "away")
    (tmp_path / "shop.duckdb").write_text("not a database")
    report = forget(warehouse.config, ["ann"])
    assert not report.is_done and set(report.still_in) == {"a", "t"}
    assert all(status == "acknowledged" for _, status in report.users[0].calls.values())
    with pytest.raises(DatabaseError, match="holds users who were forgotten"):
        unforget(warehouse.config, ["ann"])
    with reading(warehouse.config.state) as connection:
        assert connection is not None
        assert what_is_known(connection, "bob", warehouse.config)["unknown"] is not None
    (tmp_path / "away").replace(tmp_path / "shop.duckdb")
    assert unforget(warehouse.config, ["ann"]) == ["ann"]
    receiver[0].told.clear()
    warehouse.sync(ann=1, bob=2)  # as if she were new
    assert believed(receiver[0], "w1") == {("ann", "a"): True, ("ann", "t"): 1}


def test_two_states_share_a_warehouse(warehouse: Shop, receiver: Receiving, tmp_path: Path) -> None:
    warehouse.sync(ann=1)
    first = tables(warehouse)
    text = warehouse.path.read_text()
    warehouse.path.write_text(text.replace("state.db", "other.db"))
    warehouse.sync(ann=1)
    second = tables(warehouse) - first
    assert first < tables(warehouse) and len(second) == 2
    warehouse.path.write_text(text)
    warehouse.sync(ann=1)
    assert second < tables(warehouse) and not first & tables(warehouse)


def test_a_backfill_goes_on_over_a_sync(
    warehouse: Shop, receiver: Receiving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill_module, "PAGE_ROWS", 3)
    everyone = {f"u{n:02}": n for n in range(10)}
    warehouse.sync(**everyone)
    receiver[0].told.clear()
    half = backfill(warehouse.config, audiences=["a"], workflows=["w1"], limit=4, chunk_rows=2)
    assert half.stopped is None and half.pairs[0].written == 4
    assert set(believed(receiver[0], "w1")) == {(f"u0{n}", "a") for n in range(4)}
    del everyone["u05"]
    warehouse.sync(**everyone)
    rest = backfill(warehouse.config, audiences=["a"], workflows=["w1"], chunk_rows=2)
    assert rest.is_done and rest.pairs[0].resumed == 4 and rest.pairs[0].written == 5
    assert set(believed(receiver[0], "w1")) == {(user, "a") for user in everyone}


def test_in_a_schema_of_its_own(new_database: Callable[[], str], tmp_path: Path, receiver: Receiving) -> None:
    url = new_database()
    shop = Shop(tmp_path, url, url, receiver[1], keeps_snapshots=True)
    edit(shop, ("synced: warehouse", "synced: warehouse, schema: sync_snapshots"))
    shop.set(ann=1)
    for look in (shop.run, lambda: plan(shop.config, [], START)):
        with pytest.raises(ConfigError, match="has no schema 'sync_snapshots'"):
            look()
    with shop.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA sync_snapshots")
    shop.sync(ann=1)
    shop.sync(ann=2, bob=1)
    assert len(tables(shop, "sync_snapshots")) == 2
    assert not {name for name in tables(shop) if len(name.split("_")) == 5}
    edit(shop, (", schema: sync_snapshots", ""))  # the last snapshots are found where they were kept
    shop.sync(bob=1)
    assert believed(receiver[0], "w1") == {("bob", "a"): True, ("bob", "t"): 1}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{url: 'sqlite:///shop.db', synced: warehouse}", "synced: warehouse is for duckdb, postgresql"),
        ("{url: 'duckdb:///shop.duckdb', schema: x}", "schema: is where a warehouse keeps its snapshots"),
        ("{url: 'duckdb:///shop.duckdb', synced: elsewhere}", "expected state, or warehouse"),
        ("{url: 'duckdb:///shop.duckdb', synked: warehouse}", "did you mean 'synced'?"),
        ("{synced: warehouse}", "url"),
        ("{url: 'nosuch://x', synced: warehouse}", "nosuch is not a database this version knows here"),
        ("nosuch://x", "nosuch is not a database this version knows here"),
        ("7", "source"),
    ],
)
def test_mistakes_are_told_with_their_place(project: Project, source: str, said: str) -> None:
    project.write(
        f"version: 1\nsource: {source}\nworkflows: {{w: {{url: 'http://127.0.0.1:1/w'}}}}\n"
        "jobs:\n  - name: J\n    audiences: [{name: A, sql: select 1 as user_id}]\n"
    )
    with pytest.raises(ConfigError) as told:
        load_config(project.folder / "jobs.yaml")
    (problem,) = told.value.problems()
    assert problem.line == 2 and said in str(problem), problem


HOLD = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print(flush=True); sys.stdin.readline()"


def test_a_duckdb_that_another_process_has_open(
    warehouse: Shop, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse.set(ann=1)
    command = [sys.executable, "-c", HOLD, str(tmp_path / "shop.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None and other.stdout is not None
        other.stdout.readline()
        with monkeypatch.context() as patched:
            patched.setattr(database, "BUSY_SECONDS", 0.2)
            ran = project.quick("run")
        assert ran.code == 1 and "another process has the file open" in ran.err + ran.out, ran
        threading.Timer(0.5, other.stdin.close).start()
        assert project.quick("run").code == 0  # which waited for it
        assert other.wait(30) == 0


def test_a_schema_written_in_other_words_is_the_same(warehouse: Shop, receiver: Receiving) -> None:
    text = warehouse.path.read_text()
    second = text[text.index("    audiences:") :].replace("name: a,", "name: b,").replace("name: t,", "name: u,")
    warehouse.path.write_text(text + "  - name: K\n" + second)
    warehouse.sync(ann=1, bob=2)
    edit(warehouse, ("synced: warehouse", "synced: warehouse, schema: main"))
    warehouse.set(bob=2)
    assert run(warehouse.config, ["j"], START + timedelta(days=9)).exit_code == 0
    edit(warehouse, ("guard: off", "guard: 0%"))
    assert run(warehouse.config, ["j"], START + timedelta(days=9)).exit_code == 0  # nothing changed: nothing is held
    warehouse.set(eve=1)
    assert run(warehouse.config, ["k"], START + timedelta(days=10)).exit_code == 0
    told = believed(receiver[0], "w1")
    assert told == {("bob", "a"): True, ("bob", "t"): 2, ("eve", "b"): True, ("eve", "u"): 1}
    edit(warehouse, (", schema: main", ""), ("guard: 0%", "guard: off"))
    warehouse.sync(eve=1)
    assert {key for _, key in believed(receiver[0], "w1")} == {"a", "t", "b", "u"} and len(tables(warehouse)) == 4


def test_one_that_fails_takes_no_other_with_it_though_somebody_is_forgotten(
    warehouse: Shop, receiver: Receiving
) -> None:
    warehouse.sync(ann=1, bob=2)
    forget(warehouse.config, ["ann"])
    failing = "      - {name: broken, sql: \"select cast(user_id || 'x' as integer) as user_id from members\"}\n"
    edit(warehouse, ("    audiences:\n", "    audiences:\n" + failing))
    warehouse.set(ann=1, bob=3)
    report = warehouse.run()
    assert report.exit_code == 1 and str(report.jobs[0].error).count("broken: ") == 1
    assert [(c.key, c.size) for c in report.jobs[0].computations] == [("a", 1), ("t", 1)]
    assert believed(receiver[0], "w2")[("bob", "t")] == 3 and len(tables(warehouse)) == 2
    planned = plan(warehouse.config, [], START)
    assert planned.exit_code == 1 and [c.key for c in planned.jobs[0].computations] == ["a", "t"]


def test_a_job_renamed_as_the_snapshots_come_home(warehouse: Shop, receiver: Receiving, tmp_path: Path) -> None:
    warehouse.sync(ann=1, bob=2)
    url = f"duckdb:///{tmp_path}/shop.duckdb"
    edit(warehouse, (f"{{url: '{url}', synced: warehouse}}", url), ("name: J", "name: Other"))
    receiver[0].calls.clear()
    warehouse.sync(bob=2)
    told = [(c.body["userId"], c.body["traits"]) for c in receiver[0].calls if c.path == "/w1"]
    assert sorted(map(str, told)) == ["('ann', {'a': False})", "('ann', {'t': None})"]
    assert tables(warehouse) == set()


def test_an_audience_taken_out_whose_snapshot_is_gone_stops_nobody(
    warehouse: Shop, receiver: Receiving, tmp_path: Path
) -> None:
    warehouse.sync(ann=1)
    ((name,),) = in_state(tmp_path, "SELECT snapshot FROM audience_sync_computations WHERE key = 'a'")
    with warehouse.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE {name}")
    edit(
        warehouse,
        ("    guard: off\n", "    guard: off\n    on_remove: send false\n"),
        ("    audiences:\n      - {name: a, table: {name: members, user_id: user_id}}\n", ""),
    )
    warehouse.set(ann=2)
    report = warehouse.run()
    assert report.exit_code == 1 and "is not in the warehouse any more" in str(report.jobs[0].error)
    assert believed(receiver[0], "w1") == {("ann", "a"): True, ("ann", "t"): 2}
    assert forget(warehouse.config, ["ann"]).is_done  # a table that is gone holds nobody
    assert unforget(warehouse.config, ["ann"]) == ["ann"]


def test_the_size_after_somebody_was_forgotten_while_it_was_away(warehouse: Shop, tmp_path: Path) -> None:
    warehouse.sync(ann=1, bob=2, eve=3)
    file = tmp_path / "shop.duckdb"
    file.rename(tmp_path / "away")
    file.write_text("not a database")
    assert not forget(warehouse.config, ["ann"]).is_done
    (tmp_path / "away").replace(file)
    report = warehouse.sync(ann=1, bob=2, eve=3)
    assert [c.size for c in report.jobs[0].computations] == [2, 2]


def test_a_backfill_goes_on_near_somebody_forgotten(warehouse: Shop, receiver: Receiving) -> None:
    everyone = {f"u{n:03}": n for n in range(40)}
    warehouse.sync(**everyone)
    backfill(warehouse.config, audiences=["a"], workflows=["w1"], limit=20, chunk_rows=5)
    forget(warehouse.config, ["u019"])
    receiver[0].calls.clear()
    assert backfill(warehouse.config, audiences=["a"], workflows=["w1"], chunk_rows=5).is_done
    told = {call.body["userId"] for call in receiver[0].calls}
    assert {f"u{n:03}" for n in range(20, 40)} <= told and len(told) < 32 and "u019" not in told


@pytest.mark.parametrize("kind", ["duckdb", "postgresql"])
def test_what_several_audiences_name_is_computed_once(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, receiver: Receiving
) -> None:
    source = f"duckdb:///{tmp_path}/shop.duckdb" if kind == "duckdb" else request.getfixturevalue("new_database")()
    shop = Shop(tmp_path, source, f"sqlite:///{tmp_path}/state.db", receiver[1], keeps_snapshots=True)
    named = """      - {name: picked, sql: "select user_id from members where score > 5"}
      - {name: b, who: {in: picked}}
      - {name: c, who: {all: [{in: picked}, {in: a}]}}
"""
    edit(shop, ("    audiences:\n", "    audiences:\n" + named))
    with statements() as found:
        shop.sync(ann=1, bob=7)
    assert len([one for one in found if "score > 5" in one and one.startswith("INSERT")]) == 1
    assert {key for user, key in believed(receiver[0], "w1") if user == "bob"} == {"a", "b", "c", "picked", "t"}
    shop.sync(ann=9)
    assert {key for _, key in believed(receiver[0], "w1")} == {"a", "b", "c", "picked", "t"} and len(tables(shop)) == 5


def test_a_plan_goes_on_past_a_failure_with_what_was_computed_once(
    new_database: Callable[[], str], tmp_path: Path, receiver: Receiving
) -> None:
    shop = Shop(tmp_path, new_database(), f"sqlite:///{tmp_path}/state.db", receiver[1], keeps_snapshots=True)
    named = """      - {name: broken, sql: "select cast(user_id as integer)::text as user_id from members"}
      - {name: picked, sql: "select user_id from members where score > 5"}
      - {name: b, who: {in: picked}}
      - {name: c, who: {all: [{in: picked}, {in: a}]}}
"""
    edit(shop, ("    audiences:\n", "    audiences:\n" + named))
    shop.set(ann=1, bob=7)
    report = plan(shop.config, [], START)
    assert report.exit_code == 1 and str(report.jobs[0].error).startswith("broken: ")
    assert {c.key: c.size for c in report.jobs[0].computations} == {"picked": 1, "b": 1, "c": 1, "a": 2, "t": 2}
    assert not tables(shop)
