"""The real orders of CDNOW (69,659 orders, 1997-01 to 1998-06) tell exactly what they must, wherever they are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from support import shop
from support.direct import DirectTransport
from support.project import Project

from audience_sync.config import load_config
from audience_sync.config.durations import parse_moment
from audience_sync.sync import plan, run

EXPECTED = [
    ("1997-04-01", 8949, 0, 8949),
    ("1997-04-02", 39, 313, 8675),
    ("1997-04-03", 47, 348, 8374),
    ("1997-05-01", 1110, 6701, 2783),
    ("1997-07-15", 1510, 2035, 2258),
    ("1998-06-30", 1017, 1769, 1506),
]
KEY = "order_completed_last_30days"
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
Drive = Callable[[str, str], Any]


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


def check_figures(project: Project, drive: Drive, days: int = len(EXPECTED)) -> None:
    """`drive` runs `plan` or `run` at a day and returns its JSON."""
    for day, entered, exited, size in EXPECTED[:days]:
        project.receiver.calls.clear()
        planned = drive("plan", day)["jobs"][0]["computations"][0]
        assert (planned["entered"], planned["exited"], planned["size"]) == (entered, exited, size)
        assert not project.receiver.calls
        document = drive("run", day)
        assert document["as_of"] == f"{day}T00:00:00Z"
        job = document["jobs"][0]
        assert (job["job"], job["status"], job["error"]) == ("lifecycle", "succeeded", None)
        found = job["computations"][0]
        assert (found["key"], found["entered"], found["exited"], found["size"]) == (KEY, entered, exited, size)
        delivery = job["deliveries"][0]
        assert (delivery["delivered"], delivery["pending"], delivery["dead"]) == (entered + exited, 0, 0)
        told = [call.body["traits"][KEY] for call in project.receiver.calls]
        assert (told.count(True), told.count(False)) == (entered, exited)
        assert {call.signature for call in project.receiver.calls} == {"ok"}
    assert sum(1 for value in project.receiver.told.values() if value is True) == size
    assert drive("run", day)["jobs"][0]["deliveries"][0]["delivered"] == 0


def in_process(project: Project, **options: Any) -> Drive:
    config = load_config(project.folder / "jobs.yaml")

    def drive(command: str, day: str) -> Any:
        instant: datetime = parse_moment(day)
        if command == "plan":
            return plan(config, [], instant).as_json()
        return run(config, [], instant, allow_large_change=True, **options).as_json()

    return drive


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
    check_figures(project, in_process(project))


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
