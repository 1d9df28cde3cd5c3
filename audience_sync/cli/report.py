"""Reports of plan and run, for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audience_sync.sync import ComputationReport, RunReport, instant_text

_MARK = {
    "succeeded": "[green]✓ succeeded[/]",
    "undelivered": "[yellow]… undelivered[/]",
    "held": "[yellow]‖ held[/]",
    "failed": "[red]✗ failed[/]",
    "skipped": "[yellow]– skipped[/]",
    "running": "[cyan]▸ running[/]",
    "killed": "[red]✗ killed[/]",
}


def mark(status: str) -> str:
    """A sync's status with its sign and colour."""
    return _MARK[status]


def show(report: RunReport, console: Console, *, planned: bool) -> None:
    for job in report.jobs:
        state = "[cyan]plan[/]" if planned and job.status == "succeeded" else mark(job.status)
        console.print(f"\n[bold]{escape(job.name)}[/] as of {instant_text(report.as_of)}  {state}")
        if job.computations:
            table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
            table.add_column("audience or trait", overflow="fold", no_wrap=False, min_width=24)
            for title in ("size", "entered", "exited", "changed"):
                table.add_column(title, justify="right")
            table.add_column("")
            for found in job.computations:
                table.add_row(
                    escape(found.key),
                    f"{found.size:,}",
                    _count(found.entered, "green", "+"),
                    _count(found.exited, "red", "−"),
                    _count(found.changed, "yellow", "~"),
                    _remark(found, planned),
                )
            console.print(table)
        for found in job.computations:
            for note in _notes(found):
                console.print(f"    {escape(found.key)} {escape(note)}", style="yellow")
        if planned:
            for found in job.computations:
                for kind, ids in found.samples.items():
                    console.print(f"    {escape(found.key)} {kind}: {escape(', '.join(ids))}", style="dim")
            if not any(c.entered or c.exited or c.changed for c in job.computations):
                console.print("  Nothing to do: everyone is where they were at the last sync.")
        for delivery in job.deliveries:
            show_delivery(delivery, console)
        if job.error:
            for line in job.errors or [job.error]:
                console.print(f"  [red]{escape(line)}[/]")
            if any(delivery["pending"] for delivery in job.deliveries):
                console.print("  What is pending is kept; the next run goes on with it.")
        if any(c.held for c in job.computations):
            console.print(
                "  Held changes are not sent. Look at `audience-sync plan`; to send them: --allow-large-change"
            )


def show_delivery(delivery: dict[str, Any], console: Console) -> None:
    """One workflow's line, of a run or of a delivery alone."""
    words = [f"{delivery['delivered']:,} delivered in {delivery['seconds']:.1f} s"]
    for word in ("pending", "dead", "superseded"):
        if delivery[word]:
            words.append(f"[yellow]{delivery[word]:,} {word}[/]")
    console.print(f"  → [bold]{escape(delivery['workflow'])}[/]  " + ", ".join(words))


def _count(number: int, colour: str, sign: str) -> str:
    return f"[{colour}]{sign}{number:,}[/]" if number else "·"


def _remark(found: ComputationReport, planned: bool) -> str:
    words = []
    if found.removed:
        words.append(
            "no longer in jobs.yaml: " + ("its members are told false" if found.exited else "kept, nothing sent")
        )
    if found.initial:
        words.append("first sync")
    if found.redefined:
        words.append("definition changed")
    if found.missed:
        words.append(
            f"[yellow]{found.missed:,} of these had been missed between full comparisons: "
            "rows are changed, deleted or late in ways that arrived_at or changed_since does not tell[/]"
        )
    if found.held:
        words.append(f"[yellow]held: {found.held_because}[/]")
    if found.skipped_ids:
        words.append(f"{found.skipped_ids:,} rows without a user id left out")
    return "; ".join(words)


def _notes(found: ComputationReport) -> list[str]:
    """What takes a line of its own: whose change is a new rule's doing and not time's; which key it was before."""
    notes = []
    if found.by_rule is not None:
        parts = []
        for count, some, does in (
            (found.by_rule.entered, found.by_rule.some_entered, "in"),
            (found.by_rule.exited, found.by_rule.some_exited, "out"),
        ):
            if count:
                more = ", …" if count > len(some) else ""
                parts.append(f"{count:,} {does} because of it ({', '.join(some)}{more})")
        notes.append("definition changed: " + (", ".join(parts) or "nobody in or out because of it"))
    if found.formerly is not None:
        notes.append(f"until now it was {found.formerly}: to go on under that key, write key: {found.formerly}")
    return notes
