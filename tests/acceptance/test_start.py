"""`start` as a real process, at `every 2 seconds`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from itertools import pairwise

import pytest
from support.project import Project
from support.starting import DEADLINE_SECONDS, ended, jobs_yaml, join, log_lines, shop, started, until


@pytest.mark.slow
def test_it_syncs_reloads_and_stops(project: Project) -> None:
    engine = shop(project)
    join(engine, "u1")
    project.write(jobs_yaml(project, "every 2 seconds"))
    with started(project) as process:
        until(lambda: ("/w1", "u1", "a") in project.receiver.told)
        join(engine, "u2")
        until(lambda: ("/w1", "u2", "a") in project.receiver.told)
        project.write("version: 1\njobs: nonsense\n")
        until(lambda: any("old one stays in use" in line["event"] for line in log_lines(project)))
        join(engine, "u3")
        until(lambda: ("/w1", "u3", "a") in project.receiver.told)
        project.write(jobs_yaml(project, "every 2 seconds").replace("name: a,", "name: b,"))
        until(lambda: ("/w1", "u3", "b") in project.receiver.told)
        more = jobs_yaml(project, "every 2 seconds").replace("version: 1", "version: 1\ninclude: more/*.yaml", 1)
        (project.folder / "more").mkdir()
        extra = more[more.index("jobs:") :].replace("- name: J", "- name: K").replace("name: a,", "name: c,")
        project.write(more)
        project.write(extra, "more/k.yaml")
        until(lambda: ("/w1", "u3", "c") in project.receiver.told)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0
    lines = log_lines(project)
    assert lines[-1]["event"] == "stopped"
    assert all(line["status"] == "succeeded" for line in ended(project))
    runs = [line["run"] for line in lines if line["event"] == "sync started"]
    assert len(runs) == len(set(runs)) >= 3
    assert {line["run"] for line in lines if line["event"] == "recorded"} <= set(runs)
    assert "s3cret" not in (project.folder / "log").read_text()
    assert {s["status"] for s in project.cli("history", "--json").json["syncs"]} == {"succeeded"}


@pytest.mark.slow
def test_sigterm_lets_calls_in_flight_finish_and_keeps_the_rest(project: Project) -> None:
    engine = shop(project)
    join(engine, *(f"u{n}" for n in range(3000)))
    project.write(jobs_yaml(project, "every 1 hour"))
    project.receiver.delay = 0.3
    with started(project) as process:
        until(lambda: len(project.receiver.calls) > 40)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0
    (line,) = ended(project)
    assert line["status"] == "undelivered"
    assert line["delivered"] == len(project.receiver.calls), "each call that arrived is written down"
    assert line["delivered"] + line["pending"] == 3000
    project.receiver.delay = 0.0
    assert project.cli("run").code == 0
    assert len(project.receiver.calls) == 3000, "nothing was told twice"


@pytest.mark.slow
def test_a_stuck_run_is_ended_and_told(project: Project) -> None:
    engine = shop(project)
    join(engine, *(f"u{n}" for n in range(500)))
    project.write(jobs_yaml(project, "every 3 seconds", extra="    timeout: 2 s\n"))
    project.receiver.delay = 1.0
    with started(project) as process:
        until(lambda: ended(project))
        project.receiver.delay = 0.0
        until(lambda: ended(project)[-1]["status"] == "succeeded")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0
    assert ended(project)[0]["status"] == "timed out"
    assert "took longer than 2 s" in ended(project)[0]["error"]
    assert len(project.receiver.told) == 500


@pytest.mark.slow
def test_a_child_that_is_killed_is_told_and_made_up_for(project: Project) -> None:
    engine = shop(project)
    join(engine, *(f"u{n}" for n in range(500)))
    project.write(jobs_yaml(project, "every 3 seconds"))
    project.receiver.delay = 0.5
    with started(project) as process:
        until(lambda: project.receiver.calls)
        (pid,) = (line["pid"] for line in log_lines(project) if line["event"] == "sync started")
        os.kill(pid, signal.SIGKILL)
        until(lambda: ended(project))
        assert ended(project)[0]["status"] == "killed" and "SIGKILL" in ended(project)[0]["error"]
        project.receiver.delay = 0.0
        until(lambda: ended(project)[-1]["status"] == "succeeded")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0
    assert len(project.receiver.told) == 500


def test_what_cannot_be_started(project: Project) -> None:
    shop(project)
    project.write(jobs_yaml(project, "every 2 hours").replace("    schedule: every 2 hours\n", ""))
    ran = project.quick("start", "--port", "0")
    assert ran.code == 2
    assert "no job has a schedule" in ran.err
    project.write(jobs_yaml(project, "every 2 hours"))
    ran = project.quick("start", "--host", "0.0.0.0")
    assert ran.code == 2
    assert "AUDIENCE_SYNC_TOKEN" in ran.err


@pytest.mark.slow
def test_two_machines_share_a_schedule(project: Project, new_database: Callable[[], str]) -> None:
    """Two processes on one PostgreSQL state: no two syncs of the job at once, and none done twice."""
    engine = shop(project)
    text = jobs_yaml(project, "every 2 seconds").replace("workflows:", f"state: {new_database()}\nworkflows:", 1)
    project.write(text)
    assert "audience-sync migrate" in project.cli("start", "--port", "0").err
    assert project.cli("migrate").code == 0
    with started(project) as one, started(project) as other:
        for user in range(4):
            join(engine, f"u{user}")
            until(lambda user=user: ("/w1", f"u{user}", "a") in project.receiver.told)  # type: ignore[misc]
        for process in (one, other):
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_SECONDS) == 0
    assert len(project.receiver.calls) == 4, "each change is told once"
    past = [sync for sync in project.cli("history", "--json").json["syncs"] if sync["finished_at"]]
    spans = sorted((sync["started_at"], sync["finished_at"]) for sync in past)
    assert all(before[1] <= after[0] for before, after in pairwise(spans)), spans
