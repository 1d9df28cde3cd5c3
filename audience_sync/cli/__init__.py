"""The command line. Every command is in a module of its own name and is loaded only when it is called."""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from audience_sync import __version__
from audience_sync.errors import AudienceSyncError, Problem

COMMANDS = {
    "init": "Write a commented jobs.yaml.",
    "validate": "Check jobs.yaml; with --connect, the databases too.",
    "plan": "Show what a sync would send; send and write nothing.",
    "run": "Sync once, then exit.",
    "backfill": "Send a workflow current members, not only changes.",
    "preview": "Show who is in an audience, how many, and why.",
    "explain": "Say why a user is in an audience, or is not.",
    "schema": "Print the JSON Schema of jobs.yaml, for editors.",
    "status": "Show where things stand, and what to do.",
    "start": "Sync each job at its schedule until told to stop.",
    "ui": "Serve the page that says how things stand.",
    "history": "Show past syncs: sizes, changes, deliveries.",
    "show": "Show what each workflow was told about a user.",
    "deliver": "Deliver what is undelivered, without a sync.",
    "dead-letters": "Look at what was given up on; retry or discard it.",
    "relay": "Take calls of Segment's own clients, and forward them.",
    "forget": "Delete users here and at every workflow, for good.",
    "unforget": "Let forgotten users be synced again.",
    "listen": "Stand in for Tray workflows on this machine.",
    "demo": "See a real run on a sample shop; needs nothing.",
    "migrate": "Bring the state database to the current schema.",
    "export": "Write all of state into files, to move it.",
    "import": "Read such files into a new state.",
}
MODULES = {"import": "import_"}
"""Commands whose names Python keeps for itself."""


class Commands(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = MODULES.get(name, name.replace("-", "_"))
        command: click.Command = importlib.import_module(f"audience_sync.cli.{module}").command
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from audience_sync.config.strict import did_you_mean

            said = f"There is no command {args[0]!r}; {did_you_mean(args[0], COMMANDS)}"
            raise click.UsageError(said, ctx) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="audience-sync")
@click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path),
    default=Path("jobs.yaml"),
    show_default=True,
    envvar="AUDIENCE_SYNC_CONFIG",
    help="The file that says what to sync.",
)
@click.pass_context
def cli(context: click.Context, config: Path) -> None:
    """Tell Tray.io workflows at once who entered or left an audience."""
    context.obj = config


def errors() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def tell_stopping() -> None:
    errors().print("[yellow]stopping[/]: what is in flight may finish, the rest is kept; once more ends at once")


def print_json(document: object) -> None:
    """ASCII where the stream would not take more, so that it stays JSON whatever the terminal's encoding."""
    takes_all = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    click.echo(json.dumps(document, indent=2, ensure_ascii=not takes_all))


def main() -> None:
    """The entry point: every expected failure is one message and an exit code, never a traceback."""
    arguments = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a Latin-1 terminal must not end a run that went well
            stream.reconfigure(errors="backslashreplace")
    problems: list[Problem] = []
    try:
        code = cli.main(args=arguments, prog_name="audience-sync", standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        errors().print("[red]interrupted[/]: what was recorded is kept; run again to go on")
        code = 1
    except click.ClickException as error:
        error.show()
        problems = [Problem(error.format_message())]
        code = 2
    except AudienceSyncError as error:
        problems = error.problems()
        for problem in problems:
            errors().print(f"[red]error[/] {escape(str(problem))}")
        code = error.exit_code
    except BrokenPipeError:
        # The reader has left; what is still buffered has nowhere to go, and Python would complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        problems = [Problem(": ".join(filter(None, [str(error.filename or ""), error.strerror or str(error)])))]
        errors().print(f"[red]error[/] {escape(str(problems[0]))}")
        code = 1
    if problems and "--json" in arguments:
        print_json({"errors": [problem.as_json() for problem in problems]})
    sys.exit(code if isinstance(code, int) else 0)
