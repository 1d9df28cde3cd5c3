"""A backfill tells one workflow everything, in order with whatever changes meanwhile, and no other anything."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.scores import Shop, shop

from audience_sync.backfill import backfill
from audience_sync.delivery.sender import Patience
from audience_sync.errors import ConfigError
from audience_sync.receiver import Receiver

__all__ = ["shop"]


def said(receiver: Receiver) -> list[tuple[str, str, str, Any]]:
    return [
        (call.path, call.body["userId"], key, value)
        for call in receiver.calls
        for key, value in call.body["traits"].items()
    ]


def test_current_members_to_one_workflow_in_key_order(shop: Shop, receiver: tuple[Receiver, str]) -> None:
    calls = receiver[0]
    shop.sync(u3=3, u1=1, u2=2, gone=0)
    shop.sync(u3=3, u1=1, u2=2)
    calls.calls.clear()
    report = backfill(shop.config, workflows=["w2"], chunk_rows=2)
    assert report.is_done and report.delivered == {"w2": 6}
    assert sorted(said(calls)) == sorted(
        [("/w2", u, "a", True) for u in ("u1", "u2", "u3")] + [("/w2", f"u{n}", "t", n) for n in (1, 2, 3)]
    )
    calls.calls.clear()
    assert backfill(shop.config, audiences=["a"], workflows=["w1"], include_exited=True).is_done
    assert sorted(said(calls)) == [
        ("/w1", "gone", "a", False),
        ("/w1", "u1", "a", True),
        ("/w1", "u2", "a", True),
        ("/w1", "u3", "a", True),
    ]
    calls.calls.clear()
    shop.sync(u3=3, u1=1, u2=2)
    assert calls.calls == [], "a backfill is not a change"


def test_limit_and_then_on(shop: Shop, receiver: tuple[Receiver, str]) -> None:
    calls = receiver[0]
    shop.sync(**{f"u{n}": n for n in range(7)})
    calls.calls.clear()
    for reached in (3, 6):
        report = backfill(shop.config, audiences=["a"], workflows=["w1"], limit=3, chunk_rows=2)
        assert len(calls.calls) == reached and not report.pairs[0].finished
    report = backfill(shop.config, audiences=["a"], workflows=["w1"])
    assert report.pairs[0].resumed == 6 and report.pairs[0].finished
    assert [user for _, user, _, _ in said(calls)] == [f"u{n}" for n in range(7)]
    calls.calls.clear()
    assert backfill(shop.config, audiences=["a"], workflows=["w1"]).pairs[0].resumed == 0
    assert len(calls.calls) == 7, "one that was finished begins anew"


def test_a_change_meanwhile_is_not_overwritten(shop: Shop, receiver: tuple[Receiver, str]) -> None:
    """The workflow is away while the backfill's rows and then newer changes are recorded."""
    calls = receiver[0]
    shop.sync(u1=1, u2=2, u3=3)
    calls.answer = lambda path, _body: 503 if path == "/w1" else None
    calls.calls.clear()
    report = backfill(shop.config, workflows=["w1"], patience=Patience(silent=0.0))
    assert not report.is_done and "503" in str(report.stopped)
    calls.answer = None
    shop.sync(u1=10, u3=3)
    assert backfill(shop.config, workflows=["w1"]).is_done
    told = {(u, key): value for (path, u, key), value in calls.told.items() if path == "/w1"}
    assert told == {
        ("u1", "a"): True, ("u2", "a"): False, ("u3", "a"): True,
        ("u1", "t"): 10, ("u2", "t"): None, ("u3", "t"): 3,
    }  # fmt: skip
    numbers: dict[tuple[str, str], int] = {}
    for call in calls.calls:
        if call.status < 300 and call.path == "/w1":
            (key,) = call.body["traits"]
            number = int(call.body["messageId"].rpartition("-")[2])
            assert number > numbers.get((call.body["userId"], key), 0), "an older value after a newer one"
            numbers[call.body["userId"], key] = number


def test_what_was_written_and_not_delivered_goes_out_with_the_same_command(
    shop: Shop, receiver: tuple[Receiver, str]
) -> None:
    calls = receiver[0]
    shop.sync(u1=1, u2=2)
    calls.calls.clear()
    stop = threading.Event()
    stop.set()
    assert backfill(shop.config, audiences=["a"], workflows=["w1"], stopping=stop).stopped
    assert calls.calls == []
    calls.answer = lambda _path, _body: 503
    assert not backfill(shop.config, audiences=["a"], workflows=["w1"], patience=Patience(silent=0.0)).is_done
    calls.answer = None
    calls.calls.clear()
    report = backfill(shop.config, audiences=["a"], workflows=["w1"])
    assert report.is_done and report.pairs[0].resumed == 2
    assert sorted(user for _, user, _, _ in said(calls)) == ["u1", "u2"], "each once, not a second backfill"


def test_what_cannot_be_backfilled(shop: Shop) -> None:
    with pytest.raises(ConfigError, match="no sync has told"):
        backfill(shop.config)
    with pytest.raises(ConfigError, match="no workflow 'w3'"):
        backfill(shop.config, workflows=["w3"])
    with pytest.raises(ConfigError, match="no audience or trait 'b'"):
        backfill(shop.config, audiences=["b"])
