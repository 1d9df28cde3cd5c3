from __future__ import annotations

from pathlib import Path

import click

from audience_sync.cli import print_json
from audience_sync.cli.options import json_option
from audience_sync.cli.progress import Bars
from audience_sync.config import load_config
from audience_sync.moving import import_state


@click.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def command(config: Path, folder: Path, as_json: bool) -> None:
    """Read what `export` wrote into FOLDER into a state that holds nothing yet: all of it, or nothing.

    It goes on where the exported one stopped, with the same messageIds. On PostgreSQL, run `migrate` first.
    """
    loaded = load_config(config)
    with Bars() as bars:
        counts = import_state(loaded, folder, bars)
    if as_json:
        print_json({"folder": str(folder), "rows": counts})
    else:
        click.echo(f"imported {sum(counts.values()):,} rows of {len(counts)} tables")
