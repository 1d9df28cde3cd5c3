"""Rows of the source into a temporary table of the state's connection, by the fastest path that each side has.

PostgreSQL gives and takes rows by COPY; between two PostgreSQLs its text passes through unread. SQLite is given the
rows in the order of their ids' bytes, so that it appends to its table instead of searching a place for each.
"""

from __future__ import annotations

import select
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.computations import Computation
from audience_sync.database import CHUNK_ROWS, told
from audience_sync.errors import DatabaseError
from audience_sync.state.tables import PREFIX, UserId

snapshot = sa.Table(
    PREFIX + "snapshot",
    sa.MetaData(),
    sa.Column("user_id", UserId, nullable=False),
    sa.Column("value", sa.Text),
    sa.Column("other", sa.Text),
    # No key on PostgreSQL: filling its index takes longer than the sort that the diff does without it.
    sa.PrimaryKeyConstraint("user_id").ddl_if(dialect="sqlite"),
    prefixes=["TEMPORARY"],
    sqlite_with_rowid=False,
)
STREAMING = ("sqlite", "duckdb", "spark")
"""Databases whose drivers never hold all rows of a result, without being asked."""
BLOCK_BYTES = 256 * 1024
Rows = Sequence[tuple[str | None, ...]]


def stage(state: Connection, source: Connection | None, computation: Computation, source_url: str) -> None:
    """Put the computation's rows into the temporary table `snapshot`."""
    empty(state, snapshot)
    if source is not None and computation.ids is not None:  # an audience: two columns less to carry
        travel(source, state, computation.ids, snapshot, ["user_id"], source_url)
    elif source is not None:
        travel(source, state, computation.rows, snapshot, ["user_id", "value", "other"], source_url)
    else:
        rows = computation.rows.order_by("user_id") if state.dialect.name == "sqlite" else computation.rows
        state.execute(sa.insert(snapshot).from_select(["user_id", "value", "other"], rows))
    if computation.klass != "audience":
        refuse_two_values(state, snapshot, sa.true())
    analyze(state, snapshot)


def refuse_two_values(state: Connection, rows: sa.Table, of_it: sa.ColumnElement[bool]) -> None:
    """DatabaseError where the SQL of a trait gives somebody two."""
    twice = state.execute(
        sa.select(rows.c.user_id, rows.c.value, rows.c.other).where(of_it, rows.c.other.is_not(None)).limit(1)
    ).first()
    if twice is not None:
        raise DatabaseError(
            f"gives user {twice.user_id!r} two values, {twice.value} and {twice.other}: "
            "its SQL must give each user once"
        )


def empty(state: Connection, table: sa.Table) -> None:
    """Empty a temporary table. On PostgreSQL the rows of a DELETE stay, to be stepped over, but a transaction that may
    only read refuses TRUNCATE even of a temporary table."""
    if state.dialect.name == "postgresql" and not _reads_only(state):
        state.exec_driver_sql("TRUNCATE " + table.name)
    else:
        state.execute(sa.delete(table))


def _reads_only(state: Connection) -> bool:
    return bool(state.execute(sa.select(sa.func.current_setting("transaction_read_only"))).scalar_one() == "on")


def analyze(state: Connection, table: sa.Table) -> None:
    """Tell PostgreSQL the size of a temporary table: it knows nothing of it, and would plan nested loops."""
    if state.dialect.name == "postgresql":
        state.exec_driver_sql("ANALYZE " + table.name)


def travel(
    source: Connection, state: Connection, rows: Any, into: sa.Table, columns: Sequence[str], source_url: str
) -> None:
    """Copy what `rows` selects of one database into a table of the other, in chunks of bounded size."""
    if source.dialect.name == state.dialect.name == "postgresql":
        chunks: Generator[Any, None, None] = _copied_out(source, rows)
    else:
        chunks = _fetched(source, rows if state.dialect.name == "postgresql" else rows.order_by("user_id"))
    with closing(_told(chunks, source_url)) as given:
        if state.dialect.name == "postgresql":
            texts = given if source.dialect.name == "postgresql" else map(copy_text, given)
            _copy_in(state, into, columns, texts)
        else:
            statement = str(sa.insert(into).compile(dialect=state.dialect, column_keys=list(columns)))
            for chunk in given:
                state.exec_driver_sql(statement, chunk)


