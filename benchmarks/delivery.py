"""Acknowledged, signed, checkpointed deliveries a second, beside the peers and the limit, all in one run.

    python benchmarks/delivery.py [--deliveries 200000] [--runs 3] [--skip-postgresql]

The sink is sink.c, compiled here: the receiver must not be what is measured. Every figure is the median of the runs,
with the lowest and the highest, because machines are noisy; `ratio` is to the bare pycurl loop of this run. `CPU µs` is
the sending processes' processor time a call, without their start: other work on the machine hardly changes it.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pycurl
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

BODY = b'{"type":"identify","userId":"u0000001","traits":{"a":true},"pad":"' + b"x" * 404 + b'"}'
FIELDS = {"Content-Type": "application/json", "User-Agent": "audience-sync/benchmark"}
SECRET = "benchmark"


def signed() -> str:
    return hmac.digest(SECRET.encode(), BODY, "sha1").hex()


@contextmanager
def sink(delay_ms: int = 0) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/sink"
        subprocess.run(["cc", "-O2", "-o", program, str(HERE / "sink.c")], check=True)
        process = subprocess.Popen([program, str(delay_ms)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/w"
        finally:
            process.kill()
            process.wait()


class Measured(NamedTuple):
    """Calls a second, and microseconds of processor time of the sending processes for each."""

    rate: float
    cpu: float


def bare_pycurl(url: str, count: int, concurrency: int = 64) -> Measured:
    """The limit: libcurl's multi interface with nothing around it but the signature."""
    multi = pycurl.CurlMulti()
    fields = [f"{name}: {value}".encode() for name, value in FIELDS.items()] + [b"Expect:"]

    def start(curl: pycurl.Curl) -> None:
        curl.setopt(pycurl.POSTFIELDS, BODY)
        curl.setopt(pycurl.HTTPHEADER, [*fields, b"X-Signature: " + signed().encode()])
        multi.add_handle(curl)

    started, spent = time.perf_counter(), time.process_time()
    for _ in range(concurrency):
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.POST, 1)
        curl.setopt(pycurl.WRITEFUNCTION, lambda _: None)
        start(curl)
    begun, done = concurrency, 0
    while done < count:
        multi.perform()
        while True:
            more, good, bad = multi.info_read()
            assert not bad
            for curl in good:
                done += 1
                multi.remove_handle(curl)
                if begun < count:
                    begun += 1
                    start(curl)
            if not more:
                break
        if done < count:
            multi.select(1.0)
    return Measured(count / (time.perf_counter() - started), (time.process_time() - spent) / count * 1e6)


def plain_httpx(url: str, count: int, concurrency: int) -> Measured:
    """httpx.AsyncClient as people use it."""

    async def main() -> Measured:
        left = count
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        async with httpx.AsyncClient(limits=limits, headers=FIELDS) as client:

            async def work() -> None:
                nonlocal left
                while left > 0:
                    left -= 1
                    answer = await client.post(url, content=BODY, headers={"X-Signature": signed()})
                    assert answer.status_code == 200

            started, spent = time.perf_counter(), time.process_time()
            await asyncio.gather(*(work() for _ in range(concurrency)))
            return Measured(count / (time.perf_counter() - started), (time.process_time() - spent) / count * 1e6)

    return asyncio.run(main())


