"""The relay as its clients and its workflows see it: real processes, Segment's own library, and kills."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from segment.analytics.client import Client
from support.project import Project

from audience_sync.receiver import Call
from audience_sync.state.tables import RELAY_EVENTS

DEADLINE_SECONDS = 60
KEY = "wk_test"
NOW = datetime.now(UTC)


def jobs_yaml(state: str, url: str) -> str:
    return f"""\
version: 1
state: {state}
events: relay
relay: {{write_keys: [wk_other, "${{RELAY_KEY:-{KEY}}}"]}}
workflows:
  all: {{url: '{url}/all', shared_secret: s3cret}}
  some: {{url: '{url}/some', shared_secret: s3cret, messages: [identify, track]}}
jobs:
  - name: Lifecycle
    audiences:
      - {{name: Order Completed Last 30days, who: {{did: Order Completed, within: 30 days}}}}
      - {{name: Spenders, who: {{did: Order Completed, sum: {{revenue: {{gte: 100}}}}}}}}
      - {{name: Quiet pros, who: {{all: [{{has: {{plan: pro}}}}, {{not: {{did: Order Completed}}}}]}}}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Relay:
    """`audience-sync relay` in a process of its own, always on the same port."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = self.project.start("relay", "--port", str(self.port))
        wait_until(self.answers)

    def answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.process and self.process.communicate()
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        assert self.process is not None
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=DEADLINE_SECONDS)
        assert "Traceback" not in said, said
        return self.process.returncode, said


@pytest.fixture
def relay(project: Project) -> Iterator[Relay]:
    project.write(jobs_yaml("sqlite:///state.db", project.url))
    made = Relay(project)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.communicate()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@contextmanager
def segment(relay: Relay, **options: Any) -> Iterator[Any]:
    """Segment's own client, pointed at the relay; fails the test when it gives something up."""
    failures: list[Any] = []
    client = Client(KEY, host=relay.url, on_error=lambda error, _batch: failures.append(error), **options)
    yield client
    client.shutdown()
    assert not failures, failures


def calls_of(project: Project, workflow: str) -> list[dict[str, Any]]:
    return [call.body for call in project.receiver.calls if call.path == workflow]


@pytest.mark.slow
def test_an_audience_needs_nothing_but_a_segment_client(project: Project, relay: Relay) -> None:
    relay.start()
    with segment(relay, gzip=True, upload_interval=0.05) as client:
        client.page(anonymous_id="a1", name="Home")
        client.track(anonymous_id="a1", event="Order Completed", properties={"revenue": 70})
        client.identify("u1", {"plan": "pro"}, anonymous_id="a1")
        client.track("u1", "Order Completed", {"revenue": 60.5}, timestamp=NOW - timedelta(days=3))
        client.track("old", "Order Completed", {"revenue": 500}, timestamp=NOW - timedelta(days=31))
        client.screen("u2", "Shop", "Cart", {"items": 2})
        client.identify("u2", {"plan": "pro"}, integrations={"All": False})
        client.identify("u3", {"plan": "free"}, integrations={"All": False, "tray.io": True})
        client.group("u1", "g1", {"name": "Initech"})
        client.alias("u3", "u4")
    wait_until(lambda: len(calls_of(project, "/all")) >= 9 and len(calls_of(project, "/some")) >= 5)
    told = calls_of(project, "/all")
    assert sorted(body["type"] for body in told) == sorted(
        ["page", "track", "identify", "track", "track", "screen", "identify", "group", "alias"]
    )
    assert {body["type"] for body in calls_of(project, "/some")} == {"identify", "track"}
    of_u1 = [body["type"] for body in told if body.get("userId") == "u1"]
    assert of_u1 == ["identify", "track", "group"]
    for body in told:
        assert body["context"]["library"]["name"] == "analytics-python"
        assert body["channel"] == "server" and body["version"] == 2 and "writeKey" not in body
        assert abs(datetime.fromisoformat(body["receivedAt"]) - datetime.now(UTC)) < timedelta(minutes=5)
    back = next(b for b in told if b["type"] == "track" and b.get("userId") == "u1")
    assert abs(datetime.fromisoformat(back["timestamp"]) - (NOW - timedelta(days=3))) < timedelta(seconds=30)
    assert {call.signature for call in project.receiver.calls if call.path == "/all"} == {"ok"}

    ran = project.cli("run", "--json")  # beside the relay
    assert ran.code == 0, ran.err
    members = {path_user_key[1:]: v for path_user_key, v in project.receiver.told.items() if path_user_key[0] == "/all"}
    assert {user for (user, key), value in members.items() if key == "order_completed_last_30days" and value} == {"u1"}
    assert {user for (user, key), value in members.items() if key == "spenders" and value} == {"u1", "old"}
    assert {user for (user, key), value in members.items() if key == "quiet_pros" and value} == {"u2"}
    status = project.cli("status", "--json").json["relay"]
    assert status["status"] == "running"
    counts = {(c["type"], c["outcome"], c["workflow"]): c["count"] for c in status["messages"]}
    assert counts["identify", "filtered by integrations", None] == 1
    assert counts["page", "filtered by messages", "some"] == 1
    code, said = relay.end()
    assert code == 0 and "stopped" in said
    assert project.cli("status", "--json").json["relay"]["status"] == "succeeded"


def in_order(calls: list[Call], workflow: str) -> dict[str, list[int]]:
    """The numbers that each user's messages carry, in the order in which they first arrived; a repeat is the same."""
    bodies: dict[str, Any] = {}
    numbers: dict[str, list[int]] = defaultdict(list)
    for call in calls:
        if call.path != workflow or call.body["type"] != "track":
            continue
        said = {name: call.body[name] for name in ("userId", "properties", "timestamp")}
        if call.body["messageId"] not in bodies:
            bodies[call.body["messageId"]] = said
            numbers[call.body["userId"]].append(call.body["properties"]["n"])
        assert bodies[call.body["messageId"]] == said
    return numbers


@pytest.mark.slow
def test_segments_library_through_restarts_under_load(project: Project, relay: Relay) -> None:
    relay.start()
    users, each = 20, 100
    with segment(relay, upload_interval=0.02, upload_size=50) as client:
        for n in range(each):
            for user in range(users):
                client.track(f"u{user}", "Step", {"n": n})
            if n in (20, 50, 80):
                code, _ = relay.end()
                assert code == 0
                relay.start()
    expected = {f"u{user}": list(range(each)) for user in range(users)}
    wait_until(lambda: len(project.receiver.calls) >= 2 * users * each)
    for workflow in ("/all", "/some"):
        assert in_order(project.receiver.calls, workflow) == expected
    code, _ = relay.end()
    assert code == 0


def check_killed(project: Project, state: str, seconds: float, seed: int) -> None:
    """Clients that send one message after another and repeat it until it is acknowledged; a relay that is killed."""
    project.write(jobs_yaml(state, project.url))
    assert project.cli("migrate").code == 0
    relay, draw = Relay(project), random.Random(seed)
    stop = threading.Event()
    acknowledged: dict[str, int] = {}
    answers: list[int] = []

    def send(user: str) -> None:
        n = 0
        with httpx.Client(base_url=relay.url, auth=(KEY, ""), timeout=5) as client:
            while not stop.is_set():
                message = {"userId": user, "event": "Step", "properties": {"n": n}, "messageId": f"{user}-{n}"}
                try:
                    status = client.post("/v1/track", json=message).status_code
                except httpx.TransportError:
                    time.sleep(0.01)
                    continue
                answers.append(status)
                if status == 200:
                    acknowledged[user] = n = n + 1

    clients = [threading.Thread(target=send, args=(f"u{number}",)) for number in range(8)]
    relay.start()
    for client in clients:
        client.start()
    kills = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(draw.uniform(0.1, 0.9))
        relay.end(signal.SIGKILL)
        kills += 1
        relay.start()
    stop.set()
    for client in clients:
        client.join(DEADLINE_SECONDS)
    relay.end(signal.SIGKILL)
    project.receiver.fail = 0
    ran = project.cli("run", "--json")  # what the relay left, any later run delivers
    assert ran.code == 0, ran.err
    assert kills >= 3 and set(answers) <= {200, 503} and sum(acknowledged.values()) > 50
    for workflow in ("/all", "/some"):
        arrived = in_order(project.receiver.calls, workflow)
        for user, count in acknowledged.items():
            # a message may have been kept whose answer the kill cut off
            assert arrived[user] == list(range(len(arrived[user]))), (user, arrived[user])
            assert len(arrived[user]) in (count, count + 1), (user, count, len(arrived[user]))
    engine = sa.create_engine(state, poolclass=sa.pool.NullPool)
    events = sa.table(RELAY_EVENTS, sa.column("message_id"))
    with engine.connect() as connection:
        kept = connection.execute(sa.select(events.c.message_id)).scalars().all()
    assert len(kept) == len(set(kept)), "a repeat was kept twice"
    assert {f"{user}-{n}" for user, count in acknowledged.items() for n in range(count)} <= set(kept)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_killed_at_random_instants(project: Project) -> None:
    project.receiver.fail, project.receiver.status = 0.05, 503
    check_killed(project, f"sqlite:///{project.folder}/state.db", 12, int(os.environ.get("SEED", "1")))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_killed_at_random_instants_on_postgresql(project: Project, new_database: Callable[[], str]) -> None:
    project.receiver.fail, project.receiver.status = 0.05, 503
    check_killed(project, new_database(), 12, int(os.environ.get("SEED", "2")))


@pytest.mark.slow
def test_start_takes_calls_too(project: Project, relay: Relay) -> None:
    text = jobs_yaml("sqlite:///state.db", project.url)
    project.write(text.replace("- name: Lifecycle", "- name: Lifecycle\n    schedule: every 1 second"))
    page = free_port()
    relay.process = project.start("start", "--port", str(page), "--relay", "--relay-port", str(relay.port))
    wait_until(relay.answers)
    with segment(relay, upload_interval=0.05) as client:
        client.track("u1", "Order Completed", {"revenue": 60})
    told = project.receiver.told
    wait_until(lambda: told.get(("/all", "u1", "order_completed_last_30days")) is True)
    assert [body["event"] for body in calls_of(project, "/all") if body["type"] == "track"] == ["Order Completed"]
    counted = 'audience_sync_relay_messages_total{outcome="received",type="track",workflow=""} 1.0'
    wait_until(lambda: counted in httpx.get(f"http://127.0.0.1:{page}/metrics").text)
    code, _ = relay.end()
    assert code == 0


def test_what_is_wrong_with_the_relay_is_told_at_once(project: Project) -> None:
    text = jobs_yaml("sqlite:///state.db", project.url)
    project.write(text.replace("relay: {", "# relay: {").replace("events: relay", "events: {}"))
    ran = project.quick("relay")
    assert ran.code == 2
    project.write("source: sqlite:///shop.db\n" + text)
    ran = project.quick("relay")
    assert ran.code == 2 and "leave source: out" in ran.err
    project.write(text)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ran = project.quick("relay", "--port", str(taken.getsockname()[1]))
    assert ran.code == 2 and "choose another port" in ran.err
