"""How many events the relay accepts, and how long a call waits for its answer, beside the bare server's limit.

Every line is measured in the same run on the same machine, over loopback, with the client in a process of its own:
a server that answers at once (uvicorn and, where it is installed, granian), the relay's HTTP surface that keeps
nothing, and `audience-sync relay` on SQLite and, where `--postgresql URL` names an empty database, on PostgreSQL. The
relay's workflow cannot be reached, so that its messages enter the outbox and deliveries take no processor time.

    python benchmarks/relay.py [--seconds 5] [--postgresql URL]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import importlib.util
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEY = "wk_bench"
ONE, BATCH = "track, 1 event", "batch, 100 events"
LOADS = [  # what is sent, events a call, connections
    (ONE, 1, 1),
    (ONE, 1, 64),
    (BATCH, 100, 8),
]


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body and answers: what the server itself costs."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"16")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"success":true}'})


def keeps_nothing() -> Any:
    from audience_sync.config.model import Relay
    from audience_sync.relay.http import application

    class Nothing:
        async def put(self, messages: Any) -> None: ...

    return application(Relay(write_keys=[KEY]), Nothing())


surface = None if __name__ == "__main__" else keeps_nothing()


def body(events: int) -> Callable[[], bytes]:
    """Makes bodies of events of about 600 bytes, each with its own messageId and one of 10,000 users."""
    event = {
        "type": "track",
        "event": "Order Completed",
        "properties": {"order_id": "50314b8e9bcf", "revenue": 59.9, "currency": "EUR", "coupon": "spring", "items": 3},
        "context": {"library": {"name": "analytics-python", "version": "2.4.0"}, "page": {"path": "/checkout/" * 20}},
        "timestamp": "2026-03-01T12:00:00.000Z",
    }
    text = json.dumps(event)[:-1]
    count = 0

    def make() -> bytes:
        nonlocal count
        parts = []
        for _ in range(events):
            count += 1
            parts.append(f'{text},"userId":"u{count % 10_000}","messageId":"{uuid.uuid4()}"}}')
        return (parts[0] if events == 1 else f'{{"batch":[{",".join(parts)}]}}').encode()

    return make


class Client(asyncio.Protocol):
    """One connection: a call, its answer, the next call."""

    def __init__(self, make: Callable[[], bytes], head: str, until: float, seconds: list[float]) -> None:
        self.make, self.head, self.until, self.seconds = make, head, until, seconds
        self.done = asyncio.get_running_loop().create_future()
        self.refused = 0
        self.answer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.call()

    def call(self) -> None:
        content = self.make()
        self.began = time.perf_counter()
        self.transport.write(f"{self.head}{len(content)}\r\n\r\n".encode() + content)

    def data_received(self, data: bytes) -> None:
        self.answer += data
        if not self.answer.endswith(b"}"):
            return
        self.seconds.append(time.perf_counter() - self.began)
        self.refused += not self.answer.startswith(b"HTTP/1.1 200")
        self.answer = b""
        if time.perf_counter() < self.until:
            self.call()
        else:
            self.transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


def load(port: int, events: int, connections: int, seconds: float, told: Any) -> None:
    """Runs in a process of its own; puts (calls a second, latencies, refused) into `told`."""
    import uvloop

    async def main() -> tuple[float, list[float], int]:
        loop = asyncio.get_running_loop()
        authorization = base64.b64encode(f"{KEY}:".encode()).decode()
        path = "track" if events == 1 else "batch"
        head = (
            f"POST /v1/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic {authorization}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )
        latencies: list[float] = []
        began = time.perf_counter()
        clients = [Client(body(events), head, began + seconds, latencies) for _ in range(connections)]
        for client in clients:
            await loop.create_connection(lambda client=client: client, "127.0.0.1", port)
        await asyncio.gather(*(client.done for client in clients))
        return time.perf_counter() - began, latencies, sum(client.refused for client in clients)

    told.put(uvloop.run(main()))


def measure(port: int, events: int, connections: int, seconds: float) -> tuple[float, float, float]:
    """Events a second, and the median and 99th percentile of a call's latency in milliseconds."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    process = context.Process(target=load, args=(port, events, connections, seconds, told))
    process.start()
    took, latencies, refused = told.get(timeout=seconds * 10 + 60)
    process.join()
    if refused:
        raise SystemExit(f"{refused} of {len(latencies)} calls were not accepted")
    cuts = statistics.quantiles(latencies, n=100)
    return len(latencies) * events / took, cuts[49] * 1000, cuts[98] * 1000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(command: list[str], port: int, folder: str) -> Iterator[None]:
    here = str(Path(__file__).resolve().parent)
    with Path(folder, "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, env={**os.environ, "PYTHONPATH": here}, stderr=log, stdout=log
        )
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if time.monotonic() > deadline or process.poll() is not None:
                        raise SystemExit(Path(folder, "server.log").read_text()) from None
                    time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait(30)


def relay_command(state: str, port: int, folder: str) -> list[str]:
    Path(folder, "jobs.yaml").write_text(
        f"""\
version: 1
state: {state}
events: relay
relay: {{write_keys: [{KEY}]}}
workflows: {{crm: {{url: "http://127.0.0.1:9/crm"}}}}
jobs: [{{name: J, audiences: [{{name: A, who: {{did: Order Completed}}}}]}}]
"""
    )
    return ["audience_sync", "relay", "--port", str(port)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each line of the table")
    parser.add_argument("--postgresql", metavar="URL", help="an empty database")
    options = parser.parse_args()
    quiet = ["--http", "httptools", "--no-access-log", "--log-level", "error", "--port"]
    setups: list[tuple[str, Callable[[int, str], list[str]]]] = [
        ("bare uvicorn", lambda port, _: ["uvicorn", "relay:bare", *quiet, str(port)]),
        ("the relay's surface, nothing kept", lambda port, _: ["uvicorn", "relay:surface", *quiet, str(port)]),
        ("the relay on SQLite", lambda port, folder: relay_command("sqlite:///state.db", port, folder)),
    ]
    if importlib.util.find_spec("granian"):
        command = ["granian", "--interface", "asginl", "--no-access-log", "--log-level", "error", "--port"]
        setups.insert(1, ("bare granian", lambda port, _: [*command, str(port), "relay:bare"]))
        setups.insert(3, ("the surface on granian", lambda port, _: [*command, str(port), "relay:surface"]))
    if options.postgresql:
        url = options.postgresql
        setups.append(("the relay on PostgreSQL", lambda port, folder: relay_command(url, port, folder)))
    print(f"{'':36}{'what is sent':20}{'connections':>12}{'events/s':>10}{'median ms':>11}{'p99 ms':>9}")
    for name, command_of in setups:
        for what, events, connections in LOADS:
            port = free_port()
            with tempfile.TemporaryDirectory() as folder:
                command_line = command_of(port, folder)
                if Path(folder, "jobs.yaml").exists() and options.postgresql:
                    subprocess.run(
                        [sys.executable, "-m", "audience_sync", "migrate"],
                        cwd=folder,
                        check=True,
                        stdout=subprocess.DEVNULL,
                    )
                with serving(command_line, port, folder):
                    measure(port, events, connections, 0.5)
                    rate, median, worst = measure(port, events, connections, options.seconds)
            print(f"{name:36}{what:20}{connections:>12}{rate:>10,.0f}{median:>11.2f}{worst:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
