from __future__ import annotations

import tempfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audience_sync import sample_shop
from audience_sync.cli.listen import line
from audience_sync.cli.progress import Bars
from audience_sync.config import load_config
from audience_sync.receiver import Call, Receiver, Serving
from audience_sync.sync import RunReport, run

SIMULATED_DAYS = 7
SHOWN_CALLS = 4


@click.command("demo")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Leave the shop and jobs.yaml in this new folder.",
)
def command(keep: Path | None) -> None:
    """See a real run, end to end: a sample shop, a first sync and a week of later ones, and the calls arriving."""
    console = Console(highlight=False, soft_wrap=True)
    started = time.monotonic()
    if keep is not None:
        if keep.exists() and any(keep.iterdir()):
            raise click.UsageError(f"{keep} is not empty")
        keep.mkdir(parents=True, exist_ok=True)
        play(keep, console)
    else:
        with tempfile.TemporaryDirectory(prefix="audience-sync-demo-") as folder:
            play(Path(folder), console)
    left = (
        f"The shop, jobs.yaml and the state are in {keep}; `audience-sync listen` stands in for the workflows."
        if keep
        else "The shop was in a temporary folder and is gone."
    )
    console.print(f"\nThat took {time.monotonic() - started:.0f} s. {left}")
    console.print(
        "Your own: [bold]audience-sync init[/], edit jobs.yaml, then [bold]audience-sync plan[/] and [bold]run[/]."
    )


def play(folder: Path, console: Console) -> None:
    sample_shop.fill(f"sqlite:///{folder}/shop.db")
    console.print(
        f"[bold]1. A sample shop[/] with {sample_shop.CUSTOMERS:,} customers and {sample_shop.DAYS} days of orders, "
        "and two stand-in Tray workflows, crm and ads."
    )
    receiver = Receiver(shared_secret="demo-secret")
    first = datetime.combine(sample_shop.OPENED, datetime.min.time(), UTC) + timedelta(
        days=sample_shop.DAYS - SIMULATED_DAYS
    )
    with Serving(receiver) as url:
        path = folder / "jobs.yaml"
        path.write_text(sample_shop.JOBS_YAML, encoding="utf-8")
        config = load_config(path, {"TRAY_URL": url})
        names = [audience.name for job in config.jobs for audience in job.audiences]
        console.print(f"   Its jobs.yaml names {len(names)} audiences: {', '.join(names)}.\n")
        console.print("[bold]2. The first sync[/] tells both workflows about every member.")
        table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
        for title in ("day", "calls", "entered", "left", "members", "seconds"):
            table.add_column(title, justify="left" if title == "day" else "right")
        before = 0
        for day in range(SIMULATED_DAYS + 1):
            instant = first + timedelta(days=day)
            begun = time.monotonic()
            with Bars() as bars:
                report = run(config, [], instant, progress=bars)
            arrived = receiver.calls[before:]
            before = len(receiver.calls)
            _show_calls(console, arrived)
            if day == 0:
                console.print(f"   … {len(arrived):,} calls in all.\n")
                console.print(
                    f"[bold]3. {SIMULATED_DAYS} simulated days[/]: each sync tells only who entered or left, "
                    "each workflow once."
                )
            table.add_row(*_row(instant, report, arrived, time.monotonic() - begun))
    console.print("\n[bold]4. What happened[/]")
    console.print(table)
    _prove(console, receiver, report)


def _show_calls(console: Console, calls: list[Call]) -> None:
    entered = [call for call in calls if True in call.body["traits"].values()]
    left = [call for call in calls if False in call.body["traits"].values()]
    half = SHOWN_CALLS // 2
    for call in _spread(entered, SHOWN_CALLS - min(half, len(left))) + _spread(left, half):
        console.print("   " + line(call))


def _spread(calls: list[Call], count: int) -> list[Call]:
    """Some of the calls from all over, so that more than one audience and workflow is seen."""
    return calls[:: max(1, -(-len(calls) // count))][:count]


def _row(instant: datetime, report: RunReport, calls: list[Call], seconds: float) -> list[str]:
    found = report.jobs[0].computations
    return [
        f"{instant:%a %d %b}" + ("  first sync" if found[0].initial else ""),
        f"{len(calls):,}",
        f"[green]{sum(c.entered for c in found):,}[/]",
        f"[red]{sum(c.exited for c in found):,}[/]",
        f"{sum(c.size for c in found):,}",
        f"{seconds:.1f}",
    ]


def _prove(console: Console, receiver: Receiver, report: RunReport) -> None:
    """Hold what the workflows were told against what the last sync computed."""
    members = Counter((path, key) for (path, _, key), value in receiver.told.items() if value is True)
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("audience", overflow="fold")
    for title in ("in the database", "told to crm", "told to ads"):
        table.add_column(title, justify="right")
    right = True
    for found in report.jobs[0].computations:
        told = [members["/crm", found.key], members["/ads", found.key]]
        right = right and all(count == found.size for count in told)
        table.add_row(escape(found.key), f"{found.size:,}", *(f"{count:,}" for count in told))
    signed = all(call.signature == "ok" for call in receiver.calls)
    console.print()
    console.print(table)
    if not (right and signed):
        raise click.ClickException("the workflows' picture differs from the database: please report this")
    console.print("[green]✓[/] Both workflows know exactly who is in, and every call was signed.")
