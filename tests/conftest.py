"""What the tests stand on: a real PostgreSQL that they start themselves, real SQLite files, a real receiver."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.postgres import serve
from support.project import Project

from audience_sync.receiver import Receiver, Serving


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server on a free port in a temporary folder, as root too."""
    yield from serve()


@pytest.fixture
def new_database(postgres: str) -> Callable[[], str]:
    """Makes an empty PostgreSQL database; returns its URL."""
    engine = sa.create_engine(postgres, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)

    def make() -> str:
        name = f"db{time.monotonic_ns()}"
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return sa.make_url(postgres).set(database=name).render_as_string(hide_password=False)

    return make


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, str]]:
    made = Receiver(shared_secret="s3cret")
    with Serving(made) as url:
        yield made, url


@pytest.fixture
def project(tmp_path: Path, receiver: tuple[Receiver, str]) -> Project:
    return Project(tmp_path, *receiver)
