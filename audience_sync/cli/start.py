from __future__ import annotations

from pathlib import Path

import click

from audience_sync import logs
from audience_sync.config import Config, load_config
from audience_sync.errors import ConfigError
from audience_sync.scheduler import Outcome, Scheduler, Worker
from audience_sync.scheduler.service import serve
from audience_sync.snapshot import Databases
from audience_sync.sync import prepare


@click.command("start")
@click.option(
    "--log",
    type=click.Choice(["auto", "json", "plain"]),
    default="auto",
    show_default=True,
    help="How logs are written to standard error; auto: plain on a terminal, JSON elsewhere.",
)
@click.pass_obj
def command(config: Path, log: str) -> None:
    """Sync each job at its schedule until told to stop.

    SIGTERM and Ctrl-C end it cleanly: calls in flight finish, the rest is kept. jobs.yaml is read again when it
    changes and on SIGHUP; a file that is wrong is told, and the old one stays in use.
    """
    as_json = {"auto": None, "json": True, "plain": False}[log]
    logs.configure(as_json=as_json)
    loaded = load_config(config)
    if not any(job.schedule for job in loaded.jobs):
        raise ConfigError(f"{config}: no job has a schedule", "give one schedule: every 2 hours, or use `run`")
    databases = Databases.open(loaded.source, loaded.state)
    try:
        prepare(loaded, databases)
    finally:
        databases.dispose()
    worker = Worker(log_as_json=as_json)
    scheduler = Scheduler(lambda: load_config(config), worker.run, _told)
    logs.info("started", jobs=len(loaded.jobs), scheduled=sum(job.schedule is not None for job in loaded.jobs))
    serve(scheduler, worker)


def _told(_config: Config, outcome: Outcome) -> None:
    fields = {
        "job": outcome.job,
        "status": outcome.status,
        "seconds": round(outcome.seconds, 3),
        "delivered": sum(d["delivered"] for d in outcome.report.deliveries) if outcome.report else None,
        "pending": sum(d["pending"] for d in outcome.report.deliveries) if outcome.report else None,
        "error": outcome.error,
    }
    (logs.info if outcome.is_good else logs.error)("sync ended", run_id=outcome.run, **fields)
