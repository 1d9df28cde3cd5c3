"""Spark Connect as a DBAPI (PEP 249): a connection is a session, parameters are bound by the server.

Rows come as Arrow batches while the query goes on, and are never held whole. There are no transactions: each statement
stands by itself, and commit and rollback do nothing.
"""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from logging import CRITICAL
from typing import Any, TypeVar

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # of pandas 3, of which nothing is used here
    from pyspark.errors import AnalysisException, PySparkException
    from pyspark.errors.exceptions.connect import SparkConnectGrpcException
    from pyspark.logger import PySparkLogger
    from pyspark.sql.connect.client.retries import DefaultPolicy
    from pyspark.sql.connect.session import SparkSession

from grpc import RpcError

apilevel = "2.0"
threadsafety = 1
paramstyle = "named"

CONNECT_SECONDS = 10
RETRIES = 6
"""Of a call that the server does not answer: about a minute in all, where the client's own default is ten."""

for _name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger", "pyspark.sql.connect.logging"):
    PySparkLogger.getLogger(_name).setLevel(CRITICAL)  # each error with the server's stack: it is told once, by _told

T = TypeVar("T")


class Error(Exception):
    """Anything that went wrong, in Spark's words."""


class DatabaseError(Error):
    """The server refused the statement, or failed at it."""


class OperationalError(DatabaseError):
    """The server cannot be reached, or went away."""


class ProgrammingError(DatabaseError):
    """The statement is wrong: it cannot be read, or names what is not there."""


class InterfaceError(Error):
    """The cursor was asked for rows of no query."""


def connect(host: str, port: int, parameters: Mapping[str, str], settings: Mapping[str, str]) -> Connection:
    """A session of its own on the server at this address, with these settings of Spark."""
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()  # Spark's client would try on for minutes
    except OSError as error:
        raise OperationalError(f"no Spark Connect server answers at {host}:{port}: {error}") from error
    given = "".join(f";{name}={value}" for name, value in parameters.items())
    return Connection(_told(lambda: _session(f"sc://{host}:{port}/{given}", settings)))


def _session(remote: str, settings: Mapping[str, str]) -> SparkSession:
    session = SparkSession.builder.remote(remote).create()
    session.client.set_retry_policies([DefaultPolicy(max_retries=RETRIES)])
    for name, value in settings.items():
        session.conf.set(name, value)
    return session


class Connection:
    def __init__(self, session: SparkSession) -> None:
        self.session = session

    def cursor(self) -> Cursor:
        return Cursor(self.session)

    def commit(self) -> None:
        pass

    def rollback(self) -> None:
        pass

    def close(self) -> None:
        self.session.stop()


class Cursor:
    """`description` holds (name, type, …) of each column, the type as Spark writes it: `decimal(10,2)`."""

    arraysize = 1
    rowcount = -1

    def __init__(self, session: SparkSession) -> None:
        self._session = session
        self._rows: Iterator[tuple[Any, ...]] | None = None
        self.description: list[tuple[Any, ...]] | None = None

    def execute(self, statement: str, parameters: Mapping[str, Any] | None = None) -> None:
        self.close()
        frame = _told(lambda: self._session.sql(statement, dict(parameters or {})))
        fields = _told(lambda: frame.schema.fields)
        if fields:
            self.description = [
                (field.name, field.dataType.simpleString(), None, None, None, None, field.nullable) for field in fields
            ]
            self._rows = iter(frame.toLocalIterator())

    def executemany(self, statement: str, several: Iterable[Mapping[str, Any]]) -> None:
        for parameters in several:
            self.execute(statement, parameters)

    def _take(self, most: int | None) -> list[tuple[Any, ...]]:
        if self._rows is None:
            raise InterfaceError("there are no rows: the last statement was no query")
        rows = self._rows
        return _told(lambda: list(islice(rows, most)))

    def fetchone(self) -> tuple[Any, ...] | None:
        found = self._take(1)
        return found[0] if found else None

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        return self._take(self.arraysize if size is None else size)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._take(None)

    def close(self) -> None:
        """What the server has not sent yet is given up."""
        rows, self._rows, self.description = self._rows, None, None
        if rows is not None:
            rows.close()  # type: ignore[attr-defined]

    def setinputsizes(self, sizes: Sequence[Any]) -> None:
        pass

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        pass


def _told(do: Callable[[], T]) -> T:
    """The errors of Spark's client as those of a DBAPI."""
    try:
        return do()
    except AnalysisException as error:
        raise ProgrammingError(str(error)) from error
    except PySparkException as error:
        gone = type(error) is SparkConnectGrpcException  # errors of the statement are of its subclasses
        raise (OperationalError if gone else DatabaseError)(str(error)) from error
    except (RpcError, OSError) as error:
        raise OperationalError(str(error)) from error
