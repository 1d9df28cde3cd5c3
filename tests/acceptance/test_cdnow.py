"""The real orders of CDNOW (69,659 orders, 1997-01 to 1998-06) tell exactly what they must, wherever they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support import shop
from support.cdnow import check_figures, in_process
from support.direct import DirectTransport
from support.project import Project

COMMAND_LINE = [("sqlite", "sqlite"), ("postgres", "same"), ("postgres", "postgres"), ("duckdb warehouse", "sqlite")]
IN_PROCESS = [
    ("sqlite", "same"),
    ("postgres", "sqlite"),
    ("sqlite", "postgres"),
    ("duckdb", "sqlite"),
    ("duckdb warehouse", "postgres"),
    ("postgres warehouse", "same"),
    ("postgres warehouse", "sqlite"),
]
"""Where source and state are; a warehouse keeps the snapshots itself."""


def prepare(project: Project, shops: dict[str, str], new_database: Callable[..., str], source: str, state: str) -> None:
    kind, _, keeps_snapshots = source.partition(" ")
    source_url = shop.copy_of(shops[kind], project.folder, new_database)
    state_url = {"same": source_url, "sqlite": "sqlite:///state.db"}.get(state) or new_database()
    given = f"{{url: '{source_url}', synced: warehouse}}" if keeps_snapshots else source_url
    project.write(shop.jobs_yaml(given, state_url, project.url))
    if state_url.startswith("postgres"):
        unready = project.cli("run", "--as-of", "1997-04-01")
        assert unready.code == 2
        assert "audience-sync migrate" in unready.err
        assert project.cli("migrate").code == 0


def test_the_first_figures_over_a_transport_of_ones_own(
    project: Project, cdnow_shops: dict[str, str], new_database: Callable[..., str]
) -> None:
    prepare(project, cdnow_shops, new_database, "sqlite", "sqlite")
    receiver = project.receiver
    check_figures(project, in_process(project, transports=lambda _name: DirectTransport(receiver)), days=3)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "state"), IN_PROCESS)
def test_the_figures_in_this_process(
    project: Project, cdnow_shops: dict[str, str], new_database: Callable[..., str], source: str, state: str
) -> None:
    prepare(project, cdnow_shops, new_database, source, state)
    check_figures(project, in_process(project), days=4)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "state"), COMMAND_LINE)
def test_the_figures_from_the_command_line(
    project: Project, cdnow_shops: dict[str, str], new_database: Callable[..., str], source: str, state: str
) -> None:
    prepare(project, cdnow_shops, new_database, source, state)

    def drive(command: str, day: str) -> Any:
        allow = ["--allow-large-change"] if command == "run" else []
        ran = project.cli(command, "--as-of", day, "--json", *allow)
        assert ran.code == (0 if command == "run" else 3 if day == "1997-05-01" else ran.code), ran.err
        return ran.json

    check_figures(project, drive)
