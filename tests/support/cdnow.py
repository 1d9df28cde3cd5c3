"""What the real orders of CDNOW (69,659 orders, 1997-01 to 1998-06) must tell, wherever they are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from audience_sync.config import load_config
from audience_sync.config.durations import parse_moment
from audience_sync.sync import plan, run
from support.project import Project

EXPECTED = [
    ("1997-04-01", 8949, 0, 8949),
    ("1997-04-02", 39, 313, 8675),
    ("1997-04-03", 47, 348, 8374),
    ("1997-05-01", 1110, 6701, 2783),
    ("1997-07-15", 1510, 2035, 2258),
    ("1998-06-30", 1017, 1769, 1506),
]
KEY = "order_completed_last_30days"
Drive = Callable[[str, str], Any]


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
