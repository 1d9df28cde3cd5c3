"""How long a sync takes up to the committed outbox, beside the best that each database can do by hand.

    python benchmarks/diff.py                       # 100k and 1M members
    python benchmarks/diff.py --sizes 10M           # the figures of docs/diff.md; takes about half an hour
    python benchmarks/diff.py --databases sqlite --sizes 1M --many

The audience is a table of members. After a first sync, half a percent leaves and as many come, all over the range of
ids. The project's own figures are of `audience_sync.sync.run` in a process of its own, from the call to the commit of
the outbox, with that process's highest memory. `by hand` are the barest statements that do the same to tables of the
same design, the best form of each, with nothing kept but what the diff needs. pandas and polars are given both sides
in memory and do nothing but the two-sided join.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

JOBS = """\
version: 1
source: {{url: "{source}", synced: {synced}}}
state: "{state}"
workflows: {{crm: {{url: "http://127.0.0.1:9/"}}}}
jobs:
  - name: Bench
    guard: off
    audiences:
{audiences}
"""
ONE = "      - {name: All, table: {name: members, user_id: user_id}}"
PART = "      - {{name: Part {n}, table: {{name: parts, user_id: user_id, where: {{part: {n}}}}}}}"
PARTS = 200


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", default="100k,1M")
    options.add_argument("--databases", default="sqlite,postgresql,duckdb")
    options.add_argument("--postgresql", help="URL of a server; by default the tests' own is started")
    options.add_argument("--frames", action="store_true", help="pandas and polars too")
    options.add_argument("--many", action="store_true", help="200 audiences in one job too")
    options.add_argument(
        "--follow", action="store_true", help="an audience over events, followed and compared, instead"
    )
    options.add_argument("--changed", action="store_true", help="an audience with changed_since, and without, instead")
    options.add_argument("--events", action="store_true", help="200 audiences over one table of events, instead")
    options.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        CHILDREN[given.child[0]](*given.child[1:])
        return
    databases = given.databases.split(",")
    with postgresql(given.postgresql, "postgresql" in databases) as server:
        for text in given.sizes.split(","):
            size = int(text.lower().replace("k", "000").replace("m", "000000"))
            print(f"\n{size:,} members, {size // 100:,} changes", flush=True)
            if given.follow:
                follow(size, databases, server)
                continue
            if given.changed:
                changed(size, databases, server)
                continue
            if given.events:
                events(size, databases, server)
                continue
            if given.frames:
                for library in ("pandas", "polars"):
                    if find_spec(library) is None:
                        print(f"  {library} is not here: pip install {library}")
                        continue
                    tell(f"{library} merge of both sides", **child(library, size))
            if "sqlite" in databases:
                sqlite(size, given.many)
            if "postgresql" in databases:
                postgres(size, server, given.many)
            if "duckdb" in databases:
                duckdb(size, server)


# -- what is measured ---------------------------------------------------------------------------------------------


def sync(config: str, as_of: str = "2026-01-01T00:00:00+00:00") -> None:
    """One sync in this process, up to the commit of the outbox; delivery is left out."""
    import os
    from datetime import datetime

    from audience_sync.config import load_config
    from audience_sync.database import open_state, settle
    from audience_sync.state.tables import synced
    from audience_sync.sync import run

    loaded = load_config(Path(config))
    wanted = sum(len(job.computed) for job in loaded.jobs)
    begun = time.perf_counter()

    def recorded(report: Any) -> None:
        nonlocal wanted
        wanted -= 1
        if not wanted:
            seconds = time.perf_counter() - begun
            changes = report.entered + report.exited
            engine = open_state(loaded.state)
            settle(engine, [synced.name])  # as a whole run does after delivery
            print(json.dumps({"seconds": seconds, "mb": peak(), "changes": changes}), flush=True)
            os._exit(0)

    run(loaded, [], datetime.fromisoformat(as_of), on_computation=recorded)


def frames(library: str, size: str) -> None:
    ids = [f"user-{n:010d}" for n in range(int(size)) if n % 200 != 9]
    after = [f"user-{n:010d}" for n in range(int(size)) if n % 200 != 7]
    if library == "pandas":
        import pandas as pd

        was, now = (pd.DataFrame({"user_id": pd.array(x, "string[pyarrow]")}) for x in (ids, after))
        begun = time.perf_counter()
        joined = was.merge(now, on="user_id", how="outer", indicator=True)
        changes = int((joined["_merge"] != "both").sum())
    else:
        import polars as pl

        old, new = (pl.DataFrame({"user_id": x}) for x in (ids, after))
        begun = time.perf_counter()
        changes = len(old.join(new, on="user_id", how="anti")) + len(new.join(old, on="user_id", how="anti"))
    print(json.dumps({"seconds": time.perf_counter() - begun, "mb": peak(), "changes": changes}))


CHILDREN: dict[str, Callable[..., None]] = {
    "sync": sync,
    "pandas": lambda size: frames("pandas", size),
    "polars": lambda size: frames("polars", size),
}


def peak() -> float:
    """The most memory that this process held, in MB. Not getrusage's: that counts what its parent held before it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def child(*arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def tell(what: str, seconds: float, mb: float | None = None, changes: int | None = None, best: float = 0) -> float:
    words = [f"{seconds:9.2f} s"]
    words.append(f"{mb:6.0f} MB" if mb is not None else " " * 9)
    words.append(f"{changes:>10,} changes" if changes is not None else "")
    if best:
        words.append(f"= {seconds / best:.2f} times by hand")
    print(f"  {what:58s}" + " ".join(words), flush=True)
    return seconds


