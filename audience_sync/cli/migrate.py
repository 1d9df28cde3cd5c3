from __future__ import annotations

from pathlib import Path

import click

from audience_sync.cli import print_json
from audience_sync.cli.options import json_option
from audience_sync.config import load_config
from audience_sync.database import open_state, told
from audience_sync.state import schema


@click.command("migrate")
@json_option
@click.pass_obj
def command(config: Path, as_json: bool) -> None:
    """Bring the state database to the current schema; nothing happens when it is there already."""
    loaded = load_config(config)
    with told("state", loaded.state):
        engine = open_state(loaded.state)
        try:
            before, after = schema.migrate(engine)
        finally:
            engine.dispose()
    if as_json:
        print_json({"before": before, "after": after})
    elif before == after:
        click.echo(f"state is at schema {after} already")
    else:
        click.echo(f"state brought from {before or 'nothing'} to schema {after}")
