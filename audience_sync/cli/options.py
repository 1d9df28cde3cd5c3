"""Options and readings that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from audience_sync.config.durations import parse_moment


class Instant(click.ParamType[datetime]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return parse_moment(value)
        except ValueError:
            self.fail(f"{value!r} is not a time; write 1997-04-01 or 1997-04-01T06:00:00Z", param, ctx)


as_of_option = click.option(
    "--as-of",
    type=Instant(),
    metavar="TIME",
    help="The instant T of the sync (UTC unless it says); default now.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


def serving_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the page is served."""
    for option in (
        click.option(
            "--port", default=8787, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one."
        ),
        click.option("--host", default="127.0.0.1", show_default=True, help="Others need AUDIENCE_SYNC_TOKEN."),
    ):
        command = option(command)
    return command


def instant_or_now(given: datetime | None) -> datetime:
    return given or datetime.now(UTC)
