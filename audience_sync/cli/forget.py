from __future__ import annotations

from pathlib import Path
from typing import IO

import click
from rich.console import Console
from rich.markup import escape

from audience_sync.cli import errors, print_json, tell_stopping
from audience_sync.cli.options import json_option
from audience_sync.cli.progress import Bars
from audience_sync.config import load_config
from audience_sync.delivery.stopping import stop_on_signals
from audience_sync.forget import ForgetReport, forget

SHOWN = 20

users_argument = click.argument("user_ids", nargs=-1, metavar="[USER_ID]...")
file_option = click.option(
    "--file", "file", type=click.File("r", encoding="utf-8"), help="A file with one user id a line; - reads the input."
)


def user_ids_of(given: tuple[str, ...], file: IO[str] | None) -> list[str]:
    """The ids, to the letter: only a line's end is not part of one."""
    ids = [*given, *(line.rstrip("\r\n") for line in file or ())]
    found = [user_id for user_id in dict.fromkeys(ids) if user_id]
    if not found:
        raise click.UsageError("Name at least one user id, or a --file of them.")
    return found


@click.command("forget")
@users_argument
@file_option
@json_option
@click.pass_obj
def command(config: Path, user_ids: tuple[str, ...], file: IO[str] | None, as_json: bool) -> None:
    """Delete users everywhere: here, and at every workflow; no later sync brings them back.

    In one transaction a user leaves what is synced, the outbox, dead letters, attempts and what the relay kept, and
    the delete is recorded for every workflow, with the outbox's guarantees. Only a salted hash of the id is kept.
    Ids that the relay has linked to a user are forgotten with them. The source is yours to clean.

    Exit code 1: not every workflow has acknowledged yet; the rest goes out with the next run. --json is the report
    for the file.
    """
    found = user_ids_of(user_ids, file)
    with stop_on_signals(tell_stopping) as stopping, Bars() as bars:
        report = forget(load_config(config), found, progress=bars, stopping=stopping)
    if as_json:
        print_json(report.as_json())
    _show(report, errors() if as_json else Console(highlight=False, soft_wrap=True))
    raise click.exceptions.Exit(0 if report.is_done else 1)


def _show(report: ForgetReport, console: Console) -> None:
    console.print(f"Forgotten at {report.at}: {len(report.users):,} user{'s' if len(report.users) != 1 else ''}")
    for user in report.users[:SHOWN]:
        was_in = ", ".join(user.erased["in"]) or "in no audience"
        erased = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in _counts(user.erased)) or "nothing"
        console.print(f"  [bold]{escape(user.user_id)}[/]  was in: {escape(was_in)}; erased here: {erased}")
        for workflow, (message, status) in user.calls.items():
            colour = {"acknowledged": "green", "pending": "yellow", "dead": "red"}[status]
            console.print(f"    → {escape(workflow)}  [{colour}]{status}[/]  {message}")
    if len(report.users) > SHOWN:
        console.print(f"  … and {len(report.users) - SHOWN:,} more; --json lists all")
    for key, why in report.still_in.items():
        console.print(f"[yellow]{escape(key)}: the warehouse's last snapshot holds them yet[/]: {escape(why)}")
    for workflow in report.workflows:
        waiting, dead = report.count(workflow, "pending"), report.count(workflow, "dead")
        if waiting:
            console.print(
                f"[yellow]→ {escape(workflow)} has not acknowledged {waiting:,} yet[/]: they are kept, "
                "`audience-sync deliver` goes on"
            )
        if dead:
            console.print(f"[red]→ {escape(workflow)} refused {dead:,}[/]: see `audience-sync dead-letters list`")


def _counts(erased: dict[str, object]) -> list[tuple[str, int]]:
    return [(name, count) for name, count in erased.items() if isinstance(count, int) and count]
