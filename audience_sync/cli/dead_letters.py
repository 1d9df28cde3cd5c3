from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from audience_sync.cli import print_json
from audience_sync.cli.deliver import deliver_now
from audience_sync.cli.options import json_option
from audience_sync.clock import ago, utcnow
from audience_sync.config import Config, load_config
from audience_sync.config.durations import Duration, parse_duration
from audience_sync.database import open_state, told, writing
from audience_sync.outbox.dead_letters import Chosen, discard_dead, list_dead, retry_dead
from audience_sync.state.reading import reading


class Age(click.ParamType[Duration]):
    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Duration:
        try:
            return parse_duration(value)
        except ValueError:
            self.fail(f"{value!r} is not an age; write a number and a unit, such as '2 days'", param, ctx)


def filters(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--newer-than", type=Age(), metavar="AGE", help="Given up on within so long, such as '2 hours'."),
        click.option("--older-than", type=Age(), metavar="AGE", help="Given up on so long ago, such as '2 days'."),
        click.option("--status", "statuses", multiple=True, type=int, metavar="CODE", help="Last answered so."),
        click.option("--user", "users", multiple=True, metavar="USER_ID", help="Of this user."),
        click.option("--computation", "keys", multiple=True, metavar="KEY", help="Of this audience or trait."),
        click.option("--workflow", "names", multiple=True, metavar="NAME", help="To this workflow."),
    ):
        command = option(command)
    return command


def chosen(config: Config, given: dict[str, Any]) -> Chosen:
    config.workflows_named(given["names"])  # a filter that matches nothing by mistake would say that all is well
    now = utcnow()
    return Chosen(
        workflows=given["names"],
        keys=given["keys"],
        users=given["users"],
        statuses=given["statuses"],
        before=given["older_than"] and given["older_than"].before(now),
        after=given["newer_than"] and given["newer_than"].before(now),
    )


@click.group("dead-letters")
def command() -> None:
    """Look at what was given up on, and retry or discard it. Filters may be given several times and together."""


@command.command("list")
@filters
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="At most so many.")
@json_option
@click.pass_obj
def list_(config: Path, /, limit: int, as_json: bool, **given: Any) -> None:
    """Show what was given up on, the newest first, with each attempt."""
    loaded = load_config(config)
    which = chosen(loaded, given)
    with reading(loaded.state) as connection:
        found = [] if connection is None else list_dead(connection, which, limit)
    if as_json:
        print_json({"dead_letters": found})
        return
    console = Console(highlight=False, soft_wrap=True)
    if not found:
        console.print("[green]✓[/] no dead letters" + ("" if which.is_all else " of this kind"))
        return
    for letter in found:
        console.print(
            f"\n[bold]{escape(letter['workflow'])}[/]  {escape(letter['user_id'])}  "
            f"{escape(letter['key'])} = {escape(letter['value'])}  [dim]{letter['message_id']}[/]\n"
            f"  [red]{escape(letter['error'] or '')}[/]; given up on {ago(letter['dead_at'])}"
        )
        for tried in letter["tried"]:
            said = f": {tried['answer'].strip()[:200]}" if tried["answer"] else ""
            console.print(
                f"  [dim]{tried['at'][:19]}  {tried['seconds'] * 1000:,.0f} ms  {escape(tried['error'] + said)}[/]"
            )
    if len(found) == limit:
        console.print(f"\nThe newest {limit:,}; more with --limit")
    console.print("\nTo send them again: `audience-sync dead-letters retry`; to drop them: `dead-letters discard`")


@command.command("retry")
@filters
@json_option
@click.pass_obj
def retry(config: Path, /, as_json: bool, **given: Any) -> None:
    """Send them again now (without filters: all). A user's newer value is never undone: what is sent is the newest."""
    loaded = load_config(config)
    which = chosen(loaded, given)
    count = _change(loaded, lambda connection: retry_dead(connection, which, utcnow()))
    if not count:
        if as_json:
            print_json({"retried": 0, "deliveries": []})
        else:
            click.echo("there is none of this kind")
        return
    click.echo(f"{count:,} to be sent again", err=as_json)
    raise click.exceptions.Exit(deliver_now(loaded, given["names"], as_json=as_json))


@command.command("discard")
@filters
@click.option("--all", "everything", is_flag=True, help="All of them; needed where no filter is given.")
@json_option
@click.pass_obj
def discard(config: Path, /, everything: bool, as_json: bool, **given: Any) -> None:
    """Drop them for good. The workflow is not told what they said, until the user's value changes again."""
    loaded = load_config(config)
    which = chosen(loaded, given)
    if which.is_all and not everything:
        raise click.UsageError("say which, by a filter such as --workflow, or --all")
    count = _change(loaded, lambda connection: discard_dead(connection, which))
    if as_json:
        print_json({"discarded": count})
    else:
        click.echo(f"{count:,} discarded")


def _change(config: Config, work: Callable[[Any], int]) -> int:
    with reading(config.state) as connection:
        if connection is None:
            return 0
    with told("state", config.state):
        engine = open_state(config.state)
        try:
            with engine.connect() as connection, writing(connection):
                return work(connection)
        finally:
            engine.dispose()
