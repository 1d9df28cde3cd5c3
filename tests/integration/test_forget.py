"""A forgotten user is gone from state, deleted at every workflow, and not brought back; whatever else is going on."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import sqlalchemy as sa
from support.scores import Shop, shop

from audience_sync import diff
from audience_sync.backfill import backfill
from audience_sync.delivery.sender import Patience
from audience_sync.forget import forget, unforget
from audience_sync.receiver import Call, Receiver
from audience_sync.state.tables import computations

__all__ = ["shop"]

IMPATIENT = Patience(silent=0.0)


def calls_of(receiver: Receiver, path: str, user: str) -> list[Call]:
    return [
        call
        for call in receiver.calls
        if call.path == path and user in (call.body.get("userId"), call.body.get("userID")) and call.status < 300
    ]


def traces(shop: Shop, user: str) -> list[str]:
    """Every column of every table of state in which the user's id stands, alone or inside a text."""
    engine = sa.create_engine(shop.config.state, poolclass=sa.pool.NullPool)
    found = []
    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        for name in inspector.get_table_names():
            if not name.startswith("audience_sync_"):
                continue
            table = sa.Table(name, sa.MetaData(), autoload_with=connection)
            for column in table.c:
                holds = sa.cast(column, sa.Text).contains(user, autoescape=True)
                if connection.execute(sa.select(sa.literal(1)).select_from(table).where(holds).limit(1)).first():
                    found.append(f"{name}.{column.name}")
    return found


def test_gone_deleted_and_not_brought_back(shop: Shop, receiver: tuple[Receiver, str]) -> None:
    calls = receiver[0]
    shop.sync(alice=1, bob=2, former=3)
    shop.sync(alice=1, bob=2)
    calls.answer = lambda path, body: 400 if path == "/w2" and body.get("userId") == "alice" else None
    shop.set(alice=5, bob=2)
    shop.run(patience=IMPATIENT)
    assert "audience_sync_attempts.user_id" in traces(shop, "alice")
    calls.calls.clear()
    report = forget(shop.config, ["alice", "former", "nobody"])
    assert report.is_done
    alice = report.as_json()["users"][0]
    assert alice["was_in"] == ["a", "t"]
    assert alice["erased"]["memberships"] == 2 and alice["erased"]["dead_letters"] == 1
    assert {call["status"] for call in alice["calls"]} == {"acknowledged"}
    for path in ("/w1", "/w2"):
        (call,) = calls_of(calls, path, "alice")
        assert call.signature == "ok"
        assert sorted(call.body) == ["messageId", "timestamp", "type", "userID"]
        assert call.body["type"] == "delete"
        assert call.body["messageId"] in {c["message_id"] for c in alice["calls"]}
    for user in ("alice", "former", "nobody"):
        assert traces(shop, user) == []
    calls.calls.clear()
    found = shop.sync(alice=6, bob=2, carol=3).jobs[0].computations
    assert [(c.size, c.entered) for c in found] == [(2, 1), (2, 1)]
    assert backfill(shop.config, include_exited=True).is_done
    assert not calls_of(calls, "/w1", "alice") and not calls_of(calls, "/w2", "alice")
    assert traces(shop, "alice") == []
    calls.answer = None
    assert unforget(shop.config, ["alice", "bob"]) == ["alice"]
    shop.sync(alice=6, bob=2, carol=3)
    assert {tuple(c.body["traits"].items()) for c in calls_of(calls, "/w2", "alice")} == {(("a", True),), (("t", 6),)}


def test_a_first_sync_leaves_them_out(shop: Shop, receiver: tuple[Receiver, str]) -> None:
    shop.set(alice=1, bob=2)
    assert forget(shop.config, ["alice"]).is_done
    found = shop.sync(alice=1, bob=2).jobs[0].computations
    assert [(c.size, c.initial) for c in found] == [(1, True), (1, True)]
    assert all("userId" not in call.body or call.body["userId"] == "bob" for call in receiver[0].calls)
    assert traces(shop, "alice") == []


