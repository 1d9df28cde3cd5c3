from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from audience_sync import outbox
from audience_sync.cli import errors, print_json, tell_stopping
from audience_sync.cli.options import json_option
from audience_sync.cli.progress import Bars
from audience_sync.cli.report import show_delivery
from audience_sync.clock import utcnow
from audience_sync.config import Config, load_config
from audience_sync.database import told, writing
from audience_sync.delivery import WorkflowReport, deliver
from audience_sync.delivery.stopping import stop_on_signals
from audience_sync.snapshot import Databases
from audience_sync.sync import prepare


@click.command("deliver")
@click.option("--workflow", "names", multiple=True, metavar="NAME", help="Only to this workflow; may be given again.")
@json_option
@click.pass_obj
def command(config: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Deliver what is undelivered, without a sync.

    On PostgreSQL several processes may do so at once, on several machines: they share the work.
    """
    raise click.exceptions.Exit(deliver_now(load_config(config), names, as_json=as_json))


def deliver_now(config: Config, names: Sequence[str], *, as_json: bool) -> int:
    """Deliver to the named workflows (none: all) and tell what came of it; returns the exit code."""
    chosen = config.workflows_named(names)
    databases = Databases.open(config.source, config.state)
    try:
        prepare(config, databases)
        with told("state", config.state), databases.state.connect() as connection, writing(connection):
            ids = outbox.register_workflows(connection, config.workflows, utcnow())
        wanted = {name: ids[name] for name in chosen}
        with stop_on_signals(tell_stopping) as stopping, Bars() as bars:
            reports = deliver(config, databases, wanted, progress=bars, stopping=stopping)
    finally:
        databases.dispose()
    document = [_as_json(report) for report in reports]
    if as_json:
        print_json({"deliveries": document})
    console = errors() if as_json else Console(highlight=False, soft_wrap=True)
    for one, report in zip(document, reports, strict=True):
        show_delivery(one, console)
        if one["pending"] or one["dead"]:
            why = report.last_error or "stopped before all was sent"
            console.print(f"    {escape(report.address)}: {escape(why)}")
    return 1 if any(one["pending"] or one["dead"] for one in document) else 0


def _as_json(report: WorkflowReport) -> dict[str, Any]:
    return {
        "workflow": report.workflow,
        "delivered": report.tally.delivered.total(),
        "pending": sum(waiting for waiting, _ in report.pending.values()),
        "dead": sum(dead for _, dead in report.pending.values()),
        "superseded": report.tally.superseded.total(),
        "seconds": round(report.seconds, 3),
    }
