from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audience_sync.cli import print_json
from audience_sync.cli.options import json_option
from audience_sync.cli.report import mark
from audience_sync.clock import ago, lasted
from audience_sync.config import load_config
from audience_sync.history import past_syncs
from audience_sync.state.reading import reading
from audience_sync.sync.checks import chosen_jobs


@click.command("history")
@click.argument("jobs", nargs=-1)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="At most so many syncs.")
@json_option
@click.pass_obj
def command(config: Path, jobs: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Show past syncs of each JOB (default: all), the newest first: sizes, changes, deliveries, how long they took."""
    loaded = load_config(config)
    chosen = [job.key for job in chosen_jobs(loaded, jobs)] if jobs else []
    with reading(loaded.state) as connection:
        found = [] if connection is None else past_syncs(connection, loaded.state, chosen, limit)
    if as_json:
        print_json({"syncs": found})
        return
    console = Console(highlight=False, soft_wrap=True)
    if not found:
        console.print("Nothing was synced yet: `audience-sync run`")
    for sync in found:
        _show(console, sync)


def _show(console: Console, sync: dict[str, Any]) -> None:
    took = "" if sync["seconds"] is None else f", took {lasted(sync['seconds'])}"
    console.print(
        f"\n[bold]{escape(sync['job'])}[/]  #{sync['sync']} as of {sync['as_of']}  {mark(sync['status'])}"
        f"  [dim]started {ago(sync['started_at'])}{took}[/]"
    )
    if sync["computations"]:
        table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
        table.add_column(overflow="fold", min_width=24)
        for _ in range(4):
            table.add_column(justify="right")
        table.add_column()
        for found in sync["computations"]:
            table.add_row(
                escape(found["key"]),
                f"{found['size']:,}",
                *(
                    f"[{colour}]{sign}{found[word]:,}[/]" if found[word] else "·"
                    for word, colour, sign in (("entered", "green", "+"), ("exited", "red", "−"))
                ),
                f"[yellow]~{found['changed']:,}[/]" if found["changed"] else "·",
                f"[yellow]held: {escape(found['held_because'] or 'by the guard')}[/]"
                if found["held"]
                else ("first sync" if found["initial"] else ""),
            )
        console.print(table)
    for told in sync["deliveries"]:
        words = [f"{told['delivered']:,} delivered in {lasted(told['seconds'])}"]
        words += [f"[yellow]{told[word]:,} {word}[/]" for word in ("pending", "dead") if told[word]]
        words += [f"{told['superseded']:,} superseded"] if told["superseded"] else []
        console.print(f"    → {escape(told['workflow'])}  " + ", ".join(words))
    if sync["error"]:
        console.print(f"    [red]{escape(sync['error'])}[/]")
    if sync["status"] == "killed":
        console.print("    Its process ended before it did; what it recorded is kept and is delivered by the next run.")
