from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audience_sync.cli import print_json
from audience_sync.cli.options import json_option
from audience_sync.clock import ago
from audience_sync.config import load_config
from audience_sync.show import what_is_known
from audience_sync.state.reading import reading

COLOUR = {
    "acknowledged": "green",
    "superseded": "dim",
    "pending": "yellow",
    "waiting": "yellow",
    "dead": "red",
    "discarded": "red",
}


@click.command("show")
@click.argument("user_id")
@json_option
@click.pass_obj
def command(config: Path, user_id: str, as_json: bool) -> None:
    """Show what each workflow was told about a user, when, and with which messageId.

    It reaches as far back as `retention: deliveries:` keeps what was acknowledged. The id is taken to the letter.
    """
    loaded = load_config(config)
    with reading(loaded.state) as connection:
        found = {"user_id": user_id, "forgotten": False, "now": [], "unknown": None, "told": []}
        if connection is not None:
            found = what_is_known(connection, user_id, loaded)
    if as_json:
        print_json(found)
        return
    _show(found, str(loaded.retention.deliveries), Console(highlight=False, soft_wrap=True))


def _show(found: dict[str, Any], kept: str, console: Console) -> None:
    console.print(f"[bold]{escape(found['user_id'])}[/]" + ("  [red]forgotten[/]" if found["forgotten"] else ""))
    for item in found["now"]:
        value = "" if item["value"] is True else f" = {json.dumps(item['value'], ensure_ascii=False)}"
        console.print(f"  in [cyan]{escape(item['key'])}[/]{escape(value)}")
    if found["unknown"]:
        console.print(f"  [red]what they are in is not known now[/]: {escape(found['unknown'])}")
    elif not found["now"]:
        console.print("  in no audience, by the last sync")
    if not found["told"]:
        console.print(f"  Nothing was told about them within {kept} (retention: deliveries:).")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("when", "workflow", "told", "status", "messageId"):
        table.add_column(title, overflow="fold")
    for one in found["told"]:
        status = f"[{COLOUR[one['status']]}]{one['status']}[/]"
        if one["failed_attempts"]:
            status += f" after {len(one['failed_attempts'])} failed: {escape(one['failed_attempts'][-1]['error'])}"
        table.add_row(
            ago(one["at"] or one["recorded_at"]),
            escape(one["workflow"]),
            f"{escape(one['key'])} = {escape(json.dumps(one['value'], ensure_ascii=False))}",
            status,
            one["message_id"],
        )
    console.print()
    console.print(table)
