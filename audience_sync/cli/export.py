from __future__ import annotations

from pathlib import Path

import click

from audience_sync.cli import print_json
from audience_sync.cli.options import json_option
from audience_sync.cli.progress import Bars
from audience_sync.config import load_config
from audience_sync.moving import FORMATS, export_state


@click.command("export")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--format", "kind", type=click.Choice(FORMATS), default="parquet", show_default=True)
@json_option
@click.pass_obj
def command(config: Path, folder: Path, kind: str, as_json: bool) -> None:
    """Write all of state, as it is at one instant, into an empty FOLDER: a file a table, and manifest.json.

    `import` reads it into another state. Stop what runs first, and go on with one of the two only.
    """
    loaded = load_config(config)
    with Bars() as bars:
        counts = export_state(loaded, folder, kind, bars)
    if as_json:
        print_json({"folder": str(folder), "format": kind, "rows": counts})
    else:
        click.echo(f"exported {sum(counts.values()):,} rows of {len(counts)} tables into {folder}")
