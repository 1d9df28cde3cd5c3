"""Whatever is sent, in any shape, is kept or refused: never an answer of 5xx, and what was refused left nothing."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.relay import Store

from audience_sync.clock import utcnow
from audience_sync.config.model import MESSAGES, Relay
from audience_sync.database import writing
from audience_sync.relay.http import ENDPOINTS, application
from audience_sync.relay.inbox import Inbox
from audience_sync.relay.store import store
from audience_sync.state.tables import RELAY_EVENTS, outbox, relay_counts, relay_messages, relay_seen

text = st.text(max_size=12) | st.sampled_from(["u1", "u2", "a1", "", "\x00", "\ud800", "x" * 300, "'", '"', "\\u0000"])
scalar = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | text
anything = st.recursive(scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))
moment = st.datetimes().map(lambda at: at.isoformat()) | st.sampled_from(
    ["2026-01-01T00:00:00.000Z", "0001-01-01", "9999-12-31T23:59:59.999Z", "2026-01-01T00:00:00+14:00", "now"]
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(MESSAGES) | anything,
        "userId": text | anything,
        "anonymousId": text | anything,
        "previousId": text | anything,
        "groupId": text | anything,
        "event": text | anything,
        "name": anything,
        "properties": st.dictionaries(text, anything, max_size=3) | anything,
        "traits": st.dictionaries(text, anything, max_size=3) | anything,
        "context": st.dictionaries(text, anything, max_size=3) | anything,
        "integrations": st.dictionaries(st.sampled_from(["All", "tray.io", "Tray.io"]) | text, anything) | anything,
        "timestamp": moment | anything,
        "sentAt": moment | anything,
        "messageId": text | anything,
        "version": anything,
        "channel": anything,
    },
)
single = st.tuples(st.sampled_from([*ENDPOINTS, "nonsense", "%00"]), fields | anything)
several = st.tuples(
    st.sampled_from(["batch", "import", "b"]),
    st.fixed_dictionaries(
        {"batch": st.lists(fields, max_size=4) | anything},
        optional={"sentAt": moment, "context": anything, "integrations": anything},
    ),
)
mangled = st.sampled_from(["as it is"] * 8 + ["cut off", "gzip", "gzip cut off", "bytes"])


def body_of(payload: Any, how: str) -> tuple[bytes, dict[str, str]]:
    raw = json.dumps(payload).encode()
    if how == "cut off":
        return raw[: len(raw) // 2], {}
    if how == "bytes":
        return raw.replace(b'"', b"\xfe", 1), {}
    if how.startswith("gzip"):
        packed = gzip.compress(raw)
        return packed[: len(packed) // 2] if how.endswith("off") else packed, {"Content-Encoding": "gzip"}
    return raw, {}


def fuzz(opened: Store, examples: int) -> None:
    def commit(messages: Any) -> None:
        with writing(opened.connection) as connection:
            store(connection, messages, opened.routes, utcnow())

    def kept() -> tuple[int, ...]:
        with opened.connection.begin():
            counts = [
                opened.connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
                for table in (outbox, relay_messages, relay_seen)
            ]
            received = opened.connection.execute(
                sa.select(sa.func.sum(relay_counts.c.count)).where(relay_counts.c.outcome == "received")
            ).scalar()
        return (*counts, int(received or 0))

    loop = asyncio.new_event_loop()
    inbox = Inbox(commit)
    running = loop.create_task(inbox.run())
    app = application(Relay(write_keys=["wk"]), inbox)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://relay")
    authorization = {"Authorization": "Basic " + base64.b64encode(b"wk:").decode()}
    accepted = 0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(single | several, mangled)
    def check(sent: tuple[str, Any], how: str) -> None:
        nonlocal accepted
        body, headers = body_of(sent[1], how)
        before = kept()
        answer = loop.run_until_complete(
            client.post(f"/v1/{sent[0]}", content=body, headers={**authorization, **headers})
        )
        assert answer.status_code in (200, 400, 404, 413), (answer.status_code, answer.text)
        assert answer.json()["success"] is (answer.status_code == 200)
        if answer.status_code == 200:
            accepted += 1
        else:
            assert kept() == before

    try:
        check()
        # what was kept is what databases and JSON readers take: the view reads, and each body is JSON
        with opened.connection.begin():
            for row in opened.connection.execute(sa.select(outbox.c.value)):
                assert isinstance(json.loads(row.value), dict)
            events = sa.table(RELAY_EVENTS, sa.column("properties"))
            for row in opened.connection.execute(sa.select(events.c.properties)):
                assert isinstance(json.loads(row.properties), dict)
        assert accepted > examples // 50
    finally:
        inbox.close()
        loop.run_until_complete(running)
        loop.run_until_complete(client.aclose())
        loop.close()
        opened.connection.close()
        opened.engine.dispose()


@pytest.mark.slow
def test_fuzzed_requests(tmp_path: Path) -> None:
    fuzz(Store(f"sqlite:///{tmp_path}/state.db", tmp_path), 60)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_many_fuzzed_requests(tmp_path: Path, database: str, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    if database == "postgresql":
        new_database: Callable[[], str] = request.getfixturevalue("new_database")
        url = new_database()
    fuzz(Store(url, tmp_path), 600)
