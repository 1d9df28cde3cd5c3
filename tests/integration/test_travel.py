"""Ids that travel between two databases, and sources that fail on the way: nothing is changed in the ids, nothing is
half recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from audience_sync.config import Config, load_config
from audience_sync.database import open_state
from audience_sync.delivery.sender import Patience
from audience_sync.snapshot import stage
from audience_sync.state import schema
from audience_sync.state.tables import computations, synced
from audience_sync.sync import RunReport, run

AWKWARD = [
    "1",
    "01",
    " 1",
    "A",
    "a",
    "é",
    "e\u0301",  # the same letter in two signs
    "\u00df",
    "ss",
    "名前",
    "😀",
    "\\N",
    "\\",
    "a\tb",
    "a\nb",
    "a\r\nb",
    'q"uote',
    "it's",
    "%s :name $1 {}",
    "x" * 512,
    "é" * 256,
]

JOBS = """\
version: 1
source: "{source}"
state: "{state}"
workflows: {{crm: {{url: "http://127.0.0.1:9/"}}}}
jobs:
  - name: J
    guard: off
    audiences:
      - {{name: A, table: {{name: t, user_id: id}}}}
      - {{name: B, sql: "select id as user_id from t where n % 2 = 0 -- 100% :of them"}}
    traits:
      - {{name: C, sql: "select id as user_id, n as value from t"}}
"""


def databases(kinds: str, folder: Path, new_database: Callable[[], str]) -> tuple[str, str]:
    source, state = (
        new_database() if kind == "postgresql" else f"sqlite:///{folder}/{role}.db"
        for kind, role in zip(kinds.split("-"), ("source", "state"), strict=True)
    )
    return source, state


def prepared(source: str, state: str, folder: Path) -> Config:
    engine = sa.create_engine(source, poolclass=sa.pool.NullPool)
    t = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Text), sa.Column("n", sa.Integer))
    with engine.begin() as connection:
        t.create(connection)
        connection.execute(sa.insert(t), [{"id": id_, "n": n} for n, id_ in enumerate(AWKWARD)])
    path = folder / "jobs.yaml"
    path.write_text(JOBS.format(source=source, state=state))
    config = load_config(path)
    made = open_state(config.state)
    schema.migrate(made)
    made.dispose()
    return config


def once(config: Config) -> RunReport:
    from datetime import UTC, datetime

    return run(config, [], datetime(2026, 1, 1, tzinfo=UTC), patience=Patience(silent=0.0))


def kept(config: Config, table: sa.Table, key: str) -> set[str]:
    engine = open_state(config.state)
    try:
        with engine.connect() as connection:
            of_key = sa.select(computations.c.id).where(computations.c.key == key).scalar_subquery()
            return set(connection.execute(sa.select(table.c.user_id).where(table.c.computation_id == of_key)).scalars())
    finally:
        engine.dispose()


TOPOLOGIES = [
    "sqlite-sqlite",
    pytest.param("sqlite-postgresql", marks=pytest.mark.slow),
    "postgresql-sqlite",
    "postgresql-postgresql",
]


@pytest.mark.parametrize("kinds", TOPOLOGIES)
def test_ids_arrive_to_the_letter(kinds: str, tmp_path: Path, new_database: Callable[[], str]) -> None:
    config = prepared(*databases(kinds, tmp_path, new_database), tmp_path)
    once(config)
    assert kept(config, synced, "a") == set(AWKWARD)
    assert kept(config, synced, "b") == set(AWKWARD[::2])
    again = once(config).jobs[0].computations
    assert [(c.size, c.entered, c.exited, c.changed) for c in again] == [
        (len(AWKWARD), 0, 0, 0),
        (len(AWKWARD[::2]), 0, 0, 0),
        (len(AWKWARD), 0, 0, 0),
    ]


@pytest.mark.parametrize("kinds", TOPOLOGIES[1:])
def test_a_source_that_breaks_half_way_leaves_nothing_of_that_computation(
    kinds: str, tmp_path: Path, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = prepared(*databases(kinds, tmp_path, new_database), tmp_path)
    path = "_copied_out" if kinds == "postgresql-postgresql" else "_fetched"
    real: Any = getattr(stage_module(), path)
    calls = 0

    def breaks(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        for chunk in real(*arguments):
            yield chunk
            if calls == 2:  # of the second computation the first rows came, and then no more
                raise sa.exc.OperationalError("SELECT", {}, Exception("server closed the connection unexpectedly"))

    monkeypatch.setattr(stage_module(), path, breaks)
    report = once(config)
    job = report.jobs[0]
    assert job.status == "failed"
    assert job.error is not None
    assert job.error.startswith("B: source: ")
    assert "server closed the connection" in job.error
    assert [c.key for c in job.computations] == ["a", "c"], "one that fails keeps no other"
    assert kept(config, synced, "b") == set()
    monkeypatch.undo()
    assert [c.entered for c in once(config).jobs[0].computations] == [0, len(AWKWARD[::2]), 0]


def stage_module() -> Any:
    import sys

    return sys.modules[stage.__module__]


def test_all_audiences_of_a_job_are_read_at_one_instant(tmp_path: Path, new_database: Callable[[], str]) -> None:
    """A row that comes between two computations is in both or in neither."""
    url = new_database()
    config = prepared(url, url, tmp_path)
    once(config)
    writer = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    came = False

    def meanwhile(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal came
        if "INTO audience_sync_changes" in statement and not came:
            came = True
            with writer.connect() as other:
                other.exec_driver_sql("INSERT INTO t VALUES ('late', 100)")

    sa.event.listen(sa.Engine, "after_cursor_execute", meanwhile)
    try:
        found = once(config).jobs[0].computations
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", meanwhile)
        writer.dispose()
    assert came
    assert [c.entered for c in found] == [0, 0, 0]
    assert [c.entered for c in once(config).jobs[0].computations] == [1, 1, 1]


def test_the_merge_is_what_sqlite_runs(tmp_path: Path) -> None:
    """A future SQLite that looked up each row instead would be right, and three times slower."""
    with sa.create_engine("sqlite://").connect() as connection:
        connection.exec_driver_sql("CREATE TABLE a (user_id TEXT PRIMARY KEY) WITHOUT ROWID")
        connection.exec_driver_sql("CREATE TABLE b (user_id TEXT PRIMARY KEY) WITHOUT ROWID")
        plan = connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT user_id FROM "
            "(SELECT user_id FROM a EXCEPT SELECT user_id FROM b ORDER BY user_id LIMIT -1)"
        )
        steps = [row[-1] for row in plan]
    assert "MERGE (EXCEPT)" in steps
    assert not [step for step in steps if "TEMP B-TREE" in step]
