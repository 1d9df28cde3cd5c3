"""Receivers that misbehave, on real sockets: nothing is lost, and none holds up another."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from freezegun import freeze_time
from support import faults
from support.direct import DirectTransport
from support.faults import Misbehaving
from support.outgoing import Outgoing

from audience_sync.delivery.sender import Patience
from audience_sync.receiver import Receiver, Serving
from audience_sync.state.tables import attempts, leftovers, workflows

USERS = [f"u{n:03}" for n in range(60)]
QUICK = "timeout: 500 ms, read_timeout: 1 s, concurrency: 8"


def told(receiver: Misbehaving) -> set[str]:
    return {body["userId"] for body in receiver.taken}


@pytest.mark.parametrize("fault", [faults.reset, faults.garbage, faults.half_close, faults.answer("503 Busy")])
def test_a_fault_now_and_then_costs_a_retry_and_no_more(tmp_path: Path, fault: faults.Behaviour) -> None:
    count = 0

    def now_and_then(connection: socket.socket, body: dict[str, Any]) -> bool:
        nonlocal count
        count += 1
        return fault(connection, body) if count % 4 == 0 else receiver.ok(connection, body)

    receiver = Misbehaving(now_and_then)
    with receiver as url:
        outgoing = Outgoing(tmp_path, [f"w: {{url: '{url}/w', {QUICK}}}"], patience=Patience(first_pause=0.01))
        outgoing.put(USERS)
        found = outgoing.deliveries()["w"]
    assert (found["delivered"], found["pending"], found["dead"]) == (60, 0, 0)
    assert told(receiver) == set(USERS)
    ids: dict[str, set[str]] = {}
    for body in receiver.bodies:
        ids.setdefault(body["userId"], set()).add(body["messageId"])
    assert all(len(of_user) == 1 for of_user in ids.values()), "a repeat must carry the same messageId"
    # libcurl itself repeats a call, once, whose kept connection turned out to be dead: that is no attempt of ours.
    assert 0 < len(outgoing.query(sa.select(attempts))) <= len(receiver.bodies) - 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (faults.reset, "broke the connection"),
        (faults.stall, "did not answer in time"),
        (faults.garbage, "broke the connection"),
        (faults.half_close, "broke the connection"),
        (faults.drip, "did not answer in time"),
    ],
)
def test_a_workflow_that_only_misbehaves_is_given_up_on_and_loses_nothing(
    tmp_path: Path, fault: faults.Behaviour, said: str
) -> None:
    receiver = Misbehaving(fault)
    with receiver as url:
        outgoing = Outgoing(tmp_path, [f"w: {{url: '{url}/w', {QUICK}}}"])
        outgoing.put(USERS)
        report = outgoing.sync()
        found = report.jobs[0].deliveries[0]
        assert (found["delivered"], found["pending"], found["dead"]) == (0, 60, 0)
        assert report.exit_code == 1
        assert said in (report.jobs[0].error or "")
        receiver.behaviour = receiver.ok
        found = outgoing.deliveries()["w"]
    assert (found["delivered"], found["pending"], found["dead"]) == (60, 0, 0)
    assert told(receiver) == set(USERS)


@pytest.mark.slow
def test_one_bad_workflow_of_three_leaves_the_others_at_full_speed(tmp_path: Path) -> None:
    good = Receiver()
    bad = Misbehaving(faults.stall)
    with Serving(good) as url, bad as bad_url:
        outgoing = Outgoing(
            tmp_path,
            [f"w1: {{url: '{url}/w1'}}", f"bad: {{url: '{bad_url}/b', {QUICK}}}", f"w2: {{url: '{url}/w2'}}"],
            patience=Patience(silent=2.0, first_pause=0.01),
        )
        outgoing.put(USERS)
        found = outgoing.deliveries()
    assert found["w1"]["delivered"] == found["w2"]["delivered"] == 60
    assert found["bad"]["pending"] == 60
    assert max(found["w1"]["seconds"], found["w2"]["seconds"]) < found["bad"]["seconds"] / 2


def test_retry_after_is_obeyed(tmp_path: Path) -> None:
    first: float | None = None
    early = 0

    def busy_for_a_second(connection: socket.socket, body: dict[str, Any]) -> bool:
        nonlocal first, early
        now = time.monotonic()
        if first is None:
            first = now
            return faults.answer("429 Too Many Requests", "Retry-After: 1")(connection, body)
        early += now - first < 0.95
        return receiver.ok(connection, body)

    receiver = Misbehaving(busy_for_a_second)
    with receiver as url:
        outgoing = Outgoing(tmp_path, [f"w: {{url: '{url}/w', concurrency: 1}}"])
        outgoing.put(USERS)
        found = outgoing.deliveries()["w"]
    assert found["delivered"] == 60
    assert early == 0


@pytest.mark.slow
def test_up_and_down_and_up_again(tmp_path: Path) -> None:
    """Down for a while in the midst of a run: it is probed, not hammered, and the run goes on by itself."""
    down_for = 30
    refused = 0

    def flip(connection: socket.socket, body: dict[str, Any]) -> bool:
        nonlocal refused
        if len(receiver.taken) < 20 or time.monotonic() > up_at[0]:
            return receiver.ok(connection, body)
        refused += 1
        if refused == 1:
            up_at[0] = time.monotonic() + 1.0
        return faults.answer("502 Bad Gateway")(connection, body)

    up_at = [float("inf")]
    receiver = Misbehaving(flip)
    with receiver as url:
        outgoing = Outgoing(tmp_path, [f"w: {{url: '{url}/w', concurrency: 4}}"])
        outgoing.put(USERS)
        found = outgoing.deliveries()["w"]
    assert (found["delivered"], found["pending"], found["dead"]) == (60, 0, 0)
    assert refused < down_for
    assert outgoing.query(sa.select(workflows.c.breaker_opened_at))[0][0] is None


@pytest.mark.parametrize("status", ["401 Unauthorized", "410 Gone", "302 Found"])
def test_a_wrong_address_pauses_the_workflow(tmp_path: Path, status: str) -> None:
    elsewhere = Receiver()
    with Serving(elsewhere) as other:
        receiver = Misbehaving(faults.answer(status, f"Location: {other}/moved"))
        with receiver as url:
            outgoing = Outgoing(tmp_path, [f"w: {{url: '{url}/w', concurrency: 4}}"])
            outgoing.put(USERS)
            report = outgoing.sync()
            found = report.jobs[0].deliveries[0]
            assert (found["delivered"], found["pending"], found["dead"]) == (0, 60, 0)
            assert status.split()[0] in (report.jobs[0].error or "")
            assert outgoing.query(sa.select(workflows.c.paused_at))[0][0] is not None
            assert len(receiver.bodies) <= 4
            assert outgoing.deliveries()["w"]["pending"] == 60
            assert len(receiver.bodies) <= 5, "a paused workflow is asked once"
            receiver.behaviour = receiver.ok
            assert outgoing.deliveries()["w"]["delivered"] == 60
    assert not elsewhere.calls, "a redirect must not be followed"
    assert outgoing.query(sa.select(workflows.c.paused_at))[0][0] is None


def test_what_is_refused_is_a_dead_letter_with_the_answers_beginning(tmp_path: Path) -> None:
    receiver = Misbehaving(faults.endless)
    with receiver as url:
        outgoing = Outgoing(tmp_path, [f"w: {{url: '{url}/hook/s3cret-token', shared_secret: s3cret-token, {QUICK}}}"])
        outgoing.put(["u1"])
        found = outgoing.deliveries()["w"]
    assert (found["delivered"], found["pending"], found["dead"]) == (0, 0, 1)
    kept = outgoing.query(sa.select(attempts))[0]
    assert kept.status_code == 400
    assert kept.answer.startswith("no: …")
    assert "s3cret" not in kept.answer
    assert len(kept.answer) <= 2048


def test_a_poisonous_delivery_dies_after_ten_attempts_while_others_go_through(tmp_path: Path) -> None:
    def poison(connection: socket.socket, body: dict[str, Any]) -> bool:
        bad = body["userId"] == "u007"
        return (faults.answer("500 Oops") if bad else receiver.ok)(connection, body)

    receiver = Misbehaving(poison)
    with receiver as url:
        outgoing = Outgoing(tmp_path, [f"w: {{url: '{url}/w', max_attempts: 4}}"], patience=Patience(first_pause=0.001))
        outgoing.put(USERS)
        found = outgoing.deliveries()["w"]
    assert (found["delivered"], found["pending"], found["dead"]) == (59, 0, 1)
    assert [row.attempts for row in outgoing.query(sa.select(leftovers))] == [4]
    assert len(outgoing.query(sa.select(attempts))) == 4


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key in one file."""
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    try:
        subprocess.run(
            [*made, "-keyout", path, "-out", path.with_suffix(".crt")], check=True, capture_output=True, timeout=60
        )
    except FileNotFoundError:
        pytest.skip("no openssl command to make a certificate with")
    with path.open("a") as file:
        file.write(path.with_suffix(".crt").read_text())
    return path


