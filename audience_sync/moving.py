"""State as files, a table each, and files as state: the way from SQLite to PostgreSQL and back.

Everything comes along, the state's id and salt too, so messageIds stay the same and the forgotten stay forgotten; only
`senders` does not: who delivers just now is of the place, not of the state.

**A user's lane may be another one there.** Lanes of the source have come to different places, so each lane of the
target starts at the lowest of them, and what its own lane had passed already is listed in `passed_over`: nothing is
told twice, nothing is lost. What may have been attempted without an answer is kept from being cancelled against a later
change, as its window would have kept it (`outbox.windows`).
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import sqlalchemy as sa
from pyarrow import csv, parquet
from sqlalchemy.dialects.postgresql import REGCLASS
from sqlalchemy.engine import Connection

from audience_sync.config import Config
from audience_sync.database import CHUNK_ROWS, is_sqlite, one_line, open_source, open_state, sqlite_path, told, writing
from audience_sync.errors import ConfigError, DatabaseError
from audience_sync.outbox.lanes import COUNT, lane_of
from audience_sync.outbox.record import NEVER_EQUAL, take_turn
from audience_sync.state import schema
from audience_sync.state.tables import (
    PREFIX,
    checkpoints,
    lanes,
    leftovers,
    meta,
    metadata,
    outbox,
    passed_over,
    senders,
)

FORMATS = ("parquet", "csv")
MANIFEST = "manifest.json"
TABLES = [table for table in metadata.sorted_tables if table is not senders]
BLOCK_BYTES = 32 * 1024 * 1024
"""What a CSV file is read by; no row may be longer."""


class Progress(Protocol):
    def start(self, workflow: str, total: int) -> None: ...

    def advance(self, workflow: str, count: int) -> None: ...


def export_state(config: Config, folder: Path, kind: str, progress: Progress) -> dict[str, int]:
    """Write every table, as it was at one instant, into an empty folder; returns the rows of each.

    The manifest comes last: a folder without one is not whole.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: is not an empty folder", "give a new or an empty one")
    if is_sqlite(config.state) and not sqlite_path(config.state).exists():
        raise ConfigError("state: there is nothing to export yet", "its tables come with the first run")
    with told("state", config.state):
        engine = open_source(config.state)
        try:
            schema.require_current(engine)
            folder.mkdir(parents=True, exist_ok=True)
            with engine.connect() as connection:
                counts = {_name(table): _write(connection, table, folder, kind, progress) for table in TABLES}
                sequences = {_name(table): _last(connection, table) for table in TABLES if _counted(table) is not None}
        finally:
            engine.dispose()
    written = {"schema": schema.CURRENT, "format": kind, "tables": counts, "sequences": sequences}
    (folder / MANIFEST).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    return counts


def import_state(config: Config, folder: Path, progress: Progress) -> dict[str, int]:
    """Load what `export_state` wrote into a state that holds nothing yet, all of it or nothing."""
    manifest = _manifest(folder)
    with told("state", config.state):
        engine = open_state(config.state)
        try:
            if is_sqlite(config.state):
                schema.migrate(engine)
            else:
                schema.require_current(engine)
            with engine.connect() as connection, writing(connection):
                take_turn(connection)
                _refuse_used(connection)
                connection.execute(sa.delete(meta))
                for table in TABLES:
                    _load(connection, table, folder, manifest, progress)
                _rebuild_lanes(connection)
                for table in TABLES:
                    if _counted(table) is not None:
                        _continue(connection, table, int(manifest["sequences"][_name(table)]))
        finally:
            engine.dispose()
    return dict(manifest["tables"])


def _name(table: sa.Table) -> str:
    return table.name.removeprefix(PREFIX)


def _arrow_schema(table: sa.Table) -> Any:
    kinds = ((sa.Boolean, pa.bool_()), (sa.Integer, pa.int64()), (sa.Float, pa.float64()))
    others = ((sa.DateTime, pa.timestamp("us")), (sa.Text, pa.string()))
    return pa.schema(
        [(column.name, next(of for kind, of in kinds + others if isinstance(column.type, kind))) for column in table.c]
    )


