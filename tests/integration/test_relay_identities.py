"""Who is who, on both databases: what an anonymous visitor did counts for the user once they are known."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.relay import NOW, Store

from audience_sync.database import writing
from audience_sync.relay.forgetting import forget
from audience_sync.relay.messages import read_one
from audience_sync.relay.store import DEDUPE_WINDOW, drop_old_ids, store
from audience_sync.state.suppression import suppress
from audience_sync.state.tables import outbox, relay_links, relay_messages, relay_seen


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/state.db"
    if request.param == "postgresql":
        new_database: Callable[[], str] = request.getfixturevalue("new_database")
        url = new_database()
    made = Store(url, tmp_path)
    yield made
    made.connection.close()
    made.engine.dispose()


def track(event: str, **who: str) -> dict[str, Any]:
    return {"type": "track", "event": event, **who}


def identify(traits: dict[str, Any] | None = None, **who: str) -> dict[str, Any]:
    return {"type": "identify", "traits": traits or {}, **who}


def alias(previous: str, user: str) -> dict[str, Any]:
    return {"type": "alias", "previousId": previous, "userId": user}


@pytest.mark.parametrize("together", [True, False])
def test_who_is_who(opened: Store, together: bool) -> None:
    def take(*calls: dict[str, Any]) -> None:
        opened.take(*calls, together=together)

    take(track("Before", anonymousId="a1"), identify({"seen": 1, "plan": "free"}, anonymousId="a1"))
    assert (opened.events(), opened.people()) == ([], {})
    take(identify({"plan": "pro"}, userId="u1", anonymousId="a1"), track("After", anonymousId="a1"))
    assert opened.events() == [("u1", "After"), ("u1", "Before")]
    assert opened.people() == {"u1": {"seen": 1, "plan": "pro"}}
    # a second user of one device does not get what the first did
    take(track("Other", userId="u2", anonymousId="a1"), track("Anonymous again", anonymousId="a1"))
    assert opened.events() == [("u1", "After"), ("u1", "Anonymous again"), ("u1", "Before"), ("u2", "Other")]
    # u1 is renamed, and renamed again; what comes in under the old names counts for the new one
    take(alias("u1", "v1"), identify({"plan": None, "city": "Bonn"}, userId="u1"), alias("v1", "w1"))
    take(track("Late", userId="u1"), track("Later", userId="v1"))
    assert {user for user, name in opened.events() if name != "Other"} == {"w1"} and len(opened.events()) == 6
    assert opened.people() == {"w1": {"seen": 1, "city": "Bonn"}, "u2": {}}
    # back to a name that it had
    take(alias("w1", "u1"), track("Back", userId="w1"))
    assert {user for user, name in opened.events() if name != "Other"} == {"u1"}
    assert opened.people() == {"u1": {"seen": 1, "city": "Bonn"}, "u2": {}}
    # alias of an anonymous id, and of oneself
    take(track("Visited", anonymousId="a9"), alias("a9", "u9"), alias("u9", "u9"))
    assert ("u9", "Visited") in opened.events()


def test_a_batch_says_the_same_as_its_messages_one_by_one(opened: Store, tmp_path: Path) -> None:
    draw = random.Random(11)
    other = Store(f"sqlite:///{tmp_path}/other.db", tmp_path)
    users, anonymous = ["u1", "u2", "u3"], ["a1", "a2", "u1"]
    for _ in range(25):
        calls: list[dict[str, Any]] = []
        for _ in range(draw.randrange(1, 7)):
            who: dict[str, str] = draw.choice(
                [
                    {"userId": draw.choice(users)},
                    {"anonymousId": draw.choice(anonymous)},
                    {"userId": draw.choice(users), "anonymousId": draw.choice(anonymous)},
                ]
            )
            kind = draw.randrange(3)
            if kind == 0:
                calls.append(track(f"E{draw.randrange(3)}", **who))
            elif kind == 1:
                calls.append(identify({draw.choice("xyz"): draw.choice([1, 2, None])}, **who))
            else:
                calls.append(alias(draw.choice(users + anonymous), draw.choice(users)))
        opened.take(*calls)
        other.take(*calls, together=False)
        assert (opened.events(), opened.people()) == (other.events(), other.people())
    other.connection.close()
    other.engine.dispose()


def test_counted_filtered_and_dropped_when_it_comes_again(opened: Store) -> None:
    first = {**track("E", userId="u"), "messageId": "m1"}
    assert opened.take(first, {**first, "event": "twin"}, {**track("E", userId="v"), "messageId": "m2"}) == 2
    assert opened.take(first) == 0
    assert opened.take({"type": "page", "userId": "u"}, {**track("E", userId="u"), "integrations": {"All": False}}) == 1
    assert opened.counts() == {
        ("track", "received", ""): 5,
        ("track", "duplicate", ""): 2,
        ("track", "forwarded", "crm"): 2,
        ("track", "forwarded", "ads"): 2,
        ("track", "filtered by integrations", ""): 1,
        ("page", "received", ""): 1,
        ("page", "forwarded", "crm"): 1,
        ("page", "filtered by messages", "ads"): 1,
    }
    with opened.connection.begin():
        sent = opened.connection.execute(sa.select(outbox.c.user_id, outbox.c.value).order_by(outbox.c.seq)).all()
    assert [(user, json.loads(value)["messageId"][:1]) for user, value in sent][:2] == [("u", "m"), ("v", "m")]
    with writing(opened.connection):
        drop_old_ids(opened.connection, NOW + DEDUPE_WINDOW)
        assert len(opened.connection.execute(sa.select(relay_seen)).all()) == 4
        drop_old_ids(opened.connection, NOW + DEDUPE_WINDOW + timedelta(seconds=1))
        assert not opened.connection.execute(sa.select(relay_seen)).all()


def test_a_forgotten_user_is_gone_under_every_name(opened: Store) -> None:
    opened.take(
        track("Visited", anonymousId="a1"),
        track("Did", userId="u1", anonymousId="a1"),
        identify({"plan": "pro"}, userId="u1"),
        alias("u1", "v1"),
        track("Did", userId="v1"),
        track("Did", userId="other", anonymousId="a1"),
        identify({"plan": "free"}, userId="other"),
    )
    with writing(opened.connection):
        assert forget(opened.connection, ["u1"]) == {"u1", "v1", "a1"}
    assert opened.events() == [("other", "Did")]
    assert opened.people() == {"other": {"plan": "free"}}
    with opened.connection.begin():
        for table in (outbox, relay_messages):
            assert set(opened.connection.execute(sa.select(table.c.user_id)).scalars()) == {"other"}
        assert not opened.connection.execute(sa.select(relay_links)).all()
    # who comes back starts anew
    opened.take(track("Did", anonymousId="a1"), track("Did", userId="u1"))
    assert opened.events() == [("other", "Did"), ("u1", "Did")]


def test_what_comes_in_from_a_forgotten_user_is_dropped(opened: Store) -> None:
    with writing(opened.connection):
        suppress(opened.connection, ["u1", "a1"], NOW.replace(tzinfo=None))
    opened.take(
        track("Did", userId="u1"),
        track("Did", anonymousId="a1"),
        track("Did", userId="u2", anonymousId="a1"),
        identify({}, userId="u1"),
        alias("u1", "u2"),
    )
    assert opened.events() == [("u2", "Did")]
    assert opened.connection.execute(sa.select(outbox.c.user_id).distinct()).scalars().all() == ["u2"]


def test_two_relays_keep_a_message_once_and_in_order(opened: Store) -> None:
    """Both are sent the same, as by clients that come again at the other; each user's numbers stay in order."""
    users, each = 3, 30

    def take(step: int) -> None:
        with opened.engine.connect() as connection:
            for n in range(0, each, step):
                calls = [
                    {**track("Step", userId=f"u{user}"), "messageId": f"u{user}-{at}", "properties": {"n": at}}
                    for at in range(n, min(n + step, each))
                    for user in range(users)
                ]
                with writing(connection):
                    store(connection, [read_one("track", call, NOW, "server") for call in calls], opened.routes, NOW)

    with ThreadPoolExecutor(2) as both:
        for future in [both.submit(take, 3), both.submit(take, 5)]:
            future.result(60)
    assert len(opened.events()) == users * each
    numbers: dict[str, list[int]] = {}
    with opened.connection.begin():
        for user, value in opened.connection.execute(
            sa.select(outbox.c.user_id, outbox.c.value).order_by(outbox.c.seq)
        ):
            numbers.setdefault(user, []).append(json.loads(value)["properties"]["n"])
    assert numbers == {f"u{user}": list(range(each)) for user in range(users)}
    assert opened.counts()["track", "duplicate", ""] == users * each
