"""Killed with SIGKILL at any instant, the next run goes on from there (rule 4): real processes, real databases."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from support.forking import Forking
from support.project import Project
from support.scores import START, Shop, believed

from audience_sync.delivery.sender import AHEAD
from audience_sync.receiver import Call

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

USERS = 400
DEADLINE_SECONDS = 60


def shop_of(project: Project, source: str, state: str) -> Shop:
    return Shop(project.folder, source, state, project.url, scored="score > 2")


def draw_members(shop: Shop, draw: random.Random) -> dict[str, int]:
    scores = {f"u{n:05}": draw.randrange(6) for n in draw.sample(range(USERS), USERS // 2)}
    shop.set(**scores)
    return scores


def kill_at_random(project: Project, forking: Forking, draw: random.Random, day: int) -> int:
    """Run a sync and kill it: at a random instant, or in the midst of its calls. Returns its exit code."""
    after_calls = draw.randrange(1, 500) if draw.random() < 0.7 else None
    seen = 0

    def kill(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def kill_in_the_midst(_call: Call) -> None:
        nonlocal seen
        seen += 1
        if seen == after_calls:
            kill(forking.pid)

    project.receiver.on_call = kill_in_the_midst
    pid = forking.start("run", "--as-of", str(START + timedelta(days=day)))
    deadline = draw.uniform(0.0, 0.3) if after_calls is None else DEADLINE_SECONDS
    timer = threading.Timer(deadline, kill, [pid])
    timer.start()
    code = forking.wait()
    timer.cancel()
    project.receiver.on_call = None
    return code


def check_killed_runs(project: Project, source: str, state: str, kills: int, seed: int) -> None:
    draw = random.Random(seed)
    shop = shop_of(project, source, state)
    project.receiver.fail = 0.02  # faults beside the kills: some calls are answered 503
    codes: list[int] = []
    repeats = Repeats(project.receiver.calls)
    with Forking(shop.path, project.environment()) as forking:
        while codes.count(-signal.SIGKILL) < kills:
            assert len(codes) < 2 * kills, codes
            scores = draw_members(shop, draw)
            codes.append(kill_at_random(project, forking, draw, len(codes)))
            repeats.count()
    project.receiver.fail = 0.0
    last = project.cli("run", "--as-of", str(START + timedelta(days=len(codes))), "--json")
    assert last.code == 0, last.err
    counts = repeats.counts
    assert max(counts) <= 2 * AHEAD  # of two workflows
    print(f"{kills} kills; {sum(counts) / len(counts):.0f} repeats a kill, {max(counts)} at most")

    expected = {(user, "a"): True for user in scores} | {(u, "t"): s for u, s in scores.items() if s > 2}
    for workflow in ("w1", "w2"):
        assert believed(project.receiver, workflow) == expected
    check_calls([call for call in project.receiver.calls if call.status < 300])
    quiet = len(project.receiver.calls)
    assert project.cli("run", "--as-of", str(START + timedelta(days=len(codes) + 1))).code == 0
    assert len(project.receiver.calls) == quiet, "a sync without changes told something"


class Repeats:
    """How often an acknowledged call repeated an acknowledged one, kill by kill."""

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls
        self.seen: set[str] = set()
        self.counts: list[int] = []
        self.looked_at = 0

    def count(self) -> None:
        repeats = 0
        for call in self.calls[self.looked_at :]:
            if call.status < 300:
                repeats += call.body["messageId"] in self.seen
                self.seen.add(call.body["messageId"])
        self.looked_at = len(self.calls)
        self.counts.append(repeats)


def check_calls(calls: list[Call]) -> None:
    """A repeat carries the same messageId and says the same; apart from repeats, nothing older is told after newer."""
    said: dict[str, tuple[str, str, object]] = {}
    newest: dict[tuple[str, str, str], int] = {}
    for call in calls:
        ((key, value),) = call.body["traits"].items()
        message = call.body["messageId"]
        what = (call.body["userId"], key, value)
        assert said.setdefault(message, what) == what
        place = (call.path, call.body["userId"], key)
        number = int(message.rpartition("-")[2])
        assert number >= newest.get(place, 0), place
        newest[place] = number
        assert call.signature == "ok"


def test_killed_at_random_instants_on_sqlite(project: Project) -> None:
    source, state = f"sqlite:///{project.folder}/shop.db", f"sqlite:///{project.folder}/state.db"
    check_killed_runs(project, source, state, kills=120, seed=int(os.environ.get("SEED", "1")))


def test_killed_at_random_instants_on_postgresql(project: Project, new_database: Callable[[], str]) -> None:
    check_killed_runs(project, new_database(), new_database(), kills=80, seed=int(os.environ.get("SEED", "2")))


def test_the_lock_dies_with_its_holder(project: Project, new_database: Callable[[], str]) -> None:
    """Were the lock a row or a file, the run after a kill would find the job taken."""
    project.receiver.delay = 0.5
    for state in (f"sqlite:///{project.folder}/state.db", new_database()):
        shop = shop_of(project, f"sqlite:///{project.folder}/shop{len(state)}.db", state)
        draw_members(shop, random.Random(3))
        project.receiver.calls.clear()
        process = project.start("run")
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not project.receiver.calls and time.monotonic() < deadline:
            time.sleep(0.02)
        assert project.cli("run", "--json").json["jobs"][0]["status"] == "skipped"
        process.kill()
        process.communicate(timeout=DEADLINE_SECONDS)
        project.receiver.delay = 0
        assert project.cli("run", "--json").json["jobs"][0]["status"] == "succeeded"
        project.receiver.delay = 0.5