def test_a_certificate_is_verified(tmp_path: Path, certificate: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    receiver = Misbehaving(faults.reset, tls)
    receiver.behaviour = receiver.ok
    with receiver as url:
        outgoing = Outgoing(tmp_path, [f"w: {{url: '{url}/w', {QUICK}}}"])
        outgoing.put(USERS)
        report = outgoing.sync()
        assert report.jobs[0].deliveries[0]["pending"] == 60
        assert "certificate" in (report.jobs[0].error or "")
        assert not receiver.bodies
        trusted = certificate.with_suffix(".crt")
        outgoing.workflows = [f"w: {{url: '{url}/w', ca_file: '{trusted}'}}"]
        assert outgoing.deliveries()["w"]["delivered"] == 60


def test_asked_to_stop_it_finishes_what_is_in_flight_and_keeps_the_rest(tmp_path: Path) -> None:
    stop = threading.Event()

    def slow(connection: socket.socket, body: dict[str, Any]) -> bool:
        if len(receiver.bodies) == 10:
            stop.set()
        time.sleep(0.05)
        return receiver.ok(connection, body)

    receiver = Misbehaving(slow)
    with receiver as url:
        outgoing = Outgoing(tmp_path, [f"w: {{url: '{url}/w', concurrency: 4}}"])
        outgoing.put(USERS)
        report = outgoing.sync(stopping=stop)
        found = report.jobs[0].deliveries[0]
        assert report.exit_code == 1
        assert found["delivered"] == len(receiver.taken) == len(receiver.bodies) < 60
        assert found["pending"] == 60 - found["delivered"]
        assert outgoing.deliveries()["w"]["delivered"] == 60 - found["delivered"]
    assert len(receiver.bodies) == 60, "nothing is sent twice after a clean stop"


def test_the_rate_is_a_ceiling(tmp_path: Path) -> None:
    receiver = Receiver()
    with Serving(receiver) as url:
        outgoing = Outgoing(tmp_path, [f"w: {{url: '{url}/w', rate: 100/s}}"])
        outgoing.put(USERS)
        found = outgoing.deliveries()["w"]
    assert found["delivered"] == 60
    times = [call.at for call in receiver.calls]
    assert times[-1] - times[0] > (60 - 1) / 100 - 0.15


def test_a_delivery_that_still_fails_after_a_day_is_given_up_on(tmp_path: Path) -> None:
    receiver = Receiver(answer=lambda _path, body: 500 if body["userId"] == "u007" else None)
    line = "w: {url: 'http://127.0.0.1/w', max_wait: 1 ms, max_attempts: 1000}"
    outgoing = Outgoing(tmp_path, [line], patience=Patience(silent=0.0, first_pause=0.001))
    outgoing.put(USERS)
    found = outgoing.deliveries(transports=lambda _: DirectTransport(receiver))["w"]
    assert (found["delivered"], found["pending"], found["dead"]) == (59, 1, 0)
    for hours, pending, dead in ((20, 1, 0), (25, 0, 1)):
        outgoing.put([*USERS, f"late{hours}"])  # the workflow itself works
        with freeze_time(datetime.now(UTC) + timedelta(hours=hours), tick=True):
            found = outgoing.deliveries(transports=lambda _: DirectTransport(receiver))["w"]
        assert (found["pending"], found["dead"]) == (pending, dead)


def test_a_proxy_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Misbehaving(faults.reset)
    proxy.behaviour = proxy.ok
    with proxy as url:
        monkeypatch.setenv("http_proxy", url)
        outgoing = Outgoing(tmp_path, ["w: {url: 'http://tray.invalid/w'}"])
        outgoing.put(["u1"])
        assert outgoing.deliveries()["w"]["delivered"] == 1
    assert told(proxy) == {"u1"}