def test_who_is_forgotten_between_a_diff_and_its_recording_is_not_counted(
    shop: Shop, receiver: tuple[Receiver, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who stays in, one who leaves, and one who comes: the next sync starts from the right size."""
    shop.sync(alice=1, bob=2, carol=3, dave=4)
    weigh = diff.weigh

    def forget_meanwhile(state: sa.Connection) -> None:
        weigh(state)
        forget(shop.config, ["alice", "bob", "erin"])

    monkeypatch.setattr(diff, "weigh", forget_meanwhile)
    found = shop.sync(alice=1, carol=3, dave=4, erin=5, frank=6).jobs[0].computations
    monkeypatch.undo()
    assert [(c.entered, c.exited) for c in found] == [(1, 0), (1, 0)]
    with sa.create_engine(shop.config.state, poolclass=sa.pool.NullPool).connect() as state:
        sizes = sa.select(computations.c.size).where(computations.c.first_sync_id.is_not(None))
        assert list(state.execute(sizes).scalars()) == [3, 3]
    assert all(traces(shop, user) == [] for user in ("alice", "bob", "erin"))
    found = shop.sync(carol=3, dave=4).jobs[0].computations
    assert [(c.size, c.entered, c.exited) for c in found] == [(2, 0, 1), (2, 0, 1)]
    assert not [call for call in receiver[0].calls if call.body.get("userId") == "erin"]


def test_a_workflow_that_is_away_is_told_when_it_is_back(shop: Shop, receiver: tuple[Receiver, str]) -> None:
    """What it had not been told before is not told any more; what it is told after `unforget` comes after."""
    calls = receiver[0]
    shop.sync(alice=1, bob=2)
    calls.answer = lambda path, _body: 503 if path == "/w1" else None
    shop.set(alice=9, bob=2)
    shop.run(patience=IMPATIENT)
    calls.calls.clear()
    report = forget(shop.config, ["alice"], patience=IMPATIENT)
    assert not report.is_done
    assert {c["workflow"]: c["status"] for c in report.as_json()["users"][0]["calls"]} == {
        "w1": "pending",
        "w2": "acknowledged",
    }
    shop.run(patience=IMPATIENT)
    unforget(shop.config, ["alice"])
    shop.run(patience=IMPATIENT)
    calls.answer = None
    shop.sync(alice=9, bob=2)
    first, *later = calls_of(calls, "/w1", "alice")
    assert first.body["type"] == "delete"
    assert sorted(str(call.body["traits"]) for call in later) == ["{'a': True}", "{'t': 9}"]


def test_a_call_in_flight_does_not_come_after_the_delete(shop: Shop, receiver: tuple[Receiver, str]) -> None:
    calls = receiver[0]
    shop.set(**{f"u{n:03}": n for n in range(60)})
    seen = threading.Event()
    held = threading.Event()

    def answer(path: str, body: dict[str, Any]) -> int | None:
        if body.get("userId") == "u007" and path == "/w1":
            seen.set()
            return None if held.is_set() else 503  # it fails while the sync runs, and is to be tried again
        return None

    calls.answer = answer
    calls.delay = 0.05
    running = threading.Thread(target=shop.run, kwargs={"patience": Patience(silent=5.0, first_pause=0.3)})
    running.start()
    assert seen.wait(20)
    report = forget(shop.config, ["u007"], patience=Patience(silent=5.0))
    held.set()
    running.join(60)
    shop.run()
    if not report.is_done:
        assert forget(shop.config, ["u007"]).is_done
    for path in ("/w1", "/w2"):
        told = calls_of(calls, path, "u007")
        assert told[-1].body["type"] == "delete"
    assert traces(shop, "u007") == []


@pytest.mark.slow
def test_many_at_once_in_bounded_time(shop: Shop) -> None:
    shop.sync(**{f"u{n:05}": n for n in range(6000)})
    began = time.monotonic()
    report = forget(shop.config, [f"u{n:05}" for n in range(0, 6000, 3)])
    assert report.is_done and len(report.users) == 2000
    assert time.monotonic() - began < 30
    found = shop.sync(**{f"u{n:05}": n for n in range(6000)}).jobs[0].computations
    assert [c.size for c in found] == [4000, 4000]