class Shop:
    """A state with `count` members in the outbox, and nothing delivered."""

    def __init__(self, folder: Path, database: str, url: str, count: int, concurrency: int) -> None:
        self.folder, self.url, self.concurrency = folder, url, concurrency
        source = f"sqlite:///{folder}/shop.db"
        self.state = database or f"sqlite:///{folder}/state.db"
        engine = sa.create_engine(source, poolclass=sa.pool.NullPool)
        members = sa.Table("members", sa.MetaData(), sa.Column("user_id", sa.Text))
        members.create(engine)
        with engine.begin() as connection:
            for start in range(0, count, 50_000):
                ids = range(start, min(start + 50_000, count))
                connection.execute(sa.insert(members), [{"user_id": f"u{number:09}"} for number in ids])
        self.write("http://127.0.0.1:9/closed", "max_wait: 1 ms, ")
        self.command("migrate").wait()
        filling = self.command("run")
        filling.wait()

    def write(self, url: str, more: str = "") -> None:
        workflow = f"{{url: '{url}', shared_secret: {SECRET}, {more}concurrency: {self.concurrency}}}"
        (self.folder / "jobs.yaml").write_text(
            f"version: 1\nsource: sqlite:///shop.db\nstate: {self.state}\nworkflows:\n  w: {workflow}\njobs:\n"
            "  - name: J\n    audiences: [{name: a, table: {name: members, user_id: user_id}}]\n"
        )

    def command(self, *words: str) -> subprocess.Popen[str]:
        config = ["--config", str(self.folder / "jobs.yaml")]
        return subprocess.Popen(
            [sys.executable, "-m", "audience_sync", *config, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


peaks: dict[str, float] = {}


def ours(
    name: str, database: Callable[[], str], url: str, count: int, concurrency: int = 64, processes: int = 1
) -> Measured:
    """`audience-sync deliver` in processes of its own: from the outbox to the written checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(Path(folder), database(), url, count, concurrency)
        shop.write(url)
        running = [shop.command("deliver", "--json") for _ in range(processes)]
        reports, spent = zip(*(finished(name, process) for process in running), strict=True)
        _, start = finished(name, shop.command("deliver", "--json"))  # nothing is left to deliver
        delivered = sum(report["delivered"] for report in reports)
        assert delivered >= count - 100, reports
        seconds = max(report["seconds"] for report in reports)
        return Measured(delivered / seconds, (sum(spent) - processes * start) / delivered * 1e6)


def finished(name: str, process: subprocess.Popen[str]) -> tuple[dict[str, Any], float]:
    """What the command reports, and its seconds of processor time."""
    assert process.stdout is not None
    report = json.loads(process.stdout.read())["deliveries"][0]
    _, _, usage = os.wait4(process.pid, 0)
    peaks[name] = max(peaks.get(name, 0.0), usage.ru_maxrss / 1024)
    return report, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deliveries", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--skip-postgresql", action="store_true")
    given = parser.parse_args()
    count: int = given.deliveries
    figures: dict[str, list[Measured]] = {}

    def measure(name: str, work: Callable[[], Measured]) -> None:
        figures.setdefault(name, []).append(work())

    server = None
    if not given.skip_postgresql:
        from support.postgres import Server

        server = Server()
        server.start()
    number = 0

    def new_postgresql() -> str:
        nonlocal number
        assert server is not None
        number += 1
        engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE bench{number}")
        return sa.make_url(server.url).set(database=f"bench{number}").render_as_string(hide_password=False)

    try:
        for _ in range(given.runs):
            with sink() as url:
                measure("bare pycurl multi, 64 in flight", lambda url=url: bare_pycurl(url, count))
                for concurrency, calls in ((8, 3000), (64, 600)):
                    measure(
                        f"httpx.AsyncClient, {concurrency} in flight",
                        lambda url=url, c=concurrency, n=calls: plain_httpx(url, n, c),
                    )
                name = "audience-sync, SQLite"
                measure(name, lambda url=url, name=name: ours(name, str, url, count))
                if server is not None:
                    for processes in (1, 2):
                        name = f"audience-sync, PostgreSQL, {processes} process" + ("es" if processes > 1 else "")
                        measure(
                            name,
                            lambda url=url, name=name, p=processes: ours(
                                name, new_postgresql, url, count * p, processes=p
                            ),
                        )
        for concurrency in (32, 256):
            with sink(50) as url:
                name = f"audience-sync, SQLite, 50 ms away, {concurrency} in flight"
                measure(name, lambda url=url, name=name, c=concurrency: ours(name, str, url, c * 100, c))
    finally:
        if server is not None:
            server.close()
    show(figures)


def show(figures: dict[str, list[Measured]]) -> None:
    limit = statistics.median(one.rate for one in figures["bare pycurl multi, 64 in flight"])
    table = Table(title="Acknowledged calls a second", box=None)
    table.add_column("")
    for title in ("median", "lowest", "highest", "ratio", "CPU µs", "peak MB"):
        table.add_column(title, justify="right")
    for name, found in figures.items():
        rates = [one.rate for one in found]
        median = statistics.median(rates)
        cpu = f"{statistics.median(one.cpu for one in found):,.1f}"
        peak = f"{peaks[name]:,.0f}" if name in peaks else ""
        lowest, highest = f"{min(rates):,.0f}", f"{max(rates):,.0f}"
        table.add_row(name, f"{median:,.0f}", lowest, highest, f"{median / limit:.2f}", cpu, peak)
    console = Console()
    console.print(table)
    console.print(f"load average at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name in ("audience-sync, SQLite", "audience-sync, PostgreSQL, 1 process"):
        if name in figures:
            minutes = 10_000_000 / statistics.median(one.rate for one in figures[name]) / 60
            console.print(f"{name}: ten million deliveries, extrapolated: {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
