"""What the tests stand on: a real PostgreSQL that they start themselves, real SQLite files, a real receiver."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from support import shop
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
def cdnow_shops(tmp_path_factory: pytest.TempPathFactory, new_database: NewDatabase) -> dict[str, str]:
    """The CDNOW orders, loaded once for each kind of database; take a `shop.copy_of` it."""
    urls = {"sqlite": f"sqlite:///{tmp_path_factory.mktemp('cdnow')}/shop.db", "postgres": new_database()}
    for url in urls.values():
        shop.load(url, shop.cdnow())
    return urls


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, str]]:
    made = Receiver(shared_secret="s3cret")
    with Serving(made) as url:
        yield made, url


@pytest.fixture
def project(tmp_path: Path, receiver: tuple[Receiver, str]) -> Project:
    return Project(tmp_path, *receiver)
