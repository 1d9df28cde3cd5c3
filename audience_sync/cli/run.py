from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click
from rich.console import Console

from audience_sync.alerts import Alerter
from audience_sync.cli import errors, print_json, tell_stopping
from audience_sync.cli.options import as_of_option, instant_or_now, json_option
from audience_sync.cli.progress import Bars
from audience_sync.cli.report import show
from audience_sync.config import load_config
from audience_sync.delivery.stopping import stop_on_signals
from audience_sync.sync import run


@click.command("run")
@click.argument("jobs", nargs=-1)
@as_of_option
@click.option("--allow-large-change", is_flag=True, help="Send changes that the guard would hold.")
@json_option
@click.pass_obj
def command(
    config: Path, jobs: tuple[str, ...], as_of: datetime | None, allow_large_change: bool, as_json: bool
) -> None:
    """Sync each JOB (default: all) once, then exit.

    Exit code 0: all acknowledged; 1: something failed or is undelivered, and kept; 2: nothing was done, the
    configuration is wrong; 3: held by the guard.
    """
    loaded = load_config(config)
    with stop_on_signals(tell_stopping) as stopping, Bars() as bars:
        report = run(
            loaded,
            jobs,
            instant_or_now(as_of),
            allow_large_change=allow_large_change,
            progress=bars,
            stopping=stopping,
        )
    alerter = Alerter()
    for job in report.jobs:
        dead = {delivery["workflow"]: delivery["dead"] for delivery in job.deliveries}
        alerter.ended(loaded, job.job, job.status, job.error, dead)
    if as_json:
        print_json(report.as_json())
        show(report, errors(), planned=False)
    else:
        show(report, Console(highlight=False, soft_wrap=True), planned=False)
    raise click.exceptions.Exit(report.exit_code)
