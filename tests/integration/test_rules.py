"""Every database answers every rule as the oracle does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import worlds
from support.worlds import World, config_of

quick = settings(
    max_examples=int(os.environ.get("QUICK", "30")), deadline=None, suppress_health_check=list(HealthCheck)
)
thorough = settings(
    max_examples=int(os.environ.get("RULES", "120")), deadline=None, suppress_health_check=list(HealthCheck)
)
case = given(
    tables=worlds.worlds,
    rules=st.lists(worlds.rules(3), min_size=1, max_size=3),
    traits=st.lists(worlds.traits(), max_size=2),
    with_people=st.booleans(),
    as_of=st.sampled_from(worlds.INSTANTS),
)


@pytest.fixture(params=["postgresql", "duckdb", "mariadb"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "postgresql":
        url = request.getfixturevalue("new_database")()
    elif request.param == "mariadb":
        url = request.getfixturevalue("new_mariadb")()
    else:
        url = f"duckdb:///{tmp_path}/shop.duckdb"
    engine = sa.create_engine(url, poolclass=sa.pool.StaticPool if request.param == "duckdb" else None)
    world = World(engine)
    if request.param != "mariadb":
        world.connection.exec_driver_sql("SET TimeZone = 'UTC'")
    else:
        world.connection.exec_driver_sql("SET time_zone = '+00:00'")
    world.connection.commit()
    yield world
    world.close()


def agree(world: World, example: dict[str, Any]) -> None:
    config = config_of(example["rules"], example["traits"], with_people=example["with_people"])
    world.fill(example["tables"])
    world.agrees(config, example["tables"], example["as_of"])
    world.agrees_when_shared(config, example["tables"], example["as_of"])


def test_sqlite_answers_as_the_oracle(tmp_path: Path) -> None:
    world = World(sa.create_engine(f"sqlite:///{tmp_path}/shop.db"))

    @quick
    @case
    def check(**example: Any) -> None:
        agree(world, example)

    check()
    world.close()


@pytest.mark.slow
def test_sqlite_answers_as_the_oracle_at_length(tmp_path: Path) -> None:
    world = World(sa.create_engine(f"sqlite:///{tmp_path}/shop.db"))

    @thorough
    @case
    def check(**example: Any) -> None:
        agree(world, example)

    check()
    world.close()


@pytest.mark.slow
def test_servers_answer_as_the_oracle(server: World) -> None:
    @thorough
    @case
    def check(**example: Any) -> None:
        agree(server, example)

    check()
