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
from audience_sync.clock import ago
from audience_sync.config import load_config
from audience_sync.status import look


@click.command("status")
@json_option
@click.pass_obj
def command(config: Path, as_json: bool) -> None:
    """Show where things stand: what is behind, why, and what to do."""
    found = look(load_config(config))
    if as_json:
        print_json(found)
        return
    console = Console(highlight=False, soft_wrap=True)
    for job in found["jobs"]:
        _show_job(console, job)
    if found["workflows"]:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for title in ("workflow", "", "pending", "dead", "last acknowledged", "last error"):
            table.add_column(title, justify="right" if title in ("pending", "dead") else "left", overflow="fold")
        for item in found["workflows"]:
            table.add_row(
                escape(item["workflow"]),
                _standing(item),
                f"{item['pending']:,}",
                f"{item['dead']:,}",
                ago(item["last_acknowledged_at"]),
                escape(item["last_error"] or ""),
            )
        console.print()
        console.print(table)
    if found["relay"]:
        _show_relay(console, found["relay"])
    console.print()
    if found["advice"]:
        for advice in found["advice"]:
            console.print(f"[yellow]→[/] {escape(advice)}")
    else:
        console.print("[green]✓[/] nothing is behind; nothing to do")


def _standing(workflow: dict[str, Any]) -> str:
    if workflow["paused_since"]:
        return f"[red]paused {ago(workflow['paused_since'])}[/]"
    if workflow["breaker_open_since"]:
        return f"[red]breaker open, opened {ago(workflow['breaker_open_since'])}[/]"
    if workflow["pending"]:
        return "[yellow]behind[/]" if workflow["last_error"] else "[cyan]delivering[/]"
    return "[green]up to date[/]"


def _show_job(console: Console, job: dict[str, Any]) -> None:
    last = job["last_sync"]
    when = f"{mark(last['status'])} {ago(last['started_at'])}, as of {last['as_of']}" if last else "never synced"
    if not job["in_config"]:
        when += "  [yellow]not in jobs.yaml[/]"
    elif job["late"]:
        when += f"  [yellow]late: was due {ago(job['next_run'])}[/]"
    elif job["next_run"]:
        when += f"  [dim]next {ago(job['next_run'])}[/]"
    console.print(f"\n[bold]{escape(job['name'])}[/]  {when}")
    for item in job["computations"]:
        remarks = [word for word in ("held", "removed") if item[word]]
        console.print(
            f"  {escape(item['key'])}  {item['size']:,}" + (f"  [yellow]{', '.join(remarks)}[/]" if remarks else "")
        )


def _show_relay(console: Console, relay: dict[str, Any]) -> None:
    console.print(f"\n[bold]relay[/]  {mark(relay['status'])} {ago(relay['started_at'])}")
    outcomes: dict[str, int] = {}
    for item in relay["messages"]:
        outcome = item["outcome"] + (f" {item['workflow']}" if item["workflow"] else "")
        outcomes[outcome] = outcomes.get(outcome, 0) + item["count"]
    if outcomes:
        shown = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items(), reverse=True))
        console.print(f"  {escape(shown)}")
