"""`history` and `status` say what happened and what to do, from state alone."""

from __future__ import annotations

import signal
import time
from datetime import date, timedelta
from typing import Any

import pytest
from support.project import Project
from support.shop import jobs_yaml, load

KEY = "order_completed_last_30days"


def orders(*days: tuple[str, int]) -> list[dict[str, object]]:
    return [
        {"customer_id": f"{day}-{n}", "ordered_on": date.fromisoformat(day), "units": 1, "revenue": 1}
        for day, count in days
        for n in range(count)
    ]


def test_past_syncs_and_where_things_stand(project: Project) -> None:
    load(f"sqlite:///{project.folder}/shop.db", orders(("2026-01-01", 5), ("2026-01-20", 3)))
    text = jobs_yaml("sqlite:///shop.db", "sqlite:///state.db", project.url)
    project.write(text.replace("    audiences:", "    schedule: every 2 hours\n    audiences:"))
    assert "Nothing was synced yet" in project.quick("history").out
    assert project.quick("history", "--json").json == {"syncs": []}

    assert project.quick("run", "--as-of", "2026-01-21").code == 0
    project.receiver.answer = lambda _path, _body: 401
    assert project.quick("run", "--as-of", "2026-02-10").code == 1
    newest, first = project.quick("history", "lifecycle", "--json").json["syncs"]
    assert (first["status"], newest["status"]) == ("succeeded", "undelivered")
    (found,) = newest["computations"]
    assert (found["key"], found["size"], found["entered"], found["exited"]) == (KEY, 3, 0, 5)
    (told,) = newest["deliveries"]
    assert (told["workflow"], told["delivered"], told["pending"]) == ("w1", 0, 5)
    assert first["deliveries"][0]["delivered"] == 8
    assert first["seconds"] > 0 and first["as_of"] == "2026-01-21T00:00:00Z"
    assert len(project.quick("history", "--limit", "1", "--json").json["syncs"]) == 1
    assert "answered 401" in project.quick("history").out
    assert project.quick("history", "nosuch").code == 2

    stands = project.quick("status", "--json").json
    (job,) = stands["jobs"]
    assert job["last_sync"]["status"] == "undelivered" and not job["late"]
    assert date.fromisoformat(job["next_run"][:10]) - date.today() <= timedelta(days=1)
    assert any("paused (answered 401" in advice and "5 wait" in advice for advice in stands["advice"])


def wait_for_status(project: Project, wanted: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        (job,) = project.cli("status", "--json").json["jobs"]
        if job["last_sync"] and job["last_sync"]["status"] == wanted:
            return dict(job)
    raise AssertionError(f"the sync was never {wanted}")


@pytest.mark.slow
def test_a_running_sync_is_told_from_a_killed_one(project: Project) -> None:
    load(f"sqlite:///{project.folder}/shop.db", orders(("2026-01-20", 40)))
    project.write(jobs_yaml("sqlite:///shop.db", "sqlite:///state.db", project.url))
    project.receiver.delay = 2.0
    process = project.start("run", "--as-of", "2026-01-21")
    wait_for_status(project, "running")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    wait_for_status(project, "killed")
    assert "cut short" in project.cli("status").out
    project.receiver.delay = 0.0
    assert project.cli("run", "--as-of", "2026-01-21").code == 0
    assert [s["status"] for s in project.cli("history", "--json").json["syncs"]] == ["succeeded", "killed"]
