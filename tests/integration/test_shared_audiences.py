"""An audience that others name in `in` is computed once a sync, and all have the answer that they have without."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.statements import statements

from audience_sync.computations import passes
from audience_sync.config import Config, load_config
from audience_sync.database import open_source, open_state
from audience_sync.snapshot.shared import made_beside
from audience_sync.state import schema
from audience_sync.state.tables import computations, synced
from audience_sync.sync import RunReport, plan, run

T = datetime(2026, 3, 1, tzinfo=UTC)
USERS = ["1", "01", "Ü", "a", "A", "a "]
LISTS = ["L0", "L1", "L2"]


@pytest.fixture(autouse=True)
def nothing_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["audience_sync.sync.run"], "deliver", lambda *_, **__: [])


def base(list_: str, *, sql: bool = False) -> dict[str, Any]:
    if sql:
        return {"sql": f"select user_id from lists where list = '{list_}'"}
    return {"table": {"name": "lists", "user_id": "user_id", "where": {"list": list_}}}


class Shop:
    """A table of lists, and `people`, which is everyone known."""

    def __init__(self, folder: Path, source: str, state: str) -> None:
        self.folder, self.source, self.state = folder, source, state
        self.engine = sa.create_engine(source, poolclass=sa.pool.NullPool)
        metadata = sa.MetaData()
        text = sa.String(20)
        self.people = sa.Table("people", metadata, sa.Column("id", text))
        self.lists = sa.Table("lists", metadata, sa.Column("list", text), sa.Column("user_id", text))
        self.tracks = sa.Table(
            "tracks", metadata, sa.Column("user_id", text), sa.Column("event", text), sa.Column("at", sa.DateTime)
        )
        with self.engine.begin() as connection:
            metadata.create_all(connection)
            connection.execute(sa.insert(self.people), [{"id": user} for user in USERS])
        engine = open_state(self.state)
        schema.migrate(engine)
        engine.dispose()

    def fill(self, rows: list[tuple[str, str | None]]) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.delete(self.lists))
            if rows:
                connection.execute(sa.insert(self.lists), [{"list": list_, "user_id": user} for list_, user in rows])

    def track(self, *rows: tuple[str | None, str, float]) -> None:
        """Events: whose, which, and how many days before T."""
        with self.engine.begin() as connection:
            found = [
                {"user_id": user, "event": event, "at": T.replace(tzinfo=None) - timedelta(days=ago)}
                for user, event, ago in rows
            ]
            connection.execute(sa.insert(self.tracks), found)

    def config(
        self, *jobs: dict[str, dict[str, Any]], source: str | None = None, events: dict[str, str] | None = None
    ) -> Config:
        document = {
            "version": 1,
            "source": source or self.source,
            "state": self.state,
            "people": {"table": "people", "user_id": "id"},
            "events": {"*": {"table": "tracks", "user_id": "user_id", "name": "event", "at": "at", **(events or {})}},
            "workflows": {"crm": {"url": "http://127.0.0.1:9/"}},
            "jobs": [
                {
                    "name": f"J{number}",
                    "guard": "off",
                    "audiences": [{"name": name, **who} for name, who in audiences.items()],
                }
                for number, audiences in enumerate(jobs)
            ],
        }
        path = self.folder / "jobs.yaml"
        path.write_text(json.dumps(document))
        return load_config(path)

    def members(self) -> dict[str, set[str]]:
        engine = open_state(self.state)
        try:
            with engine.connect() as connection:
                found: dict[str, set[str]] = {
                    name: set() for name in connection.execute(sa.select(computations.c.name)).scalars()
                }
                join = sa.select(computations.c.name, synced.c.user_id).join(
                    synced, synced.c.computation_id == computations.c.id
                )
                for name, user in connection.execute(join):
                    found[name].add(user)
                return found
        finally:
            engine.dispose()


def computed(found: list[str], list_: str) -> int:
    """How many statements read a list to compute who is in it; those with `count` count its rows without an id."""
    return len([one for one in found if f"'{list_}'" in one and not one.startswith("SELECT count")])


@pytest.fixture(params=["together", "attached", "postgresql", "apart", "sqlite apart", "duckdb", "mariadb"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    """Each way in which a source is read."""
    file = f"sqlite:///{tmp_path}/state.db"
    new: Callable[[], str]
    if request.param in ("together", "attached"):
        return Shop(tmp_path, file if request.param == "together" else f"sqlite:///{tmp_path}/shop.db", file)
    if request.param == "duckdb":
        return Shop(tmp_path, f"duckdb:///{tmp_path}/shop.duckdb", file)
    if request.param == "mariadb":
        new = request.getfixturevalue("new_mariadb")
        return Shop(tmp_path, new(), file)
    new = request.getfixturevalue("new_database")
    if request.param == "postgresql":
        url = new()
        return Shop(tmp_path, url, url)
    if request.param == "apart":
        return Shop(tmp_path, new(), file)
    return Shop(tmp_path, f"sqlite:///{tmp_path}/shop.db", new())


NESTED = {
    "Base": base("L0", sql=True),
    "Other": base("L1"),
    "Both": {"who": {"all": [{"in": "Base"}, {"in": "Other"}]}},
    "Neither": {"who": {"not": {"any": [{"in": "Base"}, {"in": "Other"}]}}},
    "Only one": {"who": {"all": [{"any": [{"in": "Base"}, {"in": "Other"}]}, {"not": {"in": "Both"}}]}},
}


def test_each_is_computed_once_and_everyone_agrees(shop: Shop) -> None:
    shop.fill([("L0", "1"), ("L0", "1"), ("L0", "a"), ("L1", "a"), ("L1", "A"), ("L1", "a "), ("L0", None), ("L1", "")])
    config = shop.config(NESTED)
    with statements() as found:
        planned = plan(config, [], T)
    assert [(c.key, c.entered) for c in planned.jobs[0].computations] == [
        *(("base", 2), ("other", 3), ("both", 1), ("neither", 2), ("only_one", 3))
    ]
    assert computed(found, "L0") == computed_of_a_check(found) + 1
    report = run(config, [], T)
    assert shop.members() == {
        "Base": {"1", "a"},
        "Other": {"a", "A", "a "},
        "Both": {"a"},
        "Neither": {"01", "Ü"},
        "Only one": {"1", "A", "a "},
    }
    assert [c.skipped_ids for c in report.jobs[0].computations] == [1, 1, 0, 0, 0]
    shop.fill([("L0", "a"), ("L1", "1")])
    again = run(config, [], T)
    assert [(c.entered, c.exited) for c in again.jobs[0].computations] == [(0, 1), (1, 3), (0, 1), (2, 0), (1, 2)]
    assert shop.members()["Only one"] == {"a", "1"}


def computed_of_a_check(found: list[str]) -> int:
    """Before a sync does anything, each SELECT is asked of no row."""
    return len(
        [
            one
            for one in found
            if "'L0'" in one and one.rstrip().endswith(("WHERE false", "WHERE 0 = 1", "WHERE false = 1"))
        ]
    )


rules = st.recursive(
    st.integers(0, 7).map(lambda n: {"in": n}),
    lambda inner: st.one_of(
        inner.map(lambda rule: {"not": rule}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"all": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"any": parts}),
    ),
    max_leaves=5,
)


def named(rule: Any, before: list[str]) -> Any:
    """The rule with a name of an earlier audience for each number."""
    if isinstance(rule, list):
        return [named(part, before) for part in rule]
    if "in" in rule:
        return {"in": before[rule["in"] % len(before)]}
    return {word: named(part, before) for word, part in rule.items()}


def brute_force(rule: Any, known: dict[str, set[str]]) -> set[str]:
    if "in" in rule:
        return known[rule["in"]]
    if "not" in rule:
        return set(USERS) - brute_force(rule["not"], known)
    parts = [brute_force(part, known) for part in rule.get("all") or rule["any"]]
    return set.intersection(*parts) if "all" in rule else set.union(*parts)


members = st.lists(st.tuples(st.sampled_from(LISTS), st.sampled_from(USERS)), max_size=12)


@pytest.mark.slow
@pytest.mark.parametrize("shop", ["attached", "postgresql", "apart", "sqlite apart"], indirect=True)
def test_any_tangle_of_audiences_is_what_sets_make_of_it(shop: Shop) -> None:
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        found=st.lists(st.tuples(rules, st.integers(0, 1)), min_size=1, max_size=6),
        history=st.lists(members, min_size=1, max_size=3),
        sql=st.booleans(),
    )
    def check(found: list[tuple[Any, int]], history: list[list[tuple[str, str | None]]], sql: bool) -> None:
        jobs: list[dict[str, Any]] = [{}, {}]
        for list_ in LISTS:
            jobs[0][list_] = base(list_, sql=sql)
        names, all_rules = list(LISTS), {}
        for number, (rule, job) in enumerate(found):
            all_rules[f"R{number}"] = named(rule, names)
            jobs[job][f"R{number}"] = {"who": all_rules[f"R{number}"]}
            names.append(f"R{number}")
        config = shop.config(*[job for job in jobs if job])
        for rows in history:
            shop.fill(rows)
            report = run(config, [], T)
            assert [job.error for job in report.jobs] == [None] * len(report.jobs)
            expected = {list_: {str(user) for one, user in rows if one == list_} for list_ in LISTS}
            for name, rule in all_rules.items():
                expected[name] = brute_force(rule, expected)
            now = shop.members()
            assert {name: now[name] for name in expected} == expected

    check()


def reports(report: RunReport) -> dict[str, int]:
    return {c.key: c.size for c in report.jobs[0].computations}


FAILS = {
    "Fails": {"sql": "select user_id from lists where 1 / (case when user_id = 'Ü' then 0 else 1 end) = 1"},
    "Needs it": {"who": {"all": [{"in": "Fails"}, {"in": "Works"}]}},
    "Needs that": {"who": {"any": [{"in": "Needs it"}, {"in": "Works"}]}},
    "Works": base("L0"),
    "Needs it not": {"who": {"not": {"in": "Works"}}},
}


@pytest.mark.parametrize("shop", ["postgresql", "apart"], indirect=True)
def test_what_fails_is_told_of_each_that_needs_it_and_stops_no_other(shop: Shop) -> None:
    shop.fill([("L0", "1"), ("L1", "Ü")])
    report = run(shop.config(FAILS), [], T)
    assert reports(report) == {"works": 1, "needs_it_not": 5}
    errors = (report.jobs[0].error or "").split("; ")
    heads = ["Fails: source: ", "Needs it: in Fails: source: ", "Needs that: in Fails: source: "]
    assert [error[: len(head)] for error, head in zip(errors, heads, strict=True)] == heads
    assert all(error.endswith("division by zero") for error in errors)
    shop.fill([("L0", "1")])
    assert len(reports(run(shop.config(FAILS), [], T))) == 5


@pytest.mark.parametrize("shop", ["postgresql", "apart"], indirect=True)
def test_a_users_sql_writes_nothing_while_it_is_shared(shop: Shop) -> None:
    shop.fill([("L0", "1")])
    with shop.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION sneaky() RETURNS text LANGUAGE sql AS $$ DELETE FROM people; SELECT 'x' $$"
        )
    audiences = {
        "Sneaky": {"sql": "select sneaky() as user_id"},
        "One": {"who": {"in": "Sneaky"}},
        "Two": {"who": {"not": {"in": "Sneaky"}}},
    }
    report = run(shop.config(audiences), [], T)
    assert (report.jobs[0].error or "").count("cannot execute DELETE in a read-only transaction") == 3
    with shop.engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(shop.people)).scalar_one() == len(USERS)


@pytest.mark.parametrize("shop", ["apart", "sqlite apart", "duckdb", "mariadb"], indirect=True)
def test_a_source_takes_its_temporary_tables_and_no_other_row(shop: Shop) -> None:
    table = sa.Table("audience_sync_shared_0", sa.MetaData(), sa.Column("user_id", sa.Text), prefixes=["TEMPORARY"])
    source = open_source(shop.source)
    with source.connect() as connection:
        assert made_beside(connection, [table])
        connection.execute(sa.insert(table), [{"user_id": "1"}])
        with pytest.raises(sa.exc.DBAPIError, match=r"(?i)read.?only"):
            connection.execute(sa.insert(shop.people), [{"id": "new"}])
    source.dispose()


@pytest.mark.parametrize("shop", ["apart"], indirect=True)
def test_a_source_that_refuses_temporary_tables_computes_each_where_it_is_named(
    shop: Shop, postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop.fill([("L0", "1"), ("L1", "1")])
    role = f"reader_{shop.engine.url.database}"
    with shop.engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD '{shop.engine.url.password}'")
        connection.exec_driver_sql(f"REVOKE TEMPORARY ON DATABASE {shop.engine.url.database} FROM PUBLIC")
        connection.exec_driver_sql(f"GRANT SELECT ON people, lists TO {role}")
    reader = shop.engine.url.set(username=role).render_as_string(hide_password=False)
    caplog.set_level(logging.DEBUG, logger="audience_sync")
    report = run(shop.config(NESTED, source=reader), [], T)
    assert report.jobs[0].error is None
    assert reports(report) == {"base": 1, "other": 1, "both": 1, "neither": 5, "only_one": 0}
    told = [record for record in caplog.records if "temporary" in record.message]
    assert {record.levelname for record in told} == {"DEBUG"}
    assert "permission denied" in told[0].message


@pytest.mark.parametrize("shop", ["postgresql", "apart", "sqlite apart", "attached"], indirect=True)
def test_the_instant_stays_one(shop: Shop) -> None:
    """What comes after the shared audience was filled is seen by none of those who read it, nor by the rest."""
    shop.fill([("L0", "1")])
    if shop.source.startswith("sqlite"):
        with shop.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    config = shop.config({**NESTED, "Last": base("L0")})
    run(config, [], T)
    came = False

    def meanwhile(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal came
        if statement.startswith("INSERT INTO audience_sync_shared_0") and not came:
            came = True
            with shop.engine.begin() as other:
                other.exec_driver_sql("INSERT INTO lists VALUES ('L0', 'a')")

    sa.event.listen(sa.Engine, "after_cursor_execute", meanwhile)
    try:
        report = run(config, [], T)
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", meanwhile)
    assert came
    assert [c.entered + c.exited for c in report.jobs[0].computations] == [0] * 6
    assert [c.entered for c in run(config, [], T).jobs[0].computations] == [1, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("shop", ["attached"], indirect=True)
def test_what_is_read_once_or_is_a_whole_table_is_not_copied(shop: Shop) -> None:
    shop.fill([("L0", "1")])
    whole = {"table": {"name": "lists", "user_id": "user_id"}}
    mine = {"Mine": {"who": {"in": "Once"}}, "All": whole, "A": {"who": {"in": "All"}}, "B": {"who": {"in": "All"}}}
    config = shop.config(mine, {"Once": base("L0")})
    with statements() as found:
        report = run(config, ["J0"], T)
    assert reports(report) == {"mine": 1, "all": 1, "a": 1, "b": 1}
    assert not [one for one in found if "audience_sync_shared" in one]


# -- many a `did` over one table ----------------------------------------------------------------------------------


def readings(found: list[str]) -> list[str]:
    """The statements that read the table of events, but for those that ask for no row, before anything is done."""
    reads = [one for one in found if " tracks" in one or "tracks " in one]
    checks = ("WHERE false", "WHERE 0 = 1", "WHERE false = 1")
    return [one for one in reads if "SELECT" in one and "FROM tracks" in one and not one.rstrip().endswith(checks)]


EVENTS = [f"E{n}" for n in range(6)]


@pytest.fixture
def six_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "FEWEST", 5)


@pytest.mark.usefixtures("six_are_many")
def test_many_events_of_one_table_are_read_in_one_pass(shop: Shop) -> None:
    shop.track(*[(user, event, 1 + n) for n, event in enumerate(EVENTS) for user in ("1", "a", "A", "a ")])
    shop.track(("1", "E0", 30), ("Ü", "E0", 29.99), ("01", "e0", 1), ("01", "E0 ", 1), ("01", "E0", -1))
    shop.track((None, "E0", 1), ("", "E0", 2), ("", "E0", 40), (None, "Another", 1))
    audiences = {event: {"who": {"did": event, "within": "30 days"}} for event in EVENTS}
    audiences["Since"] = {"who": {"all": [{"did": "E0", "since": "2026-02-05"}, {"not": {"in": "E1"}}]}}
    config = shop.config(audiences)
    with statements() as found:
        report = run(config, [], T)
    assert report.jobs[0].error is None
    assert shop.members() == {
        **{event: {"1", "a", "A", "a "} for event in EVENTS},
        "E0": {"1", "a", "A", "a ", "Ü"},
        "Since": set(),
    }
    assert [c.skipped_ids for c in report.jobs[0].computations] == [2, 0, 0, 0, 0, 0, 2]
    assert len(readings(found)) == 2, "who did what, and which rows are nobody's"
    shop.track(("01", "E5", 0))
    assert [c.entered for c in run(config, [], T).jobs[0].computations] == [0, 0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("shop", ["attached"], indirect=True)
@pytest.mark.parametrize(
    ("words", "events"),
    [
        ({"at_least": 2}, {}),
        ({"where": {"event": "E0"}}, {}),
        ({"between": ["3 days", "1 day"]}, {}),
        ({"until": "2026-02-27"}, {}),
        ({}, {"arrived_at": "at"}),  # which is followed, and most syncs read little of it
    ],
)
@pytest.mark.usefixtures("six_are_many")
def test_what_asks_for_more_than_the_last_time_is_asked_by_itself(
    shop: Shop, words: dict[str, Any], events: dict[str, str]
) -> None:
    shop.track(*[("1", event, 1) for event in EVENTS])
    config = shop.config({event: {"who": {"did": event, **words}} for event in EVENTS}, events=events)
    with statements() as found:
        run(config, [], T)
    assert not [one for one in found if "audience_sync_users" in one]


@pytest.mark.usefixtures("six_are_many")
@pytest.mark.parametrize("shop", ["attached"], indirect=True)
def test_a_narrow_window_does_not_wait_for_a_wide_one(shop: Shop) -> None:
    shop.track(("1", "E0", 1), ("a", "E0", 300))
    hours = [36, 48, 60, 61, 62, 300 * 24 + 1]
    config = shop.config({f"{n} hours": {"who": {"did": "E0", "within": f"{n} hours"}} for n in hours})
    with statements() as found:
        report = run(config, [], T)
    assert [c.size for c in report.jobs[0].computations] == [1, 1, 1, 1, 1, 2]
    assert len([one for one in found if one.startswith("INSERT INTO audience_sync_users")]) == 1
    assert len(readings(found)) == 2 + 2, "of the widest, its rows and those without a user id"


@pytest.mark.parametrize("shop", ["attached"], indirect=True)
def test_a_few_are_asked_one_by_one(shop: Shop) -> None:
    shop.track(("1", "E0", 1))
    with statements() as found:
        run(shop.config({event: {"who": {"did": event}} for event in EVENTS}), [], T)
    assert not [one for one in found if "audience_sync_users" in one]