def _write(connection: Connection, table: sa.Table, folder: Path, kind: str, progress: Progress) -> int:
    total = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
    progress.start(_name(table), total)
    columns = _arrow_schema(table)
    path = folder / f"{_name(table)}.{kind}"
    reader = connection.execution_options(stream_results=True, max_row_buffer=CHUNK_ROWS)
    writer = csv.CSVWriter if kind == "csv" else parquet.ParquetWriter
    with writer(path, columns) as file, reader.execute(sa.select(table).order_by(*table.primary_key)) as result:
        for chunk in result.partitions(CHUNK_ROWS):
            values = zip(*chunk, strict=True)
            arrays = [pa.array(list(column), field.type) for column, field in zip(values, columns, strict=True)]
            file.write_table(pa.Table.from_arrays(arrays, schema=columns))
            progress.advance(_name(table), len(chunk))
    return int(total)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version, kind = found["schema"], found["format"]
        whole = set(found["tables"]) == {_name(table) for table in TABLES} and set(found["sequences"]) == {
            _name(table) for table in TABLES if _counted(table) is not None
        }
    except FileNotFoundError as error:
        raise ConfigError(f"{folder}: there is no {MANIFEST} in it", "give a folder that `export` wrote") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: is not what `export` writes", "export again") from error
    if version != schema.CURRENT:
        raise ConfigError(
            f"{path}: is of a state at schema {version}; this audience-sync imports {schema.CURRENT}",
            "export and import with the same version of audience-sync",
        )
    if kind not in FORMATS or not whole:
        raise ConfigError(f"{path}: is not what `export` writes", "export again")
    for table in TABLES:
        if not (folder / f"{_name(table)}.{kind}").is_file():
            raise ConfigError(f"{folder}: there is no {_name(table)}.{kind} in it", "export again")
    return dict(found)


def _refuse_used(connection: Connection) -> None:
    for table in metadata.sorted_tables:
        if table is not meta and connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first():
            raise ConfigError("state: it is in use already", "import into a new one: give state: another database")


def _load(connection: Connection, table: sa.Table, folder: Path, manifest: dict[str, Any], progress: Progress) -> None:
    name, expected = _name(table), manifest["tables"][_name(table)]
    path = folder / f"{name}.{manifest['format']}"
    progress.start(name, expected)
    loaded = 0
    with closing(_chunks(path, table, manifest["format"])) as chunks:
        for rows in chunks:
            _insert(connection, table, rows)
            loaded += len(rows)
            progress.advance(name, len(rows))
    if loaded != expected:
        raise DatabaseError(f"{path}: has {loaded:,} rows, not {expected:,}; nothing was imported")


def _chunks(path: Path, table: sa.Table, kind: str) -> Generator[Sequence[tuple[Any, ...]], None, None]:
    with _damage_told(path):
        columns = _arrow_schema(table)
        if kind == "csv":
            batches = csv.open_csv(
                path,
                read_options=csv.ReadOptions(block_size=BLOCK_BYTES),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    column_types=columns, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
                ),
            )
            found = batches.schema
        else:
            file = parquet.ParquetFile(path)
            batches, found = file.iter_batches(batch_size=CHUNK_ROWS), file.schema_arrow
        if not found.equals(columns):
            raise DatabaseError(f"{path}: its columns are not those of {table.name}; nothing was imported")
    while True:
        with _damage_told(path):
            batch = next(iter(batches), None)
            if batch is None:
                return
            parts = [batch.slice(at, CHUNK_ROWS) for at in range(0, batch.num_rows, CHUNK_ROWS)]
            texts = [list(zip(*(column.to_pylist() for column in part.columns), strict=True)) for part in parts]
        yield from texts


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DatabaseError(f"{path}: is damaged: {one_line(error)}; nothing was imported") from error


