"""Engines for source and state, and database errors as one sentence a person can act on."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url

from audience_sync.errors import AudienceSyncError, ConfigError, DatabaseError
from audience_sync.redact import database_address

IN_FILES = ("sqlite", "duckdb")
"""The databases that a path names; no server stands before the file."""
BUSY_SECONDS = 120
"""How long a file is waited for that another process has locked."""
LOOK_SECONDS = 0.1
CHUNK_ROWS = 20_000
DUCKDB_SETTINGS = {"memory_limit": "100MB", "threads": "2"}
"""It works inside this process, whose memory is bounded; what it has no room for goes to a file beside the database. A
URL may say otherwise: `duckdb:///shop.duckdb?memory_limit=4GB&threads=8`."""

# Failures to connect that are mistakes in the URL, so that waiting and trying again cannot help.
_MISCONFIGURED = re.compile(
    r"password authentication failed|no password supplied|role \".*\" does not exist|database \".*\" does not exist"
    r"|no pg_hba.conf entry|could not translate host name|failed to resolve host|unable to open database file"
    r"|permission denied for database|access denied for user|unknown database|file is not a database"
    r"|unauthenticated|SCHEMA_NOT_FOUND",
    re.IGNORECASE,
)


def is_sqlite(url: str) -> bool:
    return make_url(url).get_backend_name() == "sqlite"


def sqlite_path(url: str) -> Path:
    return Path(make_url(url).database or "")


def open_source(url: str, *, keeps_snapshots: bool = False) -> Engine:
    """An engine that cannot write: a file is opened read-only, a server's transactions are read-only. But for a
    warehouse that is about to keep snapshots, in tables of their own.

    A server's transactions see one instant (REPEATABLE READ), and so do SQLite's and DuckDB's by their nature.
    """
    with told("source", url):
        backend = make_url(url).get_backend_name()
        if backend in IN_FILES and not (path := sqlite_path(url)).exists():
            raise ConfigError(f"source: there is no file {path.name}", "give source: the path of an existing database")
        engine = (_WAREHOUSES if keeps_snapshots else _OPENERS)[backend](url)
        # INSERT … WITH … SELECT, which all of them read; not all read WITH … INSERT.
        engine.dialect.cte_follows_insert = True
        return engine


def _sqlite_source(url: str) -> Engine:
    path = sqlite_path(url)

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            f"{path.as_uri()}?mode=ro",
            uri=True,
            timeout=BUSY_SECONDS,
            check_same_thread=False,
            isolation_level=None,
        )

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.NullPool)

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")  # Python's own would begin at the first row written, not read

    return engine


def _postgresql_source(url: str) -> Engine:
    return reading(_postgresql(url))


def reading(engine: Engine) -> Engine:
    """The same PostgreSQL, through the same connections, in transactions that cannot write and see one instant."""
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _postgresql_warehouse(url: str) -> Engine:
    return _postgresql(url).execution_options(isolation_level="REPEATABLE READ")


def _duckdb_source(url: str) -> Engine:
    return _duckdb(url, read_only=True)


def _duckdb_warehouse(url: str) -> Engine:
    return _duckdb(url, read_only=False)


def _duckdb(url: str, *, read_only: bool) -> Engine:
    given = make_url(url).query
    config = {name: value for name, value in DUCKDB_SETTINGS.items() if name not in given}
    arguments = {"read_only": read_only, "config": config}
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool, connect_args=arguments)

    @sa.event.listens_for(engine, "do_connect")
    def wait_for_others(dialect: Any, _record: Any, positional: list[Any], named: dict[str, Any]) -> Any:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return dialect.connect(*positional, **named)
            except dialect.loaded_dbapi.Error as error:
                if "lock" not in str(error):
                    raise
                if time.monotonic() > deadline:
                    held = "another process has the file open, and DuckDB lets only one write"
                    raise DatabaseError(
                        f"source: {database_address(url)}: {held}: try again when it is done"
                    ) from error
            time.sleep(LOOK_SECONDS)

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.execute("SET TimeZone = 'UTC'")

    return engine


def _mysql_source(url: str) -> Engine:
    engine = sa.create_engine(
        make_url(url).update_query_dict({"charset": "utf8mb4"}),
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ",
        connect_args={"connect_timeout": 10},
    )

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00'")
            cursor.execute("SET SESSION group_concat_max_len = 16777216")  # 1,024 bytes otherwise, cut off in silence
            cursor.execute("SET SESSION TRANSACTION READ ONLY")

    return engine


sa.dialects.registry.register("spark", "audience_sync.spark.dialect", "SparkDialect")


@dataclass(frozen=True)
class _Session:
    """What a session of a warehouse is told, so that nothing depends on the server's or the account's settings."""

    statements: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)


SESSIONS = {
    "spark": _Session(),  # its dialect tells them
    "databricks": _Session(("SET TIME ZONE 'UTC'", "SET ANSI_MODE = true")),
    "snowflake": _Session(("ALTER SESSION SET TIMEZONE = 'UTC'",)),
    "bigquery": _Session(),  # whose sessions are in UTC
    "redshift": _Session(("SET timezone TO 'UTC'",)),
    "trino": _Session(parameters={"timezone": "UTC"}),
    "clickhousedb": _Session(
        parameters={
            "ch_session_timezone": "UTC",
            "ch_join_use_nulls": "1",  # as every other database does; and so the next
            "ch_cast_keep_nullable": "1",
            "ch_output_format_json_quote_64bit_integers": "0",
            "ch_output_format_json_quote_denormals": "0",
        }
    ),
}


def _warehouse_source(url: str) -> Engine:
    """Warehouses have no transactions that only read: it is the account of the URL that must not be able to write."""
    session = SESSIONS[make_url(url).get_backend_name()]
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool, connect_args=session.parameters)

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for statement in session.statements:
            cursor.execute(statement)
        cursor.close()

    return engine


_EXTRAS = {"duckdb": "duckdb", "mysql": "mysql", "mariadb": "mysql", **{name: name for name in SESSIONS}}
_EXTRAS["clickhousedb"] = "clickhouse"
_OPENERS = {
    "sqlite": _sqlite_source,
    "postgresql": _postgresql_source,
    "duckdb": _duckdb_source,
    "mysql": _mysql_source,
    "mariadb": _mysql_source,
    **dict.fromkeys(SESSIONS, _warehouse_source),
}
_WAREHOUSES = {
    "duckdb": _duckdb_warehouse,
    "postgresql": _postgresql_warehouse,
    **dict.fromkeys(SESSIONS, _warehouse_source),
}


def open_state(url: str, attach: str | None = None) -> Engine:
    """The state's engine. `attach` names a SQLite source to be read, read-only, through the same connection.

    On SQLite every commit reaches the disk (synchronous=FULL): a sync that a power cut undoes after its
    changes were sent would hand their sequence numbers, and so their messageIds, to other changes.
    """
    if not is_sqlite(url):
        return _postgresql(url)
    path = sqlite_path(url)
    if not path.parent.is_dir():
        raise ConfigError(f"state: there is no folder {path.parent.name}/", "make it, or give state: another path")
    engine = sa.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(
            f"{path.as_uri()}?mode=rwc",
            uri=True,
            timeout=BUSY_SECONDS,
            check_same_thread=False,
            isolation_level=None,
        ),
        poolclass=sa.pool.NullPool,
    )

    # INSERT … WITH … SELECT, not WITH … INSERT: Python's sqlite3 counts the rows only of what starts with INSERT.
    engine.dialect.cte_follows_insert = True

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA temp_store = FILE")
        cursor.execute("PRAGMA cache_size = -65536")
        cursor.execute("PRAGMA foreign_keys = ON")
        if attach is not None:
            cursor.execute("ATTACH DATABASE ? AS source", (f"{sqlite_path(attach).as_uri()}?mode=ro",))
        cursor.close()
        connection.create_function("sha256_hex", 1, _sha256_hex, deterministic=True)

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later may find that another has written in between and
        # fail; one that means to write says so at once and waits for its turn.
        immediate = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _sha256_hex(text: str) -> str:
    """What PostgreSQL has built in; see `state.suppression`."""
    return hashlib.sha256(text.encode()).hexdigest()


def _postgresql(url: str) -> Engine:
    return sa.create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=15,
        max_overflow=15,
        connect_args={
            "connect_timeout": 10,
            "options": "-c timezone=UTC",
            "application_name": "audience-sync",
        },
    )


@contextmanager
def writing(connection: Connection) -> Iterator[Connection]:
    """One transaction on this connection that is going to write; committed at the end, or rolled back whole."""
    if connection.in_transaction():
        connection.commit()
    connection.execution_options(write=True)
    try:
        with connection.begin():
            yield connection
    finally:
        connection.execution_options(write=False)


def writing_temporary(connection: Connection) -> AbstractContextManager[object]:
    """A transaction that writes temporary tables only: on SQLite it must not take the file's write lock."""
    return connection.begin() if connection.dialect.name == "sqlite" else writing(connection)


