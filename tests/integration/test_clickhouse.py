"""A ClickHouse as a source: it answers every kind of rule as the oracle does, and keeps snapshots."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support import clickhouse, few_orders, worlds
from support.own_sql import told_of
from support.project import Project
from support.worlds import Tables, World, config_of

from audience_sync.computations.catalog import Catalog
from audience_sync.database import open_source

pytestmark = pytest.mark.slow


class ClickHouseWorld(World):
    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.connection = engine.connect()

    def fill(self, tables: Tables) -> None:
        for name, table in worlds.metadata.tables.items():
            clickhouse.store(self.connection, table, tables[name])
        self.catalog = Catalog(self.engine)


def test_clickhouse_answers_as_the_oracle(tmp_path: Path) -> None:
    world = ClickHouseWorld(open_source(clickhouse.url(tmp_path)))

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(
        tables=worlds.worlds,
        rules=st.lists(worlds.rules(3), min_size=4, max_size=4),
        traits=st.lists(worlds.traits(), min_size=4, max_size=4),
        with_people=st.booleans(),
        as_of=st.sampled_from(worlds.INSTANTS),
    )
    def check(
        tables: Tables, rules: list[dict[str, Any]], traits: list[dict[str, Any]], with_people: bool, as_of: datetime
    ) -> None:
        world.fill(tables)
        world.agrees(config_of(rules, traits, with_people=with_people), tables, as_of)

    check()
    world.close()


def test_values_of_a_users_own_sql(tmp_path: Path) -> None:
    engine = open_source(clickhouse.url(tmp_path))
    told = {
        "9007199254740993": "9007199254740993",
        "toDecimal64('1.50', 2)": "1.5",
        "toFloat64(2.0)": "2",
        "'a\"b'": '"a\\"b"',
        "'NaN'": '"NaN"',
        "'1.50'": '"1.50"',
        "true": "true",
        "toDate('2024-01-31')": '"2024-01-31"',
        "nan": None,
        "-inf": None,
        "null": None,
    }
    assert {expression: told_of(engine, expression) for expression in told} == told


@pytest.mark.parametrize("synced", ["state", "warehouse"])
def test_syncs_end_to_end(synced: str, project: Project, tmp_path: Path) -> None:
    url = clickhouse.url(tmp_path)
    with open_source(url).connect() as connection:
        clickhouse.store(connection, few_orders.orders, few_orders.ROWS)
    few_orders.first_sync(project, f'{{url: "{url}", synced: {synced}}}')
    assert project.quick("forget", "bob").code == 0
    again = few_orders.a_week_later(project)
    told = [(one["entered"], one["exited"], one["size"]) for one in again.json["jobs"][0]["computations"]]
    assert told == [(0, 1, 0), (0, 0, 0), (0, 0, 1), (0, 0, 1)]
