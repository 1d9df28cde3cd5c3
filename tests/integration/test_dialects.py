"""Warehouses that no test can start: their SQL is compiled by each one's own dialect, read by sqlglot as that warehouse
would read it, and carried over to DuckDB, whose answers are the oracle's.

What that shows and what not is told in docs/warehouse.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.mock import MockConnection
from support import dialects, shop, worlds
from support.cdnow_rules import config
from support.dialects import DIALECTS, Declared, dialect, on_duckdb, read
from support.oracle import Oracle
from support.worlds import Tables, World, config_of

from audience_sync.computations import Computation, compile_computation
from audience_sync.diff import joined
from audience_sync.errors import ConfigError
from audience_sync.warehouse.engines import CAPABILITIES
from audience_sync.warehouse.snapshots import Warehouse, write, write_forgotten

MEMBERS = """\
CREATE TABLE members AS FROM (VALUES
    ('was', 'left', 't'), ('was', 'stays', 't'), ('was', 'moves', '1'),
    ('now', 'stays', 't'), ('now', 'moves', '2'), ('now', 'came', 't'), ('now', 'gone', 't')
) AS t (sync, user_id, value)
"""
EXPECTED = [
    (7, "came", "entered", "t", None, None),
    (7, "left", "exited", None, "t", None),
    (7, "moves", "changed", "2", "1", None),
]
AS_OF = datetime(1998, 1, 31, tzinfo=UTC)
every = pytest.mark.parametrize("name", DIALECTS)


@pytest.fixture
def duckdb() -> Iterator[World]:
    world = World(sa.create_engine("duckdb:///:memory:", poolclass=sa.pool.StaticPool))
    with world.connection.begin():
        world.connection.exec_driver_sql("SET TimeZone = 'UTC'")
        dialects.prepare(world.connection)
    yield world
    world.close()


@every
def test_every_rule_can_be_read(name: str) -> None:
    made, wanted = dialect(name), config()
    catalog = Declared(name, shop.metadata)
    for computed in wanted.jobs[0].computed:
        computation = compile_computation(wanted, catalog, computed, AS_OF)
        for query in (computation.rows, *computation.skipped):
            read(query, made)


@every
@pytest.mark.slow
def test_every_rule_means_the_same(name: str, duckdb: World) -> None:
    made, catalog = dialect(name), Declared(name, worlds.metadata)

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(
        tables=worlds.worlds,
        rules=st.lists(worlds.rules(2), min_size=6, max_size=6),
        traits=st.lists(worlds.traits(), min_size=4, max_size=4),
        as_of=st.sampled_from(worlds.INSTANTS),
    )
    def check(tables: Tables, rules: list[dict[str, Any]], traits: list[dict[str, Any]], as_of: datetime) -> None:
        duckdb.fill(tables)
        wanted = config_of(rules, traits, with_people=True)
        oracle = Oracle(wanted, tables, as_of)
        for computed in wanted.jobs[0].computed:
            computation: Computation = compile_computation(wanted, catalog, computed, as_of)
            with duckdb.connection.begin():
                rows = duckdb.connection.exec_driver_sql(on_duckdb(computation.rows, made)).all()
            if computed in wanted.jobs[0].audiences:
                assert {row[0] for row in rows} == oracle.members(computed.name), computed
            else:
                assert {row[0]: json.loads(row[1]) for row in rows} == oracle.values(computed), computed

    check()


@every
def test_snapshots_are_kept_and_compared(name: str, duckdb: World) -> None:
    """What `synced: warehouse` says to a warehouse: two snapshots, without the one who is forgotten, and their diff."""
    made = dialect(name)
    warehouse = Warehouse(sa.create_engine("sqlite://"), "", None, CAPABILITIES[name], "0123456789abcdef")
    said = _Said(made)
    forgotten = warehouse.forgotten("now", "")
    write_forgotten(said, forgotten, [sha256(b"saltgone").hexdigest()])  # type: ignore[arg-type]
    was, now = (warehouse.snapshot(warehouse.name(token, 0)) for token in ("was", "now"))
    members = sa.table(
        "members", sa.column("sync", sa.Text), sa.column("user_id", sa.Text), sa.column("value", sa.Text)
    )
    for table, sync in ((was, "was"), (now, "now")):
        rows = sa.select(members.c.user_id, members.c.value, sa.cast(sa.null(), sa.Text).label("other"))
        write(said, warehouse, table, rows.where(members.c.sync == sync), "salt", forgotten)  # type: ignore[arg-type]
    with duckdb.connection.begin():
        duckdb.connection.exec_driver_sql(MEMBERS)
        for statement in said.statements:
            duckdb.connection.exec_driver_sql(statement)
        changed = duckdb.connection.exec_driver_sql(on_duckdb(joined(7, now, was, of_traits=True), made)).all()
    assert sorted(tuple(row) for row in changed) == EXPECTED


class _Said(MockConnection):
    """Takes statements and keeps them, as DuckDB would take them."""

    def __init__(self, made: Dialect) -> None:
        self.statements: list[str] = []
        super().__init__(made, lambda statement, *_: self.statements.append(on_duckdb(statement, made)))


@every
def test_what_cannot_be_read_there_is_said_before_anything_is_done(name: str) -> None:
    rule = {"did": "Order", "where": {"colour": "red"}}
    wanted = config_of([rule], [], with_people=True)
    wanted.events["Order"] = wanted.events["Order"].model_copy(update={"properties": "category"})
    with pytest.raises(ConfigError, match="make the property a column, in a view of your own"):
        compile_computation(wanted, Declared(name, worlds.metadata), wanted.jobs[0].audiences[2], AS_OF)