def settle(engine: Engine, tables: Sequence[str]) -> None:
    """After much was written: PostgreSQL's statistics and visibility map, without which no index is read alone.

    The server's own autovacuum does so too, in its time. SQLite has no need of it.
    https://www.postgresql.org/docs/current/indexes-index-only-scans.html
    """
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in tables:
                connection.exec_driver_sql("VACUUM (ANALYZE) " + table)


def one_line(error: BaseException) -> str:
    """What a driver said, in one line, without the statement and its parameters."""
    said = getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    text = lines[0] if lines else type(said).__name__
    return re.sub(r"://[^\s/@]*@", "://…@", text)


@contextmanager
def told(role: str, url: str) -> Iterator[None]:
    """Turns a driver's error into ConfigError (the URL is wrong) or DatabaseError (the database failed)."""
    try:
        yield
    except AudienceSyncError:
        raise
    except (ImportError, sa.exc.NoSuchModuleError) as error:
        backend = make_url(url).get_backend_name()
        extra = _EXTRAS.get(backend)
        raise ConfigError(
            f"{role}: {database_address(url)}: the driver of {backend} is not installed",
            f"pip install 'audience-sync[{extra}]'" if extra else "",
        ) from error
    except (sa.exc.SQLAlchemyError, sqlite3.Error, psycopg.Error) as error:
        said = one_line(error)
        place = f"{role}: {database_address(url)}: {said}"
        if url.startswith("duckdb") and "Out of Memory" in said:
            place += ": give it more in its URL, ?memory_limit=1GB"
        if _MISCONFIGURED.search(str(getattr(error, "orig", error))):
            raise ConfigError(place, f"check {role}: in jobs.yaml and the variables that it reads") from error
        raise DatabaseError(place) from error
