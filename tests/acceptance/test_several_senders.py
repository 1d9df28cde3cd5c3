"""Several processes deliver from one PostgreSQL state: they share the users, and one that dies leaves its share to
others; and the databases' own failures: PostgreSQL restarted, a disk that is full, a state that another holds."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from support.outgoing import Outgoing
from support.postgres import Server
from support.project import Project

from audience_sync.delivery.sender import Patience
from audience_sync.state.tables import lanes, senders

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

USERS = [f"u{n:05}" for n in range(4000)]
DEADLINE_SECONDS = 60


def recorded(project: Project, state: str) -> Outgoing:
    """All of `USERS` in the outbox, and nothing delivered yet."""
    project.receiver.answer = lambda _path, _body: 404  # the workflow is paused at once, and all is kept
    workflow = f"w: {{url: '{project.url}/w', shared_secret: s3cret, concurrency: 8}}"
    outgoing = Outgoing(project.folder, [workflow], state=state)
    outgoing.put(USERS)
    outgoing.sync()
    project.receiver.answer = None
    project.receiver.calls.clear()
    return outgoing


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def told_to(project: Project) -> Counter[str]:
    return Counter(call.body["userId"] for call in project.receiver.calls if call.status < 300)


def test_two_processes_share_the_users(project: Project, new_database: Callable[[], str]) -> None:
    outgoing = recorded(project, new_database())
    project.receiver.delay = 0.02
    first, second = project.start("deliver", "--json"), project.start("deliver", "--json")
    codes = [process.wait(DEADLINE_SECONDS) for process in (first, second)]
    told = told_to(project)
    assert codes == [0, 0]
    assert set(told) == set(USERS)
    assert max(told.values()) == 1, "no user is told by both"
    delivered = [json.loads(process.communicate()[0])["deliveries"][0]["delivered"] for process in (first, second)]
    assert sum(delivered) == len(USERS)
    assert min(delivered) > len(USERS) / 10, delivered
    assert not outgoing.query(sa.select(senders))
    assert not outgoing.query(sa.select(lanes.c.lane).where(lanes.c.leased_by.is_not(None)))


def test_a_dead_senders_share_goes_to_the_living(project: Project, new_database: Callable[[], str]) -> None:
    outgoing = recorded(project, new_database())
    project.receiver.delay = 0.1
    first, second = project.start("deliver"), project.start("deliver")
    holders = sa.select(lanes.c.leased_by).where(lanes.c.leased_by.is_not(None)).distinct()
    wait_for(lambda: len(outgoing.query(holders)) == 2)
    first.kill()
    project.receiver.delay = 0.0
    assert second.wait(DEADLINE_SECONDS) == 0
    told = told_to(project)
    assert set(told) == set(USERS)
    for process in (first, second):
        process.communicate(timeout=DEADLINE_SECONDS)


def test_the_rate_is_one_for_all_of_them(project: Project, new_database: Callable[[], str]) -> None:
    outgoing = recorded(project, new_database())
    outgoing.workflows = [f"w: {{url: '{project.url}/w', shared_secret: s3cret, rate: 800/s}}"]
    outgoing.config()
    processes = [project.start("deliver") for _ in range(2)]
    assert [process.wait(DEADLINE_SECONDS) for process in processes] == [0, 0]
    times = [call.at for call in project.receiver.calls]
    assert len(times) == len(USERS)
    assert max(times) - min(times) > len(USERS) / 800 - 0.5
    for process in processes:
        process.communicate(timeout=DEADLINE_SECONDS)


def test_asked_to_stop_by_the_terminal_or_the_system(project: Project) -> None:
    outgoing = recorded(project, "sqlite:///state.db")
    project.receiver.delay = 0.02
    for number in (signal.SIGTERM, signal.SIGINT):
        before = len(project.receiver.calls)
        process = project.start("deliver")
        wait_for(lambda before=before: len(project.receiver.calls) > before + 50)  # type: ignore[misc]
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 1
        assert "pending" in out
        assert "stopping" in err and "Traceback" not in err
    project.receiver.delay = 0.0
    assert project.cli("deliver").code == 0
    told = told_to(project)
    assert set(told) == set(USERS)
    assert max(told.values()) == 1, "nothing is sent twice after a clean stop"
    assert outgoing.deliveries()["w"]["delivered"] == 0


def test_postgresql_restarted_in_the_midst(project: Project) -> None:
    with contextlib.closing(Server()) as server:
        server.start()
        recorded(project, server.url)
        project.receiver.delay = 0.01
        process = project.start("deliver")
        wait_for(lambda: len(project.receiver.calls) > 300)
        server.stop()
        out, err = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 1
        assert "Traceback" not in out + err
        assert "state" in err
        refused = project.cli("deliver")
        assert refused.code == 1
        assert "state" in refused.err
        server.start()
        project.receiver.delay = 0.0
        assert project.cli("deliver").code == 0
    assert set(told_to(project)) == set(USERS)


def test_a_state_that_another_holds_is_waited_for(project: Project) -> None:
    recorded(project, "sqlite:///state.db")
    holder = sqlite3.connect(project.folder / "state.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    process = project.start("deliver")
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2.0)
        holder.execute("COMMIT")
        assert process.wait(DEADLINE_SECONDS) == 0
    finally:
        holder.close()
        process.communicate(timeout=DEADLINE_SECONDS)
    assert told_to(project) == Counter(USERS)


def test_a_full_disk_loses_nothing(project: Project) -> None:
    """The state's file may not grow past what it is: deliveries are written down in it, and that fails."""
    outgoing = recorded(project, "sqlite:///state.db")
    project.receiver.answer = lambda _path, body: 400 if body["userId"] < "u02000" else None  # much to write down
    size = (project.folder / "state.db").stat().st_size

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    done = subprocess.run(
        project.command("deliver"),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        env=project.environment(),
        preexec_fn=small_files,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "state" in done.stderr and ("full" in done.stderr or "I/O" in done.stderr)
    project.receiver.answer = None
    outgoing.patience = Patience(first_pause=0.01)
    assert project.cli("dead-letters", "retry").code == 0
    assert project.cli("deliver").code == 0
    assert set(told_to(project)) == set(USERS)
