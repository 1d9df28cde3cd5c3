"""The engines of a source: which URLs are taken, that they cannot write, and what is said when they cannot open."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from audience_sync.config import load_config
from audience_sync.database import open_source
from audience_sync.errors import ConfigError

JOBS = """\
version: 1
source: "{source}"
state: {state}
workflows: {{crm: {{url: "http://127.0.0.1:1/crm"}}}}
jobs: [{{name: J, audiences: [{{name: A, sql: select user_id from t}}]}}]
"""


def configured(folder: Path, source: str, state: str = "sqlite:///state.db") -> str:
    path = folder / "jobs.yaml"
    path.write_text(JOBS.format(source=source, state=state))
    return load_config(path).source.url


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("mysql://reader:pw@db/shop", "mysql+pymysql"),
        ("mariadb://reader:pw@db/shop", "mariadb+pymysql"),
        ("postgres://reader@db/shop", "postgresql+psycopg"),
        ("duckdb:///shop.duckdb", "duckdb"),
    ],
)
def test_a_bare_name_stands_for_its_driver(tmp_path: Path, given: str, driver: str) -> None:
    assert sa.make_url(configured(tmp_path, given)).drivername == driver


def test_a_relative_path_is_taken_from_the_folder_of_the_file(tmp_path: Path) -> None:
    assert sa.make_url(configured(tmp_path, "duckdb:///shop.duckdb")).database == str(tmp_path / "shop.duckdb")


@pytest.mark.parametrize("name", ["duckdb:///state.duckdb", "mysql://db/state"])
def test_state_must_be_transactional_and_shared(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="expected one of sqlite, postgresql"):
        configured(tmp_path, "sqlite:///shop.db", name)


def test_a_database_in_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"duckdb:///name\.db"):
        configured(tmp_path, "duckdb:///:memory:")


def test_a_duckdb_source_reads_in_utc_and_cannot_write(tmp_path: Path) -> None:
    url = f"duckdb:///{tmp_path}/shop.duckdb"
    with sa.create_engine(url, poolclass=sa.pool.NullPool).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t AS SELECT TIMESTAMPTZ '2026-01-01 00:30:00+01' AS moment")
    with open_source(url).connect() as connection:
        assert (
            connection.exec_driver_sql("SELECT CAST(moment AS VARCHAR) FROM t").scalar_one().startswith("2025-12-31 23")
        )
        with pytest.raises(sa.exc.DBAPIError, match="read-only"):
            connection.exec_driver_sql("DELETE FROM t")


def test_a_file_that_is_not_there_is_told_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file shop\.duckdb"):
        open_source(f"duckdb:///{tmp_path}/shop.duckdb")
    assert list(tmp_path.iterdir()) == []


def test_a_driver_that_is_not_installed_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_pymysql(name: str, *rest: Any, **more: Any) -> Any:
        if name == "pymysql":
            raise ModuleNotFoundError("No module named 'pymysql'", name="pymysql")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_pymysql)
    with pytest.raises(ConfigError, match=r"pip install 'audience-sync\[mysql\]'"):
        open_source("mysql+pymysql://db/shop")