def _insert(connection: Connection, table: sa.Table, rows: Sequence[tuple[Any, ...]]) -> None:
    names = [column.name for column in table.c]
    if connection.dialect.name != "postgresql":
        connection.execute(sa.insert(table), [dict(zip(names, row, strict=True)) for row in rows])
        return
    from psycopg import sql

    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table.name), sql.SQL(", ").join(map(sql.Identifier, names))
    )
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def _rebuild_lanes(connection: Connection) -> None:
    """Give each user their lane here, and each lane of a workflow the lowest place of those it is made of."""
    lowest = (
        sa.select(
            lanes.c.workflow_id,
            sa.func.min(lanes.c.cursor).label("cursor"),
            sa.func.min(lanes.c.window_end).label("window_end"),
        )
        .group_by(lanes.c.workflow_id)
        .subquery("lowest")
    )
    starts = connection.execute(sa.select(lowest)).all()
    own = outbox.join(lanes, lanes.c.lane == outbox.c.lane).join(lowest, lowest.c.workflow_id == lanes.c.workflow_id)
    passed = sa.and_(outbox.c.seq > lowest.c.cursor, outbox.c.seq <= lanes.c.cursor)
    known = sa.exists().where(passed_over.c.workflow_id == lanes.c.workflow_id, passed_over.c.seq == outbox.c.seq)
    connection.execute(
        sa.update(passed_over)
        .where(
            sa.exists(
                sa.select(sa.literal(1))
                .select_from(own)
                .where(
                    lanes.c.workflow_id == passed_over.c.workflow_id, outbox.c.seq == passed_over.c.merged_into, passed
                )
                .correlate(passed_over)
            )
        )
        .values(merged_into=None)
    )
    connection.execute(
        sa.insert(passed_over).from_select(
            ["workflow_id", "seq"],
            sa.select(lanes.c.workflow_id, outbox.c.seq)
            .select_from(own)
            .where(passed, ~known.correlate(outbox, lanes)),
        )
    )
    attempted = sa.and_(
        outbox.c.seq > lanes.c.cursor, outbox.c.seq > lowest.c.window_end, outbox.c.seq <= lanes.c.window_end
    )
    connection.execute(
        sa.update(outbox)
        .where(outbox.c.seq.in_(sa.select(outbox.c.seq).select_from(own).where(attempted)))
        .values(previous=NEVER_EQUAL)
    )
    dialect = connection.dialect.name
    for table in (outbox, leftovers):
        lane = lane_of(table.c.user_id, dialect)
        connection.execute(sa.update(table).where(table.c.lane != lane).values(lane=lane))
    if COUNT[dialect] == 1:
        connection.execute(sa.update(checkpoints).values(lane=0))
    connection.execute(sa.delete(lanes))
    made = [
        {"workflow_id": workflow_id, "lane": lane, "cursor": cursor, "window_end": end}
        for workflow_id, cursor, end in starts
        for lane in range(COUNT[dialect])
    ]
    if made:
        connection.execute(sa.insert(lanes), made)


def _counted(table: sa.Table) -> sa.Column[Any] | None:
    """The column that the database numbers by itself."""
    column = table.autoincrement_column
    return column if column is not None and column.autoincrement is True else None


_sqlite_sequence = sa.table("sqlite_sequence", sa.column("name"), sa.column("seq"))


def _last(connection: Connection, table: sa.Table) -> int:
    """The last number that was given out, whether or not its row is still there."""
    column = _counted(table)
    assert column is not None
    highest = connection.execute(sa.select(sa.func.coalesce(sa.func.max(column), 0))).scalar_one()
    if connection.dialect.name == "postgresql":
        given = sa.select(
            sa.func.pg_sequence_last_value(sa.cast(sa.func.pg_get_serial_sequence(table.name, column.name), REGCLASS))
        )
    else:
        given = sa.select(_sqlite_sequence.c.seq).where(_sqlite_sequence.c.name == table.name)
    return max(int(highest), int(connection.execute(given).scalar() or 0))


def _continue(connection: Connection, table: sa.Table, last: int) -> None:
    """Number on after `last`, also where the rows up to it are gone: a sequence number never comes again."""
    last = max(last, _last(connection, table))
    column = _counted(table)
    assert column is not None
    if not last:
        return
    if connection.dialect.name == "postgresql":
        sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
        connection.execute(sa.select(sa.func.setval(sequence, last)))
    elif table.dialect_options["sqlite"]["autoincrement"]:
        here = _sqlite_sequence.c.name == table.name
        if not connection.execute(sa.update(_sqlite_sequence).where(here).values(seq=last)).rowcount:
            connection.execute(sa.insert(_sqlite_sequence).values(name=table.name, seq=last))
