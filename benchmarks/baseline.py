"""The main job at size: a first sync of a million members and a later one in which 1 % changed, beside the limits.

Each sync is `audience-sync run` in a process of its own, into one workflow, on SQLite and on PostgreSQL (started
here, as the tests do, without fsync). The limits are measured in the same run: the set work beside the same rows moved
by the barest SQL, delivery beside a bare loop of libcurl that posts one ready-made body to the same receiver. The
receiver is `sink.c` where there is a C compiler; the stand-in of `listen`, which is Python, takes far fewer calls than
can be sent, and is measured to show it.

    python benchmarks/baseline.py [--members 1000000] [--receiver sink|stand-in] [--only sqlite|postgresql]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

JOBS_YAML = """\
version: 1
source: {source}
state: {state}
workflows:
  crm: {{url: "{url}/crm", shared_secret: s3cret, concurrency: 64}}
jobs:
  - name: Lifecycle
    audiences:
      - {{name: Everyone, table: {{name: members, user_id: user_id}}}}
"""
BODY = (
    b'{"type":"identify","userId":"user-00000001","traits":{"everyone":true},"context":{"personas":{"computation_class":'
    b'"audience","computation_key":"everyone","computation_id":"aud_0123456789abcdef01234567","namespace":"spa_01234567",'
    b'"space_id":"spa_01234567"},"library":{"name":"audience-sync","version":"0.1.0"}},"integrations":{"All":false,'
    b'"tray.io":true},"messageId":"0123456789abcdef01234567-1","timestamp":"2026-01-01T00:00:00.000Z","originalTimestamp":'
    b'"2026-01-01T00:00:00.000Z","sentAt":"2026-01-01T00:00:00.000Z","version":2,"channel":"server"}'
)
NUMBERED = {
    "sqlite": "with recursive n(i) as (select {low} union all select i + 1 from n where i < {high} - 1) "
    "insert into members select printf('user-%08d', i) from n",
    "postgresql": "insert into members select 'user-' || lpad(i::text, 8, '0') "
    "from generate_series({low}, {high} - 1) as n(i)",
}


@dataclass
class Line:
    """One row of the table: what took how long, the limit beside it, and the process's peak memory."""

    what: str
    rows: int
    seconds: float
    limit: float | None = None
    memory: int | None = None

    def cells(self) -> list[str]:
        each = f"{self.rows / self.seconds:,.0f}/s" if self.seconds else ""
        ratio = f"{self.seconds / self.limit:.2f}" if self.limit else ""
        limit = f"{self.limit:.2f} s" if self.limit else ""
        memory = f"{self.memory / 2**20:,.0f} MB" if self.memory else ""
        return [self.what, f"{self.rows:,}", f"{self.seconds:.2f} s", each, limit, ratio, memory]


def table(lines: list[Line]) -> str:
    titles = ["what", "rows", "time", "rate", "limit", "× limit", "peak memory"]
    rows = [titles, ["---"] + ["--:"] * 6, *(line.cells() for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def stand_in(port: Any) -> None:
    import asyncio

    from audience_sync.receiver import Receiver, listening, server

    bound = listening("127.0.0.1", 0)
    port.send(bound.getsockname()[1])
    asyncio.run(server(Receiver(shared_secret="s3cret", keep_calls=False)).serve([bound]))


@contextmanager
def receiving(kind: str, folder: Path) -> Iterator[str]:
    """The address of a receiver in a process of its own."""
    if kind == "sink":
        program = folder / "sink"
        subprocess.run(["cc", "-O2", "-o", program, ROOT / "benchmarks" / "sink.c"], check=True)
        process = subprocess.Popen([program], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()
            process.wait()
        return
    mine, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=stand_in, args=(theirs,), daemon=True)
    server.start()
    try:
        url = f"http://127.0.0.1:{mine.recv()}"
        deadline = time.monotonic() + 30
        while True:
            try:
                bare_loop(url, 1)
                break
            except RuntimeError:  # it has its port, and does not listen yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield url
    finally:
        server.kill()
        server.join()


def bare_loop(url: str, calls: int, connections: int = 64) -> float:
    """Seconds that libcurl alone takes to post a ready-made body so often."""
    import pycurl

    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_MAXCONNECTS, connections)

    def handle() -> Any:
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, url + "/crm")
        curl.setopt(pycurl.POST, 1)
        curl.setopt(pycurl.POSTFIELDS, BODY)
        curl.setopt(pycurl.HTTPHEADER, ["Content-Type: application/json", "Expect:"])
        curl.setopt(pycurl.WRITEFUNCTION, len)
        return curl

    started = time.monotonic()
    sent = done = 0
    for _ in range(min(connections, calls)):
        multi.add_handle(handle())
        sent += 1
    while done < calls:
        multi.perform()
        while True:
            waiting, ended, failed = multi.info_read()
            if failed:
                raise RuntimeError(failed)
            for curl in ended:
                done += 1
                multi.remove_handle(curl)
                if sent < calls:
                    multi.add_handle(curl)
                    sent += 1
            if not waiting:
                break
        if done < calls:
            multi.select(1.0)
    return time.monotonic() - started


def audience_sync(folder: Path, *arguments: str) -> tuple[dict[str, Any], float, int]:
    """Run a command; returns its JSON, wall seconds, and peak resident memory in bytes."""
    output = folder / "output.json"
    started = time.monotonic()
    with output.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "audience_sync", "--config", str(folder / "jobs.yaml"), *arguments, "--json"],
            stdout=out,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        said = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"audience-sync {' '.join(arguments)} ended with {process.returncode}: {said}")
    return json.loads(output.read_text()), time.monotonic() - started, usage.ru_maxrss * 1024


