from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from audience_sync.cli import print_json
from audience_sync.cli.options import json_option
from audience_sync.computations import Catalog, in_words
from audience_sync.computations.names import Unseen, unseen_events
from audience_sync.config import Config, Job, check_config, load_config
from audience_sync.config.schedule import next_runs
from audience_sync.database import is_sqlite, open_state, sqlite_path, told
from audience_sync.redact import database_address, web_address
from audience_sync.snapshot import Databases
from audience_sync.state import schema
from audience_sync.sync import compile_jobs


@click.command("validate")
@click.option("--connect", is_flag=True, help="Check the databases, tables and columns too.")
@click.option("--check", is_flag=True, help="Only check, without a word when all is right; unset variables pass (CI).")
@json_option
@click.pass_obj
def command(config: Path, connect: bool, check: bool, as_json: bool) -> None:
    """Check jobs.yaml, and say what each audience in it means."""
    if check:
        if connect or as_json:
            raise click.UsageError("--check only checks the file; it stands alone")
        check_config(config)
        return
    loaded = load_config(config)
    now = datetime.now(UTC)
    unseen = _connect(loaded, now) if connect else []
    if as_json:
        print_json(
            {
                "valid": True,
                "connected": connect,
                "jobs": [_job_json(loaded, job, now) for job in loaded.jobs],
                "warnings": [_warning(found) for found in unseen],
                "workflows": [{"workflow": n, "address": web_address(w.url)} for n, w in loaded.workflows.items()],
            }
        )
        return
    console = Console(highlight=False, soft_wrap=True)
    for job in loaded.jobs:
        console.print(f"\n[bold]{escape(job.name)}[/]  →  {escape(', '.join(loaded.job_workflows(job)))}")
        if job.schedule is None:
            console.print("  runs only by hand: it has no schedule:", style="dim")
        else:
            runs = ", ".join(f"{run:%a %d %b %H:%M %Z}" for run in next_runs(job.schedule, job.timezone, now))
            console.print(f"  {escape(job.schedule)}: next {runs}", style="dim")
        for computed in job.computed:
            console.print(f"  [cyan]{escape(computed.key)}[/]  {escape(computed.name)}: {escape(in_words(computed))}")
    if unseen:
        console.print()
    for found in unseen:
        console.print(f"[yellow]warning[/] {escape(_warning(found))}")
    console.print(f"\nsource {escape(database_address(loaded.source.url))}", style="dim")
    console.print(f"state  {escape(database_address(loaded.state))}", style="dim")
    console.print(
        f"[green]✓[/] {escape(str(config))} is right" + (", and the databases have all it names" if connect else "")
    )


def _job_json(config: Config, job: Job, now: datetime) -> dict[str, object]:
    return {
        "job": job.key,
        "name": job.name,
        "schedule": job.schedule,
        "next_runs": [run.isoformat() for run in next_runs(job.schedule, job.timezone, now)] if job.schedule else [],
        "workflows": config.job_workflows(job),
        "computations": [
            {
                "key": computed.key,
                "name": computed.name,
                "class": "audience" if computed in job.audiences else "computed_trait",
                "rule": in_words(computed),
            }
            for computed in job.computed
        ],
    }


def _warning(found: Unseen) -> str:
    near = f"; there are {', '.join(found.nearest)}" if found.nearest else ""
    return f"{found.asked_by}: nobody ever did {found.event!r}{near}"


def _connect(config: Config, now: datetime) -> list[Unseen]:
    """Check what the file names in both databases; what is no mistake, but looks like one, is returned."""
    if config.reads_relay and is_sqlite(config.state) and not sqlite_path(config.state).exists():
        return []  # the relay or the first run makes it; checking must not
    databases = Databases.open(config.source, config.state)
    try:
        compile_jobs(config, databases, config.jobs, now)
        with told("source", config.source.url), databases.source.connect() as connection:
            unseen = unseen_events(config, Catalog(databases.source), connection)
    finally:
        databases.dispose()
    if is_sqlite(config.state) and not sqlite_path(config.state).exists():
        return unseen  # the first run makes it; checking must not
    with told("state", config.state):
        engine = open_state(config.state)
        try:
            with engine.connect() as connection:
                schema.refuse_newer(schema.version(connection))
        finally:
            engine.dispose()
    return unseen
