"""What the tests stand on: a real PostgreSQL that they start themselves, real SQLite files, a real receiver."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support import mariadb as mariadb_server
from support import shop
from support import spark as spark_server
from support.postgres import serve
from support.project import Project

from audience_sync.receiver import Receiver, Serving


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server on a free port in a temporary folder, as root too."""
    yield from serve()


class NewDatabase:
    """Makes a PostgreSQL database, empty or a copy of a template; returns its URL."""

    def __init__(self, server: str) -> None:
        self.server = server

    def __call__(self, template: str = "template0") -> str:
        name = f"db{time.monotonic_ns()}"
        engine = sa.create_engine(self.server, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(f'CREATE DATABASE {name} TEMPLATE "{template}"')
        return sa.make_url(self.server).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def new_database(postgres: str) -> NewDatabase:
    return NewDatabase(postgres)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[str]:
    """The URL of a MariaDB server, where the system has one."""
    yield from mariadb_server.serve()


@pytest.fixture(scope="session")
def spark() -> Iterator[str]:
    """The URL of an Apache Spark of three processes, where pyspark is installed and the system has Java."""
    yield from spark_server.serve()


@pytest.fixture
def new_mariadb(mariadb: str) -> Callable[[], str]:
    """Makes an empty MariaDB database; returns its URL."""

    def make() -> str:
        name = f"db{time.monotonic_ns()}"
        with sa.create_engine(mariadb, poolclass=sa.pool.NullPool).begin() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return sa.make_url(mariadb).set(database=name).render_as_string(hide_password=False)

    return make


@pytest.fixture(scope="session")
def cdnow_shops(tmp_path_factory: pytest.TempPathFactory, new_database: NewDatabase) -> dict[str, str]:
    """The CDNOW orders, loaded once for each kind of database; take a `shop.copy_of` it."""
    folder = tmp_path_factory.mktemp("cdnow")
    files = {kind: f"{kind}:///{folder}/shop.{kind}" for kind in ("sqlite", "duckdb")}
    urls = {**files, "postgres": new_database()}
    for url in urls.values():
        shop.load(url, shop.cdnow())
    return urls


class Switch:
    """One server for all tests, with a receiver of its own for each: starting and ending a server takes longer than
    most tests."""

    def __init__(self) -> None:
        self.receiver = Receiver()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.receiver(scope, receive, send)


@pytest.fixture(scope="session")
def switch() -> Iterator[tuple[Switch, str]]:
    made = Switch()
    with Serving(made) as url:
        yield made, url


@pytest.fixture
def receiver(switch: tuple[Switch, str]) -> tuple[Receiver, str]:
    switch[0].receiver = Receiver(shared_secret="s3cret")
    return switch[0].receiver, switch[1]


@pytest.fixture
def project(tmp_path: Path, receiver: tuple[Receiver, str]) -> Project:
    return Project(tmp_path, *receiver)
