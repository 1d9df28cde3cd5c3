from __future__ import annotations

import signal
from pathlib import Path

import click

from audience_sync import logs
from audience_sync.config import load_config
from audience_sync.config.model import MESSAGES
from audience_sync.errors import ConfigError
from audience_sync.receiver import listening
from audience_sync.relay import RelayServer
from audience_sync.sync import open_databases, prepare


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
    loaded = load_config(config)
    if loaded.relay is None:
        raise ConfigError(f"{config}: relay: is missing", "add relay: {write_keys: [${RELAY_WRITE_KEY}]}")
    try:
        bound = listening(host, port)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", "choose another --port") from None
    databases = open_databases(loaded)
    try:
        prepare(loaded, databases)
        server = RelayServer(loaded, databases, bound)
        logs.info(
            "relay started", address=f"http://{host}:{bound.getsockname()[1]}", write_keys=len(loaded.relay.write_keys)
        )
        for name, workflow in loaded.workflows.items():
            logs.info("forwards", workflow=name, messages=", ".join(workflow.messages or MESSAGES))
        for number in (signal.SIGTERM, signal.SIGINT):
            # The server takes these while it runs, and raises them again when it has ended.
            signal.signal(number, lambda _number, _frame: None)
        server.run()
    finally:
        bound.close()
        databases.dispose()
