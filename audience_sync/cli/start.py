from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import click

from audience_sync import logs
from audience_sync.alerts import Alerter
from audience_sync.cli.options import serving_options
from audience_sync.cli.page import access_for
from audience_sync.config import Config, load_config
from audience_sync.errors import ConfigError
from audience_sync.scheduler import Outcome, Scheduler, Worker
from audience_sync.scheduler.service import serve
from audience_sync.sync import open_databases, prepare
from audience_sync.web import Web, make_app
from audience_sync.web.metrics import Metrics
from audience_sync.web.source import Source


@click.command("start")
@serving_options
@click.option(
    "--log",
    type=click.Choice(["auto", "json", "plain"]),
    default="auto",
    show_default=True,
    help="How logs are written to standard error; auto: plain on a terminal, JSON elsewhere.",
)
@click.option("--relay", "with_relay", is_flag=True, help="Take calls of Segment's own clients too, as `relay` does.")
@click.option("--relay-host", default="127.0.0.1", show_default=True)
@click.option("--relay-port", default=8090, show_default=True, type=click.IntRange(0, 65535))
@click.pass_obj
def command(config: Path, host: str, port: int, log: str, with_relay: bool, relay_host: str, relay_port: int) -> None:
    """Sync each job at its schedule until told to stop; serve the page, /healthz, /readyz and /metrics.

    SIGTERM and Ctrl-C end it cleanly: calls in flight finish, the rest is kept. jobs.yaml is read again when it
    changes and on SIGHUP; a file that is wrong is told, and the old one stays in use.
    """
    as_json = {"auto": None, "json": True, "plain": False}[log]
    logs.configure(as_json=as_json)
    loaded = load_config(config)
    if not any(job.schedule for job in loaded.jobs):
        raise ConfigError(f"{config}: no job has a schedule", "give one schedule: every 2 hours, or use `run`")
    access = access_for(host)
    databases = open_databases(loaded)
    try:
        prepare(loaded, databases)
    finally:
        databases.dispose()
    alerter = Alerter()
    worker = Worker(log_as_json=as_json)

    def told(config: Config, outcome: Outcome) -> None:
        _log(outcome)
        metrics.ended(outcome)
        source.forget()
        deliveries = outcome.report.deliveries if outcome.report else []
        dead = {delivery["workflow"]: delivery["dead"] for delivery in deliveries}
        alerter.ended(config, outcome.job, outcome.status, outcome.error, dead)

    scheduler = Scheduler(lambda: load_config(config), worker.run, told)
    source = Source(
        lambda: scheduler.config,
        config_error=lambda: scheduler.config_error,
        running=lambda: list(scheduler.running),
        run_now=scheduler.run_now,
        deliver_now=lambda: scheduler.call_soon(worker.deliver),
    )
    metrics = Metrics(source)

    def look_for_late_ones() -> None:
        if scheduler.config.alerts is not None:
            for key, due in scheduler.due().items():
                alerter.due(scheduler.config, key, due, datetime.now(UTC))

    with ExitStack() as stack:
        if with_relay:
            from audience_sync.cli.relay import beside

            stack.enter_context(beside(loaded, relay_host, relay_port))
        url = stack.enter_context(Web(make_app(source, access, metrics), host, port))
        scheduled = sum(job.schedule is not None for job in loaded.jobs)
        logs.info("started", page=url, jobs=len(loaded.jobs), scheduled=scheduled)
        serve(scheduler, worker, look_for_late_ones)


def _log(outcome: Outcome) -> None:
    deliveries = outcome.report.deliveries if outcome.report else []
    (logs.info if outcome.is_good else logs.error)(
        "sync ended",
        run_id=outcome.run,
        job=outcome.job,
        status=outcome.status,
        seconds=round(outcome.seconds, 3),
        delivered=sum(d["delivered"] for d in deliveries) if outcome.report else None,
        pending=sum(d["pending"] for d in deliveries) if outcome.report else None,
        dead=sum(d["dead"] for d in deliveries) if outcome.report else None,
        error=outcome.error,
    )
