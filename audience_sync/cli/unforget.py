from __future__ import annotations

from pathlib import Path
from typing import IO

import click

from audience_sync.cli import print_json
from audience_sync.cli.forget import file_option, user_ids_of, users_argument
from audience_sync.cli.options import json_option
from audience_sync.config import load_config
from audience_sync.forget import unforget


@click.command("unforget")
@users_argument
@file_option
@json_option
@click.pass_obj
def command(config: Path, user_ids: tuple[str, ...], file: IO[str] | None, as_json: bool) -> None:
    """Let users who were forgotten be synced again, as if they were new. What was erased does not come back."""
    asked = user_ids_of(user_ids, file)
    lifted = unforget(load_config(config), asked)
    if as_json:
        print_json({"lifted": lifted, "were_not_forgotten": [user_id for user_id in asked if user_id not in lifted]})
        return
    click.echo(f"{len(lifted):,} of {len(asked):,} were forgotten, and are not any more")
