from __future__ import annotations

import click

from audience_sync.cli import print_json
from audience_sync.config.schema import json_schema


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of jobs.yaml, for editors and CI.

    `init` writes it beside jobs.yaml as jobs.schema.json, and names it in jobs.yaml's first line.
    """
    print_json(json_schema())