def timed(connection: sa.Connection, *statements: str) -> float:
    started = time.monotonic()
    with connection.begin():
        for statement in statements:
            connection.exec_driver_sql(statement)
    return time.monotonic() - started


def first_by_bare_sql(connection: sa.Connection, dialect: str) -> float:
    """The rows of a first sync, written as `synced` and as `outbox` by nothing but INSERT … SELECT."""
    collation = "" if dialect == "sqlite" else ' collate "C"'
    number = "integer primary key" if dialect == "sqlite" else "bigserial primary key"
    end = " without rowid" if dialect == "sqlite" else ""
    with connection.begin():
        connection.exec_driver_sql(
            f"create table bare_synced (c bigint, user_id text{collation}, value text, primary key (c, user_id)){end}"
        )
        connection.exec_driver_sql(
            f"create table bare_outbox (seq {number}, c bigint, s bigint, user_id text, value text, previous text)"
        )
    return timed(
        connection,
        "insert into bare_synced select 1, user_id, null from members order by user_id",
        "insert into bare_outbox (c, s, user_id, value) select 1, 1, user_id, 'true' from members order by user_id",
    )


def later_by_bare_sql(connection: sa.Connection) -> float:
    """The two halves of a diff, written down."""
    return timed(
        connection,
        "insert into bare_outbox (c, s, user_id, value) select 1, 2, m.user_id, 'true' from members m "
        "where not exists (select 1 from bare_synced b where b.c = 1 and b.user_id = m.user_id)",
        "insert into bare_outbox (c, s, user_id, value) select 1, 2, b.user_id, 'false' from bare_synced b "
        "where not exists (select 1 from members m where m.user_id = b.user_id)",
    )


def measure(dialect: str, url: str, members: int, receiver: str, call_seconds: float, folder: Path) -> list[Line]:
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    changed = members // 100
    name = "SQLite" if dialect == "sqlite" else "PostgreSQL"
    state = f"sqlite:///{folder}/state.db" if dialect == "sqlite" else url
    (folder / "jobs.yaml").write_text(JOBS_YAML.format(source=url, state=state, url=receiver))
    lines = []
    with engine.connect() as connection:
        collation = "" if dialect == "sqlite" else ' collate "C"'
        with connection.begin():
            connection.exec_driver_sql(f"create table members (user_id text{collation} primary key)")
            connection.exec_driver_sql(NUMBERED[dialect].format(low=0, high=members))
        bare_first = first_by_bare_sql(connection, dialect)
        audience_sync(folder, "migrate")
        report, seconds, memory = audience_sync(folder, "run")
        lines += split(f"{name}, first sync", report, members, seconds, memory, bare_first, call_seconds)
        with connection.begin():
            connection.exec_driver_sql(f"delete from members where user_id < 'user-{changed // 2:08}'")
            connection.exec_driver_sql(NUMBERED[dialect].format(low=members, high=members + changed // 2))
        bare_later = later_by_bare_sql(connection)
        report, seconds, memory = audience_sync(folder, "run")
        lines += split(f"{name}, 1 % later", report, changed, seconds, memory, bare_later, call_seconds)
        report, seconds, memory = audience_sync(folder, "run")
        lines.append(Line(f"{name}, nothing changed: whole process", members, seconds, None, memory))
    engine.dispose()
    return lines


def split(
    what: str, report: dict[str, Any], rows: int, seconds: float, memory: int, bare: float, call_seconds: float
) -> list[Line]:
    (job,) = report["jobs"]
    (found,), (delivery,) = job["computations"], job["deliveries"]
    assert found["entered"] + found["exited"] == delivery["delivered"] == rows, job
    return [
        Line(f"{what}: set work", found["size"], found["seconds"], bare),
        Line(f"{what}: delivery", rows, delivery["seconds"], rows * call_seconds),
        Line(f"{what}: whole process", rows, seconds, bare + rows * call_seconds, memory),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument(
        "--receiver", choices=["sink", "stand-in"], default="sink" if shutil.which("cc") else "stand-in"
    )
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    arguments = parser.parse_args()
    print(
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}; receiver: {arguments.receiver}; all on one machine\n"
    )
    lines: list[Line] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="audience-sync-bench-")))
        calls = min(100_000, arguments.members)
        with receiving("stand-in", folder) as url:
            lines.append(
                Line("bare loop of libcurl into the stand-in of `listen`", calls // 5, bare_loop(url, calls // 5))
            )
        receiver = stack.enter_context(receiving(arguments.receiver, folder))
        bare = bare_loop(receiver, calls)
        lines.append(Line(f"bare loop of libcurl into the {arguments.receiver}", calls, bare))
        servers: dict[str, Callable[[], str]] = {
            "sqlite": lambda: f"sqlite:///{folder}/shop.db",
            "postgresql": lambda: stack.enter_context(postgresql()),
        }
        for dialect, start in servers.items():
            if arguments.only in (None, dialect):
                inner = folder / dialect
                inner.mkdir()
                lines += measure(dialect, start(), arguments.members, receiver, bare / calls, inner)
    print(table(lines))


@contextmanager
def postgresql() -> Iterator[str]:
    from support.postgres import serve

    yield from serve()


if __name__ == "__main__":
    main()
