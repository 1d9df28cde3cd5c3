"""Options and readings that several commands share."""

from __future__ import annotations

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


def instant_or_now(given: datetime | None) -> datetime:
    return given or datetime.now(UTC)