def clock(what: str, work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return tell("  " + what, time.perf_counter() - begun)


def ours(
    title: str,
    folder: Path,
    source: str,
    state: str,
    first: float,
    later: float,
    change: Callable[[], None],
    synced: str = "state",
) -> None:
    """A first sync, one with changes, and one without, beside the sums of what the database does at its best."""
    path = folder / "jobs.yaml"
    path.write_text(JOBS.format(source=source, state=state, audiences=ONE, synced=synced))
    ready(path)
    tell(f"{title}: first sync", **child("sync", path), best=first)
    change()
    tell(f"{title}: sync with 1 % changed", **child("sync", path), best=later)
    tell(f"{title}: sync without a change", **child("sync", path))


def ready(config: Path) -> None:
    from audience_sync.config import load_config
    from audience_sync.database import open_state
    from audience_sync.state import schema

    engine = open_state(load_config(config).state)
    schema.migrate(engine)
    engine.dispose()


def many(title: str, folder: Path, source: str, state: str, change: Callable[[], None]) -> None:
    """200 audiences in one job that together are as large as the one."""
    path = folder / "many.yaml"
    parts = "\n".join(PART.format(n=n) for n in range(PARTS))
    path.write_text(JOBS.format(source=source, state=state, audiences=parts, synced="state"))
    ready(path)
    tell(f"{title}: {PARTS} audiences, first sync", **child("sync", path))
    change()
    tell(f"{title}: {PARTS} audiences, 1 % changed", **child("sync", path))


# -- the databases ------------------------------------------------------------------------------------------------

LEFT, CAME = "% 200 = 7", "% 200 = 9"
"""Whose number leaves nothing else leaves; who comes was not in before."""


def sqlite_shop(path: Path, size: int) -> sqlite3.Connection:
    shop = sqlite3.connect(path, isolation_level=None)
    shop.execute("PRAGMA journal_mode = WAL")
    shop.execute("CREATE TABLE members (user_id TEXT PRIMARY KEY) WITHOUT ROWID")
    shop.execute(f"INSERT INTO members {numbers(size)} WHERE NOT n {CAME}")
    return shop


def numbers(size: int, select: str = "printf('user-%010d', n)") -> str:
    return (
        f"WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n < {size} - 1) SELECT {select} FROM c"
    )


def sqlite_change(shop: sqlite3.Connection, size: int) -> None:
    shop.execute("BEGIN")
    shop.execute("CREATE TEMP TABLE leaving AS " + numbers(size) + f" WHERE n {LEFT}")
    shop.execute("DELETE FROM members WHERE user_id IN (SELECT * FROM leaving)")
    shop.execute(f"INSERT INTO members {numbers(size)} WHERE n {CAME}")
    shop.execute("COMMIT")


OUTBOX = """CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, lane INTEGER NOT NULL,
            computation_id INTEGER NOT NULL, sync_id INTEGER NOT NULL, workflow_id INTEGER, user_id TEXT NOT NULL,
            value TEXT NOT NULL, previous TEXT)"""
SYNCED = """CREATE TABLE synced (computation_id INTEGER NOT NULL, user_id TEXT NOT NULL, value TEXT,
            PRIMARY KEY (computation_id, user_id)) WITHOUT ROWID"""
FIRST = [
    "INSERT INTO synced SELECT 1, user_id, NULL FROM members ORDER BY user_id",
    "INSERT INTO outbox (lane, computation_id, sync_id, user_id, value) "
    "SELECT 0, 1, 1, user_id, 'true' FROM synced WHERE computation_id = 1 ORDER BY user_id",
]
WRITE = [
    "INSERT INTO outbox (lane, computation_id, sync_id, user_id, value) "
    "SELECT 0, 1, 2, user_id, CASE kind WHEN 'exited' THEN 'false' ELSE 'true' END FROM changes ORDER BY user_id",
    "DELETE FROM synced WHERE computation_id = 1 AND user_id IN (SELECT user_id FROM changes WHERE kind = 'exited')",
    "INSERT INTO synced SELECT 1, user_id, NULL FROM changes WHERE kind = 'entered' ORDER BY user_id",
]


def sqlite_by_hand(folder: Path, shop: sqlite3.Connection, size: int) -> tuple[float, float]:
    state = sqlite3.connect(folder / "by_hand.db", isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "cache_size = -65536"):
        state.execute("PRAGMA " + pragma)
    state.execute(f"ATTACH '{folder}/shop.db' AS source")
    state.execute(SYNCED)
    state.execute(OUTBOX)

    def transaction(*statements: str) -> None:
        state.execute("BEGIN IMMEDIATE")
        for statement in statements:
            state.execute(statement)
        state.execute("COMMIT")

    first = clock("by hand: first sync, synced and outbox", lambda: transaction(*FIRST))
    sqlite_change(shop, size)
    now, was = "SELECT user_id FROM members", "SELECT user_id FROM synced WHERE computation_id = 1"

    def fill(entered: str, exited: str) -> Callable[[], None]:
        def work() -> None:
            state.execute("DROP TABLE IF EXISTS changes")
            state.execute("CREATE TEMP TABLE changes (user_id TEXT PRIMARY KEY, kind TEXT) WITHOUT ROWID")
            state.execute(f"INSERT INTO changes SELECT user_id, 'entered' FROM ({entered})")
            state.execute(f"INSERT INTO changes SELECT user_id, 'exited' FROM ({exited})")

        return work

    best = min(
        clock(
            "by hand: NOT EXISTS both ways",
            fill(
                f"{now} m WHERE NOT EXISTS "
                "(SELECT 1 FROM synced s WHERE s.computation_id = 1 AND s.user_id = m.user_id)",
                f"{was} AND NOT EXISTS (SELECT 1 FROM members m WHERE m.user_id = synced.user_id)",
            ),
        ),
        clock("by hand: two ordered cursors merged in Python", lambda: merged(state, now, was)),
        clock(
            "by hand: EXCEPT of ordered arms both ways",
            fill(f"{now} EXCEPT {was} ORDER BY 1", f"{was} EXCEPT {now} ORDER BY 1"),
        ),
    )
    write = clock("by hand: outbox and synced, the changes only", lambda: transaction(*WRITE))
    state.close()
    return first, best + write


def merged(state: sqlite3.Connection, now: str, was: str) -> tuple[list[str], list[str]]:
    left, right = state.execute(now + " ORDER BY 1"), state.execute(was + " ORDER BY 1")
    entered, exited = [], []
    a, b = next(left, None), next(right, None)
    while a is not None and b is not None:
        if a == b:
            a, b = next(left, None), next(right, None)
        elif a < b:
            entered.append(a[0])
            a = next(left, None)
        else:
            exited.append(b[0])
            b = next(right, None)
    return entered, exited


@cache
def sqlite_best(size: int) -> tuple[float, float]:
    """Seconds by hand of a first sync, and of one with changes, where state is SQLite and what it is compared with is
    there."""
    with tempfile.TemporaryDirectory() as name:
        shop = sqlite_shop(Path(name) / "shop.db", size)
        best = sqlite_by_hand(Path(name), shop, size)
        shop.close()
    return best


def sqlite(size: int, with_many: bool) -> None:
    first, later = sqlite_best(size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shop = sqlite_shop(folder / "shop.db", size)
        ours(
            "SQLite, two files",
            folder,
            "sqlite:///shop.db",
            "sqlite:///state.db",
            first,
            later,
            lambda: sqlite_change(shop, size),
        )
        if with_many:
            shop.execute("CREATE TABLE parts (part INTEGER, user_id TEXT, PRIMARY KEY (part, user_id)) WITHOUT ROWID")
            rows = numbers(size, "n % 200, printf('user-%010d', n)")
            shop.execute(f"INSERT INTO parts {rows} WHERE NOT n / 200 {CAME}")

            def change() -> None:
                shop.execute(f"DELETE FROM parts WHERE CAST(substr(user_id, 6) AS INTEGER) / 200 {LEFT}")
                shop.execute(f"INSERT INTO parts {rows} WHERE n / 200 {CAME}")

            many("SQLite, two files", folder, "sqlite:///shop.db", "sqlite:///many.db", change)
        shop.close()


SETTINGS = {"shared_buffers": "4GB", "max_wal_size": "4GB"}
"""What a server of this size would be given: https://www.postgresql.org/docs/current/runtime-config-resource.html."""
PG_NUMBERS = "SELECT 'user-' || lpad(n::text, 10, '0') FROM generate_series(0, {size} - 1) n WHERE "
PG_TABLES = [
    "DROP TABLE IF EXISTS members, synced, outbox",
    "CREATE TABLE members (user_id text COLLATE {collation} PRIMARY KEY)",
    'CREATE TABLE synced (computation_id bigint, user_id text COLLATE "C", value text, '
    "PRIMARY KEY (computation_id, user_id))",
    "CREATE TABLE outbox (seq bigserial PRIMARY KEY, lane smallint NOT NULL, computation_id bigint NOT NULL, "
    "sync_id bigint NOT NULL, workflow_id bigint, "
    'user_id text COLLATE "C" NOT NULL, value text NOT NULL, previous text)',
]
FULL_JOIN = """INSERT INTO changes SELECT coalesce(n.user_id, w.user_id), CASE WHEN w.user_id IS NULL THEN 'entered'
    ELSE 'exited' END FROM members n FULL JOIN (SELECT user_id FROM synced WHERE computation_id = 1) w
    ON n.user_id COLLATE "C" = w.user_id WHERE n.user_id IS NULL OR w.user_id IS NULL"""


class Server:
    """A database of its own on the server, with members."""

    def __init__(self, server: str, size: int, collation: str = '"C"') -> None:
        import psycopg
        import sqlalchemy as sa

        admin = sa.make_url(server).set(drivername="postgresql")
        name = f"bench{time.monotonic_ns()}"
        with psycopg.connect(admin.render_as_string(hide_password=False), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        self.size = size
        self.url = admin.set(database=name).render_as_string(hide_password=False)
        self.admin, self.name = admin.render_as_string(hide_password=False), name
        self.connection = psycopg.connect(self.url, autocommit=True)
        for statement in PG_TABLES:
            self.run(statement.format(collation=collation))
        self.fill()

    def run(self, *statements: str) -> None:
        with self.connection.transaction():
            for statement in statements:
                self.connection.execute(statement)

    def fill(self) -> None:
        self.run("TRUNCATE members", f"INSERT INTO members {PG_NUMBERS.format(size=self.size)} NOT n {CAME}")
        self.connection.execute("VACUUM ANALYZE members")

    def change(self) -> None:
        self.run(
            f"DELETE FROM members WHERE substr(user_id, 6)::bigint {LEFT}",
            f"INSERT INTO members {PG_NUMBERS.format(size=self.size)} n {CAME}",
        )
        self.connection.execute("VACUUM ANALYZE members")

    def drop(self) -> None:
        import psycopg

        self.connection.close()
        with psycopg.connect(self.admin, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {self.name} WITH (FORCE)")


def postgres_by_hand(server: Server) -> tuple[float, float]:
    in_order = FIRST[0].replace("ORDER BY user_id", 'ORDER BY user_id COLLATE "C"')
    first = clock("by hand: first sync, synced and outbox", lambda: server.run(in_order, FIRST[1]))
    server.connection.execute("VACUUM ANALYZE synced")
    server.change()
    server.run('CREATE TEMP TABLE changes (user_id text COLLATE "C", kind text)')
    best = []
    for what, settings in (
        ("as planned by default", []),
        ("as a merge join", ["SET LOCAL enable_hashjoin = off"]),
    ):
        best.append(
            clock(f"by hand: FULL OUTER JOIN {what}", lambda s=settings: server.run("TRUNCATE changes", *s, FULL_JOIN))
        )
    server.run("ANALYZE changes")
    write = clock("by hand: outbox and synced, the changes only", lambda: server.run(*WRITE))
    server.run("DROP TABLE synced, outbox")
    server.fill()
    return first, min(best) + write


def postgres(size: int, url: str, with_many: bool) -> None:
    for title, collation in (("PostgreSQL", '"C"'), ("PostgreSQL, ids in another order", '"default"')):
        server = Server(url, size, collation)
        with tempfile.TemporaryDirectory() as folder:
            first, later = postgres_by_hand(server)
            ours(f"{title}, one database", Path(folder), server.url, server.url, first, later, server.change)
            if with_many and collation == '"C"':
                postgres_many(server, Path(folder))
        server.drop()
    server, other = Server(url, size), Server(url, 200)
    with tempfile.TemporaryDirectory() as folder:
        moved = clock("by hand: COPY out of one and into the other", lambda: copied(server, other))
        ours(
            "PostgreSQL, two databases",
            Path(folder),
            server.url,
            other.url,
            first + moved,
            later + moved,
            server.change,
        )
        server.fill()
        moved = clock("by hand: rows into SQLite, in order", lambda: into_sqlite(Path(folder), server_rows(server)))
        ours(
            "PostgreSQL to SQLite",
            Path(folder),
            server.url,
            "sqlite:///state.db",
            sqlite_best(size)[0] + moved,
            sqlite_best(size)[1] + moved,
            server.change,
        )
        server.fill()
        kept = "CREATE TABLE kept AS SELECT user_id FROM members"
        made = clock("by hand: snapshot in PostgreSQL", lambda: server.run(kept, "DROP TABLE kept"))
        other.drop()
        other = Server(url, 200)
        ours(
            "PostgreSQL keeps the snapshots, state in PostgreSQL",
            Path(folder),
            server.url,
            other.url,
            first + made,
            later + made,
            server.change,
            synced="warehouse",
        )
    server.drop()
    other.drop()


def postgres_many(server: Server, folder: Path) -> None:
    server.run('CREATE TABLE parts (part int, user_id text COLLATE "C", PRIMARY KEY (part, user_id))')
    rows = PG_NUMBERS.format(size=server.size).replace("SELECT", "SELECT n % 200,")
    server.run(f"INSERT INTO parts {rows} NOT n / 200 {CAME}")
    server.connection.execute("VACUUM ANALYZE parts")

    def change() -> None:
        server.run(
            f"DELETE FROM parts WHERE substr(user_id, 6)::bigint / 200 {LEFT}",
            f"INSERT INTO parts {rows} n / 200 {CAME}",
        )
        server.connection.execute("VACUUM ANALYZE parts")

    many("PostgreSQL, one database", folder, server.url, server.url, change)


def copied(server: Server, other: Server) -> None:
    with (
        server.connection.cursor() as left,
        other.connection.transaction(),
        other.connection.cursor() as right,
        left.copy("COPY (SELECT user_id FROM members) TO STDOUT") as out,
    ):
        right.execute('CREATE TEMP TABLE staged (user_id text COLLATE "C") ON COMMIT DROP')
        with right.copy("COPY staged FROM STDIN") as into:
            for block in out:
                into.write(block)


def server_rows(server: Server) -> Iterator[list[Any]]:
    with server.connection.transaction(), server.connection.cursor(name="rows") as cursor:
        cursor.execute("SELECT user_id FROM members ORDER BY user_id")
        while chunk := cursor.fetchmany(20_000):
            yield chunk


def into_sqlite(folder: Path, chunks: Iterator[list[Any]]) -> None:
    staged = sqlite3.connect(folder / "staged.db", isolation_level=None)
    staged.execute("CREATE TEMP TABLE staged (user_id TEXT PRIMARY KEY) WITHOUT ROWID")
    staged.execute("BEGIN")
    for chunk in chunks:
        staged.executemany("INSERT INTO staged VALUES (?)", chunk)
    staged.execute("COMMIT")
    staged.close()


def into_outbox(folder: Path, chunks: Iterator[list[Any]]) -> None:
    state = sqlite3.connect(folder / "by_hand.db", isolation_level=None)
    state.execute("PRAGMA journal_mode = WAL")
    state.execute("DROP TABLE IF EXISTS outbox")
    state.execute(OUTBOX)
    state.execute("BEGIN IMMEDIATE")
    insert = "INSERT INTO outbox (lane, computation_id, sync_id, user_id, value) VALUES (0, 1, 1, ?, 'true')"
    for chunk in chunks:
        state.executemany(insert, chunk)
    state.execute("COMMIT")
    state.close()


def duckdb(size: int, url: str) -> None:
    import duckdb as engine

    rows = f"SELECT printf('user-%010d', n) AS user_id FROM range({size}) t(n) WHERE "
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = str(folder / "shop.duckdb")

        def run(*statements: str) -> None:
            with engine.connect(file) as connection:
                for statement in statements:
                    connection.execute(statement)

        def change() -> None:
            run(
                f"DELETE FROM members WHERE CAST(substr(user_id, 6) AS BIGINT) {LEFT}",
                f"INSERT INTO members {rows} n {CAME}",
            )

        run(f"CREATE TABLE members AS {rows} NOT n {CAME}", f"CREATE TABLE synced AS {rows} NOT n {LEFT}")
        join = (
            "CREATE TABLE changes AS SELECT m.user_id AS a, s.user_id AS b FROM members m "
            "FULL JOIN synced s USING (user_id) WHERE m.user_id IS NULL OR s.user_id IS NULL"
        )
        clock("by hand: DuckDB FULL OUTER JOIN", lambda: run("DROP TABLE IF EXISTS changes", join))

        def fetched(query: str = "SELECT user_id FROM members ORDER BY user_id") -> Iterator[list[Any]]:
            with engine.connect(file, read_only=True) as connection:
                cursor = connection.execute(query)
                while chunk := cursor.fetchmany(20_000):
                    yield chunk

        moved = clock("by hand: DuckDB's rows into SQLite, in order", lambda: into_sqlite(folder, fetched()))
        first, later = (each + moved for each in sqlite_best(size))
        ours("DuckDB to SQLite", folder, "duckdb:///shop.duckdb", "sqlite:///state.db", first, later, change)
        kept = f"CREATE TABLE kept AS {rows} NOT n {LEFT}"
        run("DROP TABLE synced", f"CREATE TABLE synced AS {rows} NOT n {CAME}", "DROP TABLE changes")
        (folder / "state.db").unlink()
        first = clock("by hand: snapshot in DuckDB", lambda: run("CREATE TABLE kept AS SELECT user_id FROM members"))
        run("DROP TABLE kept")
        first += clock("by hand: its rows into SQLite's outbox", lambda: into_outbox(folder, fetched()))
        later = clock("by hand: snapshot, FULL OUTER JOIN", lambda: run(kept, join))
        changed = "SELECT coalesce(a, b) FROM changes ORDER BY 1"
        later += clock("by hand: the changes into SQLite's outbox", lambda: into_outbox(folder, fetched(changed)))
        run("DROP TABLE kept", "DROP TABLE synced", "DROP TABLE changes")
        run("DROP TABLE members", f"CREATE TABLE members AS {rows} NOT n {CAME}")
        title, state = "DuckDB keeps the snapshots, state in SQLite", "sqlite:///kept.db"
        ours(title, folder, "duckdb:///shop.duckdb", state, first, later, change, synced="warehouse")


# -- following events ---------------------------------------------------------------------------------------------

FOLLOWED = """\
version: 1
source: "{source}"
state: "{state}"
events: {{Bought: {{table: events, user_id: user_id, at: at, arrived_at: arrived_at}}}}
workflows: {{crm: {{url: "http://127.0.0.1:9/"}}}}
jobs:
  - name: Bench
    guard: off
    full_every: {full_every}
    audiences: [{{name: Bought, who: {{did: Bought, within: 30 days}}}}]
"""
MINUTES = 30 * 24 * 60


def follow(size: int, databases: list[str], url: str) -> None:
    """As many members as `size`, each with one event in 30 days; each sync comes when half of 1 in 1,000 has left, and
    as many have come."""
    step = MINUTES * 60 * 5 // 10_000  # seconds in which that happens
    few = size * 5 // 10_000
    first = 1_767_225_600  # 2026-01-01
    at = f"{first} - {MINUTES * 60} + CAST(n * {MINUTES * 60 / size!r} AS bigint)"
    indexes = [f"CREATE INDEX events_{column} ON events ({column})" for column in ("user_id", "at", "arrived_at")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "sqlite" in databases:
            shop = sqlite3.connect(folder / "shop.db", isolation_level=None)
            shop.execute("PRAGMA journal_mode = WAL")
            shop.execute("CREATE TABLE events (user_id TEXT, at INTEGER, arrived_at INTEGER)")
            user = "printf('user-%010d', (n * 7919) % 1000000007)"

            def happen(begin: int, end: int) -> None:
                rows = numbers(end, f"{user} AS u, {at} AS t").replace("SELECT 0 UNION", f"SELECT {begin} UNION")
                shop.execute(f"INSERT INTO events SELECT u, t, t FROM ({rows})")

            happen(0, size)
            for index in indexes:
                shop.execute(index)
            followed("SQLite", folder, "sqlite:///shop.db", "sqlite:///state.db", first, step, size, few, happen)
            shop.close()
        if "postgresql" in databases:
            server = Server(url, 200)
            server.run('CREATE TABLE events (user_id text COLLATE "C", at timestamptz, arrived_at timestamptz)')

            def happen_there(begin: int, end: int) -> None:
                server.run(
                    "INSERT INTO events SELECT 'user-' || lpad(((n * 7919) % 1000000007)::text, 10, '0'), "
                    f"to_timestamp({at}), to_timestamp({at}) FROM generate_series({begin}::bigint, {end} - 1) n"
                )

            happen_there(0, size)
            server.run(*indexes)
            server.connection.execute("VACUUM ANALYZE events")
            followed("PostgreSQL", folder, server.url, server.url, first, step, size, few, happen_there)
            server.drop()


def followed(
    title: str,
    folder: Path,
    source: str,
    state: str,
    first: int,
    step: int,
    size: int,
    few: int,
    happen: Callable[[int, int], None],
) -> None:
    from datetime import UTC, datetime

    path = folder / "follow.yaml"

    def at(number: int, full_every: str) -> dict[str, Any]:
        path.write_text(FOLLOWED.format(source=source, state=state, full_every=full_every))
        if number:
            happen(size + (number - 1) * few, size + number * few)
        return child("sync", path, datetime.fromtimestamp(first + number * step, UTC).isoformat())

    path.write_text(FOLLOWED.format(source=source, state=state, full_every="1 day"))
    ready(path)
    tell(f"{title}: first sync", **at(0, "1 day"))
    # The first of each finds pages that nothing has read or written since they were made.
    whole = [tell(f"{title}: 1 in 1,000 changed, everyone compared", **at(n, "1 second")) for n in range(1, 4)]
    least = [tell(f"{title}: 1 in 1,000 changed, followed", **at(n, "1 day")) for n in range(4, 9)]
    print(f"    {median(whole) / median(least):.1f} times faster, by the medians", flush=True)


# -- changed_since ------------------------------------------------------------------------------------------------

CHANGED = """\
version: 1
source: "{source}"
state: "{state}"
workflows: {{crm: {{url: "http://127.0.0.1:9/"}}}}
jobs:
  - name: Bench
    guard: off
    full_every: {full_every}
    audiences: [{{name: VIP, sql: "select user_id, changed from vip", changed_since: changed}}]
"""


def changed(size: int, databases: list[str], url: str) -> None:
    """A table of as many members. Of each sync's 1 in 1,000, all came, or half came and half left."""
    indexes = [f"CREATE INDEX vip_{column} ON vip ({column})" for column in ("user_id", "changed")]
    first, few = 1_767_225_600, size // 1000  # 2026-01-01

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "sqlite" in databases:
            shop = sqlite3.connect(folder / "shop.db", isolation_level=None)
            shop.execute("PRAGMA journal_mode = WAL")
            shop.execute("CREATE TABLE vip (user_id TEXT NOT NULL, changed INTEGER)")
            user = "printf('user-%010d', (n * 7919) % 1000000007)"
            shop.execute(f"INSERT INTO vip SELECT u, {first} - 7200 FROM ({numbers(size, f'{user} AS u')})")
            for index in indexes:
                shop.execute(index)

            def change(number: int, come: int, leave: int) -> None:
                shop.execute("BEGIN")
                shop.execute(f"DELETE FROM vip WHERE rowid IN (SELECT rowid FROM vip LIMIT {leave})")
                rows = numbers(come, f"printf('new-%010d', n + {number * few}), {first + number * 7200}")
                shop.execute(f"INSERT INTO vip {rows} WHERE n < {come}")
                shop.execute("COMMIT")

            changed_rows("SQLite", folder, "sqlite:///shop.db", "sqlite:///state.db", first, few, change)
            shop.close()
        if "postgresql" in databases:
            server, other = Server(url, 200), Server(url, 200)
            server.run(
                "CREATE TABLE vip (user_id text NOT NULL, changed timestamptz)",
                "INSERT INTO vip SELECT 'user-' || lpad(((n * 7919) % 1000000007)::text, 10, '0'), "
                f"to_timestamp({first} - 7200) FROM generate_series(0::bigint, {size} - 1) n",
                *indexes,
            )
            server.connection.execute("VACUUM ANALYZE vip")

            def change_there(number: int, come: int, leave: int) -> None:
                server.run(
                    f"DELETE FROM vip WHERE ctid IN (SELECT ctid FROM vip LIMIT {leave})",
                    f"INSERT INTO vip SELECT 'new-' || lpad((n + {number * few})::text, 10, '0'), "
                    f"to_timestamp({first + number * 7200}) FROM generate_series(0, {come} - 1) n",
                )

            changed_rows("PostgreSQL", folder, server.url, server.url, first, few, change_there)
            changed_rows("two PostgreSQL", folder, server.url, other.url, first, few, change_there, since=5)
            server.drop()
            other.drop()


def changed_rows(
    title: str,
    folder: Path,
    source: str,
    state: str,
    first: int,
    few: int,
    change: Callable[[int, int, int], None],
    since: int = 0,
) -> None:
    from datetime import UTC, datetime

    path = folder / "changed.yaml"

    def at(number: int, full_every: str) -> dict[str, Any]:
        path.write_text(CHANGED.format(source=source, state=state, full_every=full_every))
        return child("sync", path, datetime.fromtimestamp(first + (since + number) * 7200, UTC).isoformat())

    path.write_text(CHANGED.format(source=source, state=state, full_every="1 day"))
    ready(path)
    tell(f"{title}: first sync", **at(0, "1 day"))
    change(since + 1, few // 2, few // 2)
    whole = tell(f"{title}: 1 in 1,000 changed, everyone compared", **at(1, "1 second"))
    for number, (come, leave) in enumerate([(few, 0), (few // 2, few // 2), (0, 0)], 2):
        change(since + number, come, leave)
        best = tell(f"{title}: {come:,} came and {leave:,} left, rows that changed", **at(number, "1 day"))
        print(f"    {whole / best:.0f} times faster", flush=True)


# -- many audiences over one table of events ----------------------------------------------------------------------

EVENTS = JOBS.replace(
    "workflows:",
    """\
events:
  Anything: {{table: tracked, user_id: user_id, at: at}}
  "*": {{table: tracked, user_id: user_id, at: at, name: event}}
workflows:""",
)
WHO = "      - {{name: {name}, who: {{did: {event}, within: 30 days}}}}"


def events(size: int, databases: list[str], url: str) -> None:
    """As many events, each of another user, of 200 names; no index but on the user id."""
    first, index = 1_767_225_600, "CREATE INDEX tracked_user_id ON tracked (user_id)"  # 2026-01-01
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "sqlite" in databases:
            with sqlite3.connect(folder / "shop.db") as shop:
                shop.execute("CREATE TABLE tracked (event TEXT, user_id TEXT, at INTEGER)")
                user, at = "printf('user-%010d', (n * 7919) % 1000000007)", f"{first} - 60 - n % 2500000"
                rows = numbers(size, f"'Event ' || (n % {PARTS}), {user}, {at}")
                shop.execute(f"INSERT INTO tracked {rows}")
                shop.execute(index)
            shop.close()
            of_events("SQLite", folder, "sqlite:///shop.db", [f"sqlite:///{name}.db" for name in ("one", "many")])
        if "postgresql" in databases:
            servers = [Server(url, 200) for _ in range(2)]  # state is beside the source: each has its own
            for server, wanted in zip(servers, ("one", "many"), strict=True):
                server.run(
                    "CREATE TABLE tracked (event text, user_id text, at timestamptz)",
                    f"INSERT INTO tracked SELECT 'Event ' || (n % {PARTS}), "
                    "'user-' || lpad(((n * 7919) % 1000000007)::text, 10, '0'), "
                    f"to_timestamp({first} - 60 - n % 2500000) FROM generate_series(0::bigint, {size} - 1) n",
                    index,
                )
                server.connection.execute("VACUUM ANALYZE tracked")
                of_events("PostgreSQL", folder, server.url, [server.url], only=wanted)
                server.drop()


def of_events(title: str, folder: Path, source: str, states: list[str], only: str = "") -> None:
    one = [WHO.format(name="Anything", event="Anything")]
    many = [WHO.format(name=f"Part {n}", event=f"Event {n}") for n in range(PARTS)]
    wanted = {"one": one, "many": many}
    path = folder / "events.yaml"
    for name, state in zip([only] if only else list(wanted), states, strict=True):
        path.write_text(EVENTS.format(source=source, state=state, audiences="\n".join(wanted[name]), synced="state"))
        ready(path)
        what = f"{title}: {len(wanted[name])} of events"
        tell(f"{what}, first sync", **child("sync", path))
        for _ in range(2):
            tell(f"{what}, nothing changed", **child("sync", path))


@contextmanager
def postgresql(url: str | None, wanted: bool) -> Iterator[str]:
    if url or not wanted:
        yield url or ""
        return
    from support.postgres import serve

    server = serve(SETTINGS)
    try:
        yield next(server)
    finally:
        server.close()


if __name__ == "__main__":
    main()
