"""What a jobs.yaml can do that means harm: nothing, and it is told within a second."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.once import synced_once

from audience_sync.config import load_config
from audience_sync.errors import AudienceSyncError, ConfigError

HEAD = """\
version: 1
source: sqlite:///shop.db
events: {Did: {table: t, user_id: u, at: a}}
workflows: {w: {url: "http://127.0.0.1:1/"}}
"""
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)
)


def chain(count: int, *, times: int = 1) -> str:
    """Audiences that each name the next one."""
    rules = "".join(
        f"      - {{name: A{n}, who: {{any: [{', '.join([f'{{in: A{n + 1}}}'] * times)}]}}}}\n" for n in range(count)
    )
    return HEAD + f"jobs:\n  - name: J\n    audiences:\n{rules}      - {{name: A{count}, who: {{did: Did}}}}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "unfolds to too many values"),
        (HEAD + "jobs: " + "[" * 100_000, "nested deeper than"),
        (HEAD + "jobs: " + "{a: " * 100_000, "nested deeper than"),
        (HEAD + "jobs: [" + "a, " * 300_000 + "]", "holds more than"),
        ("a" * 1_100_000, "larger than"),
        (HEAD + "jobs:\n" + "".join(f"  k{n}: 1\n" for n in range(20_000)), "expected a list"),
        (HEAD + "".join(f"unknown{n}: 1\n" for n in range(20_000)), "is not known here"),
        (HEAD + "jobs: [{name: J, audiences: [{name: A, who: {in: " + "d" * 900_000 + "}}]}]", "no audience 'ddd"),
        (chain(2000), "leads through more than"),
        (HEAD + "jobs: [{name: J, audiences: [{name: A, who: {in: B}}, {name: B, who: {not: {in: A}}}]}]", "A → B → A"),
        (HEAD + "jobs: [{name: J, audiences: [{name: A, who: {in: A}}]}]", "A → A"),
    ],
    ids=[
        "bomb", "lists", "maps", "values", "large", "list", "keys", "long word", "chain", "circle", "itself",
    ],
)  # fmt: skip
def test_a_hostile_file_is_refused_within_a_second(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_text(text)
    took = []
    for _ in range(3):  # the quickest of three: another's load on the processor costs time, too
        started = time.process_time()
        with pytest.raises(ConfigError) as caught:
            load_config(path, {})
        took.append(time.process_time() - started)
    assert min(took) < 1
    assert said in str(caught.value)
    assert len(str(caught.value)) < 20_000


def test_audiences_that_name_each_other_many_times_are_read_once(tmp_path: Path) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_text(chain(40, times=3))
    started = time.process_time()
    assert len(load_config(path, {}).jobs[0].audiences) == 41
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "sql",
    [
        "drop table victims",
        "delete from victims",
        "select u as user_id from victims; delete from victims",
        "select u as user_id from victims) as given; delete from victims; --",
        "select u as user_id from victims) union select 'x' from (select 1",
        "with gone as (delete from victims returning u) select u as user_id from gone",
        "pragma query_only = off",
        "select u as user_id from victims; --",
        "/* select */ insert into victims values ('x')",
        "attach database 'x.db' as y",
    ],
)
@pytest.mark.parametrize(
    "kind", ["sqlite", *[pytest.param(k, marks=pytest.mark.slow) for k in ("sqlite apart", "postgresql")]]
)
def test_sql_changes_nothing(kind: str, sql: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path}/one.db" if kind != "postgresql" else request.getfixturevalue("new_database")()
    state = f"sqlite:///{tmp_path}/state.db" if kind == "sqlite apart" else url
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE victims (u text)")
        connection.exec_driver_sql("INSERT INTO victims VALUES ('7')")
    with contextlib.suppress(AudienceSyncError):
        synced_once(tmp_path, url, state, sql)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT u FROM victims").scalars().all() == ["7"]


def test_a_function_that_writes_is_refused_by_postgresql(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Where source and state are one database, the connection could write; its transaction cannot."""
    url = request.getfixturevalue("new_database")()
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE victims (u text)")
        connection.exec_driver_sql("INSERT INTO victims VALUES ('7')")
        connection.exec_driver_sql(
            "CREATE FUNCTION harm() RETURNS text LANGUAGE sql AS $$ DELETE FROM victims RETURNING u $$"
        )
    report = synced_once(tmp_path, url, url, "select harm() as user_id")
    assert "read-only" in str(report.jobs[0].error)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT u FROM victims").scalars().all() == ["7"]
