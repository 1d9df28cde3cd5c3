"""The computation's result at one instant, staged on the state's connection so that there is one diff.

Where source and state are one database, or two SQLite files, nothing travels: it is one INSERT … SELECT. Between
different databases, rows travel in chunks of bounded size.
"""

from __future__ import annotations

import csv
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from audience_sync.computations import Computation
from audience_sync.database import CHUNK_ROWS, is_sqlite, open_source, open_state, writing
from audience_sync.errors import DatabaseError
from audience_sync.state.tables import PREFIX, UserId

if TYPE_CHECKING:
    import pandas as pd

_temporary = sa.MetaData()
snapshot = sa.Table(
    PREFIX + "snapshot",
    _temporary,
    sa.Column("user_id", UserId, primary_key=True),
    sa.Column("value", sa.Text),
    sa.Column("other", sa.Text),
    prefixes=["TEMPORARY"],
    sqlite_with_rowid=False,
)


@dataclass
class Databases:
    """Both engines, and whether the source can be read through the state's connection."""

    source: Engine
    state: Engine
    source_url: str
    state_url: str
    together: bool

    @classmethod
    def open(cls, source_url: str, state_url: str) -> Databases:
        both_sqlite = is_sqlite(source_url) and is_sqlite(state_url)
        same = source_url == state_url
        source = open_source(source_url)
        state = open_state(state_url, attach=source_url if both_sqlite and not same else None)
        return cls(source, state, source_url, state_url, same or both_sqlite)

    def reading(self) -> AbstractContextManager[Connection | None]:
        """A connection to the source for one computation, or None where the state's own will do."""
        return nullcontext(None) if self.together else self.source.connect()

    def dispose(self) -> None:
        self.source.dispose()
        self.state.dispose()


@dataclass(frozen=True)
class Staged:
    size: int
    skipped_ids: int


def stage(state: Connection, source: Connection | None, computation: Computation) -> Staged:
    """Put the computation's rows into the temporary table `snapshot` of the state's connection."""
    with writing_temporary(state):
        snapshot.create(state, checkfirst=True)
        state.execute(sa.delete(snapshot))
        reader = state if source is None else source
        skipped = sum(reader.execute(count).scalar_one() for count in computation.skipped)
        if source is None:
            state.execute(sa.insert(snapshot).from_select(["user_id", "value", "other"], computation.rows))
        else:
            _travel(source, state, computation)
        size = state.execute(sa.select(sa.func.count()).select_from(snapshot)).scalar_one()
        twice = state.execute(
            sa.select(snapshot.c.user_id, snapshot.c.value, snapshot.c.other)
            .where(snapshot.c.other.is_not(None))
            .limit(1)
        ).first()
        if state.dialect.name == "postgresql":
            # The server knows nothing of a temporary table's size until told, and would plan nested loops.
            state.exec_driver_sql("ANALYZE " + snapshot.name)
    if twice is not None:
        raise DatabaseError(
            f"{computation.name}: gives user {twice.user_id!r} two values, {twice.value} and {twice.other}: "
            "its SQL must give each user once"
        )
    return Staged(size, skipped)


def writing_temporary(connection: Connection) -> AbstractContextManager[object]:
    """A transaction that writes temporary tables only: on SQLite it must not take the file's write lock."""
    return connection.begin() if connection.dialect.name == "sqlite" else writing(connection)


def _travel(source: Connection, state: Connection, computation: Computation) -> None:
    # Imported here: half a second and 60 MB that only travelling rows need.
    import pandas as pd

    reader = source.execution_options(stream_results=True, max_row_buffer=CHUNK_ROWS)
    for frame in pd.read_sql_query(computation.rows, reader, chunksize=CHUNK_ROWS, dtype="string[pyarrow]"):
        if frame.empty:
            continue
        if state.dialect.name == "postgresql":
            _copy(state, frame)
        else:
            rows = frame.astype(object).where(frame.notna(), None)
            state.execute(sa.insert(snapshot), rows.to_dict("records"))


def _copy(state: Connection, frame: pd.DataFrame) -> None:
    """PostgreSQL's bulk path. Every field is quoted; FORCE_NULL reads the empty ones as NULL, which is safe
    because a value is JSON text and never empty."""
    text = frame.to_csv(index=False, header=False, quoting=csv.QUOTE_ALL)
    raw = state.connection.driver_connection
    assert raw is not None
    statement = "COPY audience_sync_snapshot (user_id, value, other) FROM STDIN (FORMAT csv, FORCE_NULL (value, other))"
    with raw.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(text)
