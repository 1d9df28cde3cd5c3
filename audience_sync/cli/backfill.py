from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from pydantic_core import PydanticCustomError
from rich.console import Console
from rich.markup import escape

from audience_sync.backfill import BackfillReport, backfill
from audience_sync.cli import errors, print_json, tell_stopping
from audience_sync.cli.options import json_option
from audience_sync.cli.progress import Bars
from audience_sync.config import load_config
from audience_sync.config.model import calls_a_second
from audience_sync.delivery.stopping import stop_on_signals


class Rate(click.ParamType[float]):
    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return calls_a_second(value)
        except PydanticCustomError as error:
            self.fail(f"{value!r}: {error.message()}", param, ctx)


@click.command("backfill")
@click.option("--audience", "audiences", multiple=True, metavar="NAME", help="Only this audience or trait; repeatable.")
@click.option("--workflow", "workflows", multiple=True, metavar="NAME", help="Only this workflow; repeatable.")
@click.option(
    "--limit", type=click.IntRange(1), help="Write at most so many users of each; the same command then goes on."
)
@click.option("--rate", type=Rate(), help="At most so many calls, such as 50/s; the workflow's own rate holds too.")
@click.option("--include-exited", is_flag=True, help="Tell also who was in and is not any more.")
@json_option
@click.pass_obj
def command(
    config: Path,
    audiences: tuple[str, ...],
    workflows: tuple[str, ...],
    limit: int | None,
    rate: float | None,
    include_exited: bool,
    as_json: bool,
) -> None:
    """Send workflows all current members, as the last sync left them, and not only changes.

    For a workflow that lost what it was told. A workflow that is new in jobs.yaml needs no backfill: its first sync
    tells it of all members. Interrupted in any way, the same command goes on from where it was. Exit code 1: not
    all is delivered yet.
    """
    loaded = load_config(config)
    with stop_on_signals(tell_stopping) as stopping, Bars() as bars:
        report = backfill(
            loaded,
            audiences=audiences,
            workflows=workflows,
            limit=limit,
            rate=rate,
            include_exited=include_exited,
            progress=bars,
            stopping=stopping,
        )
    if as_json:
        print_json(report.as_json())
    _show(report, errors() if as_json else Console(highlight=False, soft_wrap=True))
    raise click.exceptions.Exit(0 if report.is_done else 1)


def _show(report: BackfillReport, console: Console) -> None:
    for pair in report.pairs:
        if not (pair.written or pair.finished):
            continue
        before = f", after {pair.resumed:,} before" if pair.resumed else ""
        rest = "" if pair.finished else "  [yellow]not all yet: the same command goes on[/]"
        console.print(f"  {escape(pair.key)} → [bold]{escape(pair.workflow)}[/]  {pair.written:,} users{before}{rest}")
    for name, count in report.delivered.items():
        words = [f"{count:,} delivered"]
        words += [f"[yellow]{report.pending[name]:,} pending[/]"] if report.pending[name] else []
        words += [f"[yellow]{report.dead[name]:,} dead[/]"] if report.dead[name] else []
        console.print(f"  → [bold]{escape(name)}[/]  " + ", ".join(words))
    if report.stopped:
        console.print(f"[red]{escape(report.stopped)}[/]; what is left is kept: run the same command to go on")
