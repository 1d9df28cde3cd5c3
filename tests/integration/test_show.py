"""What was told about a user, as long as it is kept; and what is kept for how long."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from support.scores import Shop, shop

from audience_sync import outbox
from audience_sync.clock import utcnow
from audience_sync.database import open_state, writing
from audience_sync.delivery.sender import Patience
from audience_sync.forget import forget
from audience_sync.outbox.dead_letters import Chosen, discard_dead
from audience_sync.receiver import Receiver
from audience_sync.show import what_is_known
from audience_sync.state import tables
from audience_sync.state.reading import reading

__all__ = ["shop"]

IMPATIENT = Patience(silent=0.0)


def known(shop: Shop, user: str) -> dict[str, Any]:
    with reading(shop.config.state) as connection:
        assert connection is not None
        return what_is_known(connection, user, shop.config)


def in_state(shop: Shop, work: Callable[[sa.engine.Connection], Any]) -> Any:
    engine = open_state(shop.config.state)
    try:
        with engine.connect() as connection, writing(connection):
            return work(connection)
    finally:
        engine.dispose()


def lines(found: dict[str, Any], workflow: str, key: str) -> list[tuple[Any, str]]:
    return [(one["value"], one["status"]) for one in found["told"] if (one["workflow"], one["key"]) == (workflow, key)]


def test_each_delivery_with_its_message_id_and_fate(shop: Shop, receiver: tuple[Receiver, str]) -> None:
    calls = receiver[0]
    shop.sync(alice=1, bob=2)
    shop.sync(bob=2)
    found = known(shop, "alice")
    assert found["now"] == [] and not found["forgotten"]
    assert lines(found, "w1", "a") == [(False, "acknowledged"), (True, "acknowledged")]
    ids = {one["message_id"] for one in found["told"]}
    assert ids == {call.body["messageId"] for call in calls.calls if call.body["userId"] == "alice"}
    assert all(one["at"] is not None and one["job"] == "j" for one in found["told"])
    bob = known(shop, "bob")
    assert [(item["key"], item["value"]) for item in bob["now"]] == [("a", True), ("t", 2)]

    calls.answer = lambda path, body: 400 if path == "/w1" and body.get("traits") == {"t": 7} else None
    shop.set(bob=7)
    shop.run(patience=IMPATIENT)
    found = known(shop, "bob")
    assert lines(found, "w1", "t")[0] == (7, "dead")
    assert lines(found, "w2", "t")[0] == (7, "acknowledged")
    (attempt,) = found["told"][0]["failed_attempts"]
    assert attempt["status"] == 400
    in_state(shop, lambda connection: discard_dead(connection, Chosen()))
    assert lines(known(shop, "bob"), "w1", "t")[0] == (7, "discarded")

    calls.answer = lambda path, _body: 503 if path == "/w2" else None
    shop.set(bob=8)
    shop.run(patience=IMPATIENT)
    shop.set(bob=9)
    shop.run(patience=IMPATIENT)
    assert {status for _, status in lines(known(shop, "bob"), "w2", "t")[:2]} <= {"pending", "waiting", "superseded"}
    calls.answer = None
    shop.sync(bob=9)
    assert lines(known(shop, "bob"), "w2", "t")[0] == (9, "acknowledged")
    nothing = {"user_id": "nobody", "forgotten": False, "now": [], "unknown": None, "told": []}
    assert known(shop, "nobody") == nothing
    forget(shop.config, ["bob"])
    assert known(shop, "bob") == {**nothing, "user_id": "bob", "forgotten": True}


def test_what_is_kept_for_how_long(shop: Shop, receiver: tuple[Receiver, str]) -> None:
    calls = receiver[0]
    shop.sync(u1=1)
    shop.sync(u1=2)
    calls.answer = lambda path, body: 400 if path == "/w2" and body.get("traits") == {"t": 3} else None
    shop.set(u1=3)
    shop.run(patience=IMPATIENT)
    now = utcnow()

    def count(*names: str) -> list[int]:
        return in_state(
            shop,
            lambda c: [
                c.execute(sa.select(sa.func.count()).select_from(getattr(tables, name))).scalar_one() for name in names
            ],
        )

    def prune(later: timedelta, deliveries: timedelta, history: timedelta) -> None:
        at = now + later
        while in_state(shop, lambda c: outbox.prune(c, at, deliveries=at - deliveries, history=at - history)):
            pass

    week, year = timedelta(days=7), timedelta(days=365)
    assert count("outbox", "syncs", "attempts", "leftovers") == [4, 3, 1, 1]
    prune(timedelta(days=1), week, year)
    assert count("outbox", "syncs", "attempts", "leftovers") == [4, 3, 1, 1]
    prune(timedelta(days=9), week, year)
    assert count("outbox", "syncs", "attempts", "leftovers") == [0, 3, 1, 1], "a dead letter keeps its attempts"
    prune(timedelta(days=400), week, year)
    assert count("outbox", "syncs", "results", "leftovers") == [0, 1, 2, 1], "each job's last sync stays"
    calls.answer = None
    shop.sync(u1=4)
    assert calls.told["/w2", "u1", "t"] == 4
