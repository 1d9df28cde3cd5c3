"""Writes the help texts of all commands into docs/commands.md: `make docs`. A test holds the page against the code.

What stands between the help texts is written by hand and stays. A command that has no section yet gets one at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from audience_sync.cli import COMMANDS, cli

PAGE = Path(__file__).with_name("commands.md")
BLOCK = re.compile(r"<!-- help: (?P<name>[a-z -]+) -->\n.*?<!-- end -->", re.DOTALL)


def helps() -> Iterator[tuple[str, str]]:
    """Each command, subcommands too, with its help as a terminal of 100 columns shows it."""
    top = click.Context(cli, info_name="audience-sync", terminal_width=100, **cli.context_settings)
    for name in COMMANDS:
        command = cli.get_command(top, name)
        assert command is not None
        yield from _helps(command, click.Context(command, top, info_name=name, terminal_width=100))


def _helps(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    yield context.command_path.removeprefix("audience-sync "), command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _helps(inner, click.Context(inner, context, info_name=name, terminal_width=100))


def block(name: str, text: str) -> str:
    return f"<!-- help: {name} -->\n```text\n{text}\n```\n<!-- end -->"


def filled(page: str) -> str:
    """The page with today's help texts; a section for each command that had none, and none for those that are gone."""
    texts = dict(helps())
    for gone in {match["name"] for match in BLOCK.finditer(page)} - set(texts):
        page = re.sub(rf"## {gone}\n.*?(?=\n## |\Z)", "", page, flags=re.DOTALL)
    for name in texts:
        if f"<!-- help: {name} -->" not in page:
            page = page.rstrip() + f"\n\n## {name}\n\n{block(name, '')}\n"
    return BLOCK.sub(lambda match: block(match["name"], texts[match["name"]]), page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8") if PAGE.exists() else "# Commands\n"), encoding="utf-8")
