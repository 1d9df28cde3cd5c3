"""The real orders of CDNOW (69,659 orders, 1997-01 to 1998-06) tell exactly what they must, wherever they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.project import Project
from support.shop import cdnow, jobs_yaml, load

EXPECTED = [
    ("1997-04-01", 8949, 0, 8949),
    ("1997-04-02", 39, 313, 8675),
    ("1997-04-03", 47, 348, 8374),
    ("1997-05-01", 1110, 6701, 2783),
    ("1997-07-15", 1510, 2035, 2258),
    ("1998-06-30", 1017, 1769, 1506),
]
KEY = "order_completed_last_30days"


@pytest.mark.parametrize(
    ("source", "state"),
    [
        ("sqlite", "sqlite"),
        ("sqlite", "same"),
        ("postgres", "same"),
        ("postgres", "postgres"),
        ("postgres", "sqlite"),
        ("sqlite", "postgres"),
    ],
)
def test_the_figures(project: Project, new_database: Callable[[], str], source: str, state: str) -> None:
    source_url = "sqlite:///shop.db" if source == "sqlite" else new_database()
    load(source_url.replace("sqlite:///", f"sqlite:///{project.folder}/"), cdnow())
    state_url = {"same": source_url, "sqlite": "sqlite:///state.db"}.get(state) or new_database()
    project.write(jobs_yaml(source_url, state_url, project.url))
    if state_url.startswith("postgres"):
        unready = project.cli("run", "--as-of", "1997-04-01")
        assert unready.code == 2
        assert "audience-sync migrate" in unready.err
    assert project.cli("migrate").code == 0
    for day, entered, exited, size in EXPECTED:
        project.receiver.calls.clear()
        planned = project.cli("plan", "--as-of", day, "--json").json["jobs"][0]["computations"][0]
        ran = project.cli("run", "--as-of", day, "--allow-large-change", "--json")
        assert ran.code == 0, ran.err
        document = ran.json
        assert document["as_of"] == f"{day}T00:00:00Z"
        job = document["jobs"][0]
        assert (job["job"], job["status"], job["error"]) == ("lifecycle", "succeeded", None)
        found = job["computations"][0]
        assert (found["key"], found["entered"], found["exited"], found["size"]) == (
            KEY,
            entered,
            exited,
            size,
        )
        assert (planned["entered"], planned["exited"]) == (entered, exited)
        delivery = job["deliveries"][0]
        assert (delivery["delivered"], delivery["pending"], delivery["dead"]) == (entered + exited, 0, 0)
        told = [call.body["traits"][KEY] for call in project.receiver.calls]
        assert (told.count(True), told.count(False)) == (entered, exited)
        assert {call.signature for call in project.receiver.calls} == {"ok"}
    assert sum(1 for value in project.receiver.told.values() if value is True) == EXPECTED[-1][3]
    again = project.cli("run", "--as-of", EXPECTED[-1][0], "--json").json["jobs"][0]
    assert again["deliveries"][0]["delivered"] == 0
