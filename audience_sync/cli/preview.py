from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audience_sync.cli import print_json
from audience_sync.cli.looking import audience_of, facts_in_words, looking
from audience_sync.cli.options import as_of_option, instant_or_now, json_option
from audience_sync.computations import in_words
from audience_sync.computations.explain import Reason
from audience_sync.computations.preview import Preview, preview
from audience_sync.config import Audience, load_config
from audience_sync.sync import instant_text

_BARS = "▁▂▃▄▅▆▇█"


@click.command("preview")
@click.argument("audience")
@click.option("--days", type=click.IntRange(0, 366), default=14, show_default=True, help="Sizes of so many past days.")
@click.option("--members", type=click.IntRange(0, 100), default=5, show_default=True, help="So many members, with why.")
@as_of_option
@json_option
@click.pass_obj
def command(config: Path, audience: str, days: int, members: int, as_of: datetime | None, as_json: bool) -> None:
    """Show who is in AUDIENCE: how many, a few of them with why, past days, overlap. Sends and writes nothing."""
    loaded = load_config(config)
    wanted, instant = audience_of(loaded, audience), instant_or_now(as_of)
    with looking(loaded) as (catalog, connection):
        found = preview(loaded, catalog, connection, wanted, instant, days=days, members=members)
    if as_json:
        print_json(_json(wanted, instant, found))
    else:
        _show(Console(highlight=False, soft_wrap=True), wanted, instant, found)


def _json(audience: Audience, instant: datetime, found: Preview) -> dict[str, Any]:
    return {
        "audience": audience.key,
        "as_of": instant_text(instant),
        "rule": in_words(audience),
        "size": found.size,
        "everyone": found.everyone,
        "share": found.size / found.everyone if found.everyone else None,
        "members": [{"user_id": user, "because": reason.as_json()} for user, reason in found.members],
        "days": [{"as_of": instant_text(day), "size": size} for day, size in found.days],
        "overlap": [{"audience": name, "size": size, "both": both} for name, size, both in found.overlap],
    }


def _show(console: Console, audience: Audience, instant: datetime, found: Preview) -> None:
    share = f", {found.size / found.everyone:.1%} of {found.everyone:,} people" if found.everyone else ""
    console.print(f"[bold]{escape(audience.name)}[/] as of {instant_text(instant)}: [bold]{found.size:,}[/]{share}")
    console.print(f"  {escape(in_words(audience))}", style="dim")
    if found.days:
        sizes = [size for _, size in found.days]
        console.print(
            f"\n  {sparkline(sizes)}  {found.days[0][0]:%d %b} to {found.days[-1][0]:%d %b}: "
            f"{sizes[0]:,} → {sizes[-1]:,}, between {min(sizes):,} and {max(sizes):,}"
        )
    if found.members:
        console.print("\n  Some of them")
    for user, reason in found.members:
        facts = "; ".join(_facts(reason))
        console.print(f"    [cyan]{escape(user)}[/]" + (f"  {escape(facts)}" if facts else ""))
    if found.overlap:
        table = Table(box=None, header_style="dim", padding=(0, 2, 0, 2))
        table.add_column("also in", overflow="fold")
        for title in ("both", "of this", "of that"):
            table.add_column(title, justify="right")
        for name, size, both in found.overlap:
            table.add_row(escape(name), f"{both:,}", _share(both, found.size), _share(both, size))
        console.print()
        console.print(table)


def _facts(reason: Reason) -> list[str]:
    """What was found of a member, of each condition that holds and tells something."""
    if reason.parts:
        return [fact for part in reason.parts for fact in _facts(part)]
    return [facts_in_words(reason.facts)] if reason.facts and reason.holds else []


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "·"


def sparkline(sizes: list[int]) -> str:
    """Bars from the smallest of the sizes to the largest; of equal sizes all are in the middle."""
    low, high = min(sizes), max(sizes)
    if low == high:
        return _BARS[3] * len(sizes)
    return "".join(_BARS[round((size - low) / (high - low) * (len(_BARS) - 1))] for size in sizes)
