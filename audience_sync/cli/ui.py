from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from audience_sync.cli import errors
from audience_sync.cli.options import serving_options
from audience_sync.cli.page import access_for
from audience_sync.config import load_config
from audience_sync.web import Web, make_app
from audience_sync.web.source import Source


@click.command("ui")
@serving_options
@click.pass_obj
def command(config: Path, host: str, port: int) -> None:
    """Serve the page that says how things stand, beside whatever runs the syncs."""
    loaded = load_config(config)
    app = make_app(Source(lambda: loaded), access_for(host))
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with Web(app, host, port) as url:
        errors().print(f"how things stand: {url}  (Ctrl-C ends)")
        ended.wait()
