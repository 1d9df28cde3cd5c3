"""`backfill` killed at random instants goes on with the same command, and tells each user once but for what was in
flight."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter

import pytest
from support.project import Project
from support.starting import DEADLINE_SECONDS, jobs_yaml, join, shop

from audience_sync.receiver import Call

USERS = 30_000


@pytest.mark.slow
def test_killed_and_gone_on_with(project: Project) -> None:
    draw = random.Random(int(os.environ.get("SEED", "6")))
    engine = shop(project)
    join(engine, *(f"u{n:05}" for n in range(USERS)))
    text = jobs_yaml(project, "every 2 hours")
    project.write(text)
    assert project.cli("run").code == 0
    project.receiver.calls.clear()
    kills = 0
    for _ in range(3):
        after = draw.randrange(500, 8000)
        process = project.start("backfill", "--workflow", "w1")
        seen = 0

        def kill(_call: Call, process_id: int = process.pid, after: int = after) -> None:
            nonlocal seen
            seen += 1
            if seen == after:
                os.kill(process_id, signal.SIGKILL)

        project.receiver.on_call = kill
        process.communicate(timeout=DEADLINE_SECONDS)
        kills += process.returncode == -signal.SIGKILL
    project.receiver.on_call = None
    assert kills >= 2
    done = project.cli("backfill", "--workflow", "w1", "--json")
    assert done.code == 0, done.err
    assert done.json["backfills"][0]["written_before"] > 0
    times = Counter(call.body["userId"] for call in project.receiver.calls)
    assert len(times) == USERS
    repeated = sum(count - 1 for count in times.values())
    assert repeated <= kills * 2500, "at most what was in flight and not yet written down"
    ids = {(call.body["userId"], call.body["messageId"]) for call in project.receiver.calls}
    assert len(ids) == USERS, "a repeat carries the same messageId"
    history = project.cli("history", "--json").json["syncs"]
    assert [sync["job"] for sync in history].count("backfill") == kills + 1


@pytest.mark.slow
def test_ctrl_c_and_what_is_said(project: Project) -> None:
    engine = shop(project)
    join(engine, *(f"u{n:04}" for n in range(600)))
    project.write(jobs_yaml(project, "every 2 hours"))
    assert "no sync has told" in project.cli("backfill").err
    assert project.cli("run").code == 0
    project.receiver.calls.clear()
    process = project.start("backfill", "--rate", "200/s")
    project.receiver.on_call = lambda _: len(project.receiver.calls) == 100 and process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 1
    assert "run the same command to go on" in out
    sent = len(project.receiver.calls)
    assert 100 <= sent < 600
    project.receiver.on_call = None
    done = project.cli("backfill")
    assert done.code == 0 and "600 before" in done.out
    assert len(project.receiver.calls) == 600
    assert project.cli("backfill", "--rate", "fast").code == 2
    assert project.cli("backfill", "--audience", "nosuch").code == 2