def _told(chunks: Generator[Any, None, None], url: str) -> Generator[Any, None, None]:
    """What goes wrong while rows are read is the source's doing; while they are written, the state's."""
    while True:
        with told("source", url):
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


def _fetched(source: Connection, rows: Any) -> Generator[Rows, None, None]:
    """The driver's own rows: all columns are text, and a Row for each would cost more than the rest of its way."""
    cursor: Any
    if source.dialect.name == "postgresql":
        driver, text, parameters = _for_psycopg(source, rows)
        with driver.cursor(name="audience_sync") as cursor:
            cursor.execute(text, parameters)
            while chunk := cursor.fetchmany(CHUNK_ROWS):
                yield chunk
    elif source.dialect.name in STREAMING:
        with source.execute(rows) as result:
            cursor = result.cursor
            while chunk := cursor.fetchmany(CHUNK_ROWS):
                yield chunk
    else:
        # Options of this statement alone: what follows is not to go through a cursor of the server's.
        streamed = {"stream_results": True, "max_row_buffer": CHUNK_ROWS}
        with source.execute(rows, execution_options=streamed) as result:
            for part in result.partitions(CHUNK_ROWS):
                yield [tuple(row) for row in part]


def _copied_out(source: Connection, rows: Any) -> Generator[bytes, None, None]:
    """The rows' text by the block, taken from libpq itself: the driver's own loop costs several times as much a row."""
    import psycopg

    driver, text, parameters = _for_psycopg(source, rows)
    statement = psycopg.ClientCursor(driver).mogrify(f"COPY ({text}) TO STDOUT", parameters)
    libpq = driver.pgconn
    result = libpq.exec_(statement.encode())
    if result.status != psycopg.pq.ExecStatus.COPY_OUT:
        raise psycopg.errors.error_from_result(result)
    gathered = bytearray()
    while True:
        length, row = libpq.get_copy_data(1)
        if length < 0:
            break
        if length == 0:
            # Asked to wait itself, libpq would hold the interpreter meanwhile, Ctrl-C with it.
            select.select([libpq.socket], [], [])
            libpq.consume_input()
            continue
        gathered += row
        if len(gathered) >= BLOCK_BYTES:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)
    while (result := libpq.get_result()) is not None:
        if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result)


def _copy_in(state: Connection, into: sa.Table, columns: Sequence[str], texts: Iterable[str | bytes]) -> None:
    cursor: Any
    with (
        _driver(state).cursor() as cursor,
        cursor.copy(f"COPY {into.name} ({', '.join(columns)}) FROM STDIN") as copy,
    ):
        for text in texts:
            copy.write(text)


def _for_psycopg(source: Connection, rows: Any) -> tuple[Any, str, Any]:
    """The driver's connection, with its transaction open, and the statement with its parameters as it takes them."""
    source.execute(sa.select(1))  # opens the transaction, if nothing did before
    compiled = rows.compile(dialect=source.dialect, compile_kwargs={"render_postcompile": True})
    return _driver(source), compiled.string, compiled.params


def _driver(connection: Connection) -> Any:
    return connection.connection.dbapi_connection  # its other name, driver_connection, is lost on one that is detached


_SPECIAL = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_text(rows: Rows) -> str:
    r"""Rows in the text format of PostgreSQL's COPY: columns end with a tab, rows with a line feed, NULL is `\N`.

    https://www.postgresql.org/docs/current/sql-copy.html, "Text Format"
    """
    return "".join(
        "\t".join("\\N" if field is None else field.translate(_SPECIAL) for field in row) + "\n" for row in rows
    )
