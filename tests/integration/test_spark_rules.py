"""A Spark cluster answers every kind of rule as the oracle does, over Parquet tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support import shop, worlds
from support.cdnow_rules import config
from support.oracle import Oracle
from support.spark import store
from support.worlds import Tables, World, config_of

from audience_sync.computations import compile_computation
from audience_sync.computations.catalog import Catalog
from audience_sync.database import open_source

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("spark")]
AS_OF = datetime(1997, 7, 15, 12, 30, tzinfo=UTC)
AT_THE_END = datetime(1998, 6, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def engine(spark: str) -> sa.Engine:
    with open_source(spark).connect() as connection:
        connection.exec_driver_sql("CREATE SCHEMA rules")
    return open_source(sa.make_url(spark).set(database="rules").render_as_string(hide_password=False))


class SparkWorld(World):
    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.connection = engine.connect()
        self.catalog = Catalog(engine)

    def fill(self, tables: Tables) -> None:
        for name, table in worlds.metadata.tables.items():
            store(self.connection, table, tables[name])


@pytest.fixture
def world(engine: sa.Engine) -> Iterator[World]:
    made = SparkWorld(engine)
    yield made
    made.connection.close()


def test_worlds_with_many_rules(world: World) -> None:
    @settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(
        tables=worlds.worlds,
        rules=st.lists(worlds.rules(2), min_size=12, max_size=12),
        traits=st.lists(worlds.traits(), min_size=6, max_size=6),
        as_of=st.sampled_from(worlds.INSTANTS),
    )
    def check(tables: Tables, rules: list[dict[str, Any]], traits: list[dict[str, Any]], as_of: datetime) -> None:
        world.fill(tables)
        world.agrees(config_of(rules, traits, with_people=True), tables, as_of)

    check()


def test_the_orders_of_cdnow(engine: sa.Engine) -> None:
    orders = [row for row in shop.cdnow() if str(row["customer_id"]).endswith(("3", "7"))]
    wanted = config()
    job = wanted.jobs[0]
    with engine.connect() as connection:
        store(connection, shop.orders, orders)
        catalog = Catalog(engine)
        for as_of, computed in [(AS_OF, job.audiences), (AT_THE_END, job.traits)]:
            oracle = Oracle(wanted, {"orders": orders}, as_of)
            for one in computed:
                rows = connection.execute(compile_computation(wanted, catalog, one, as_of).rows).all()
                found = {row.user_id: row.value for row in rows}
                if one in job.audiences:
                    assert set(found) == oracle.members(one.name), one
                else:
                    assert {user: json.loads(value) for user, value in found.items()} == oracle.values(one), one
