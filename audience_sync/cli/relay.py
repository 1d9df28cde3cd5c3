from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from audience_sync import logs
from audience_sync.config import Config, load_config
from audience_sync.config.model import MESSAGES
from audience_sync.errors import ConfigError
from audience_sync.receiver import listening
from audience_sync.relay import RelayServer
from audience_sync.sync import open_databases, prepare

STOP_SECONDS = 25.0


@click.command("relay")
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 takes calls from other machines.")
@click.option("--port", default=8090, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one.")
@click.option(
    "--log",
    type=click.Choice(["auto", "json", "plain"]),
    default="auto",
    show_default=True,
    help="How logs are written to standard error; auto: plain on a terminal, JSON elsewhere.",
)
@click.pass_obj
def command(config: Path, host: str, port: int, log: str) -> None:
    """Take calls of Segment's own clients, keep them, and forward them to the workflows.

    Point a client's `host` here. A call is answered once it is durable in the state database. SIGTERM and Ctrl-C end
    the relay cleanly: calls in flight finish, and what is not delivered yet is kept.
    """
    logs.configure(as_json={"auto": None, "json": True, "plain": False}[log])
    with opened(load_config(config), host, port) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            # The server takes these while it runs, and raises them again when it has ended.
            signal.signal(number, lambda _number, _frame: None)
        server.run()


@contextmanager
def opened(config: Config, host: str, port: int) -> Iterator[RelayServer]:
    """A relay that is bound to its address and not running yet; ConfigError says why there cannot be one."""
    if config.relay is None:
        raise ConfigError(f"{config.file}: relay: is missing", "add relay: {write_keys: [${RELAY_WRITE_KEY}]}")
    try:
        bound = listening(host, port)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", "choose another port") from None
    try:
        databases = open_databases(config)
        try:
            prepare(config, databases)
            server = RelayServer(config, databases, bound)
            shown = f"[{host}]" if ":" in host else host
            logs.info("relay started", address=f"http://{shown}:{bound.getsockname()[1]}")
            for name, workflow in config.workflows.items():
                told = MESSAGES if workflow.messages is None else workflow.messages
                logs.info("forwards", workflow=name, messages=", ".join(told) or "nothing")
            yield server
        finally:
            databases.dispose()
    finally:
        bound.close()


@contextmanager
def beside(config: Config, host: str, port: int) -> Iterator[None]:
    """A relay on a thread of its own, for as long as the block lasts."""
    with opened(config, host, port) as server:
        thread = threading.Thread(target=server.run, name="relay", daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        try:
            yield
        finally:
            server.stop()
            thread.join(STOP_SECONDS)
