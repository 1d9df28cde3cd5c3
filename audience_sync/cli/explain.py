from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from audience_sync.cli import print_json
from audience_sync.cli.looking import audience_of, facts_in_words, looking
from audience_sync.cli.options import as_of_option, instant_or_now, json_option
from audience_sync.computations.explain import Reason, explain
from audience_sync.config import load_config
from audience_sync.sync import instant_text


@click.command("explain")
@click.argument("user_id")
@click.argument("audience")
@as_of_option
@json_option
@click.pass_obj
def command(config: Path, user_id: str, audience: str, as_of: datetime | None, as_json: bool) -> None:
    """Say why USER_ID is in AUDIENCE or is not, condition by condition, with the numbers.

    It reads the source as it is now; what workflows were told is another question: `audience-sync show USER_ID`.
    """
    loaded = load_config(config)
    wanted, instant = audience_of(loaded, audience), instant_or_now(as_of)
    with looking(loaded) as (catalog, connection):
        reason = explain(loaded, catalog, connection, wanted, user_id, instant)
    if as_json:
        print_json(
            {
                "user_id": user_id,
                "audience": wanted.key,
                "as_of": instant_text(instant),
                "member": reason.holds,
                "because": reason.as_json(),
            }
        )
        return
    console = Console(highlight=False, soft_wrap=True)
    state = "[green]is in[/]" if reason.holds else "[red]is not in[/]"
    console.print(f"[bold]{escape(user_id)}[/] {state} [bold]{escape(wanted.name)}[/] as of {instant_text(instant)}")
    _show(console, reason, 1)


def _show(console: Console, reason: Reason, depth: int) -> None:
    mark = "[green]✓[/]" if reason.holds else "[red]✗[/]"
    facts = facts_in_words(reason.facts)
    shown = f"  [dim]{escape(facts)}[/]" if facts else ""
    console.print(f"{'  ' * depth}{mark} {escape(reason.rule)}{shown}")
    for part in reason.parts:
        _show(console, part, depth + 1)
