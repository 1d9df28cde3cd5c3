from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click
from rich.console import Console

from audience_sync.cli import print_json
from audience_sync.cli.options import as_of_option, instant_or_now, json_option
from audience_sync.cli.report import show
from audience_sync.config import load_config
from audience_sync.sync import plan


@click.command("plan")
@click.argument("jobs", nargs=-1)
@as_of_option
@json_option
@click.pass_obj
def command(config: Path, jobs: tuple[str, ...], as_of: datetime | None, as_json: bool) -> None:
    """Show what a sync of each JOB (default: all) would send. Sends and writes nothing."""
    report = plan(load_config(config), jobs, instant_or_now(as_of))
    if as_json:
        print_json(report.as_json())
    else:
        show(report, Console(highlight=False, soft_wrap=True), planned=True)
    raise click.exceptions.Exit(report.exit_code)
