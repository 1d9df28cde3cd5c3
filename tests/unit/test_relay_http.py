"""The HTTP surface: what clients are answered, and that of a bad request nothing is kept."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import pytest

from audience_sync.config.model import MESSAGES, Relay
from audience_sync.relay import http
from audience_sync.relay.http import application
from audience_sync.relay.messages import Message
from audience_sync.relay.refusals import Refused

KEY = "wk_test"
GOOD = {"userId": "u1", "event": "E", "groupId": "g", "previousId": "p"}


class Kept:
    """Stands for the inbox."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.refuses: Refused | None = None

    async def put(self, messages: Sequence[Message]) -> None:
        if self.refuses:
            raise self.refuses
        self.messages += messages


def basic(key: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(key.encode()).decode()}


AUTH = basic(KEY + ":")


def call(kept: Kept, requests: Callable[[httpx.AsyncClient], Any], *, origins: Sequence[str] = ()) -> Any:
    relay = Relay(write_keys=["wk_other", KEY], origins=list(origins))

    async def main() -> Any:
        transport = httpx.ASGITransport(application(relay, kept))
        async with httpx.AsyncClient(transport=transport, base_url="http://relay") as client:
            return await requests(client)

    return asyncio.run(main())


def post(kept: Kept, path: str, body: Any = None, headers: dict[str, str] | None = None, **options: Any) -> Any:
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    given = AUTH if headers is None else headers
    return call(kept, lambda client: client.post(path, content=content, headers=given), **options)


@pytest.mark.parametrize("endpoint", [*MESSAGES, "t", "i", "p", "s", "g", "a"])
def test_every_type_has_its_endpoint(endpoint: str) -> None:
    kept = Kept()
    answer = post(kept, f"/v1/{endpoint}", GOOD)
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    assert [m.type for m in kept.messages] == [next(t for t in MESSAGES if t.startswith(endpoint))]


@pytest.mark.parametrize("endpoint", ["batch", "import", "b"])
def test_batches(endpoint: str) -> None:
    kept = Kept()
    batch = [{"type": t, **GOOD} for t in MESSAGES]
    assert post(kept, f"/v1/{endpoint}", {"batch": batch}).json() == {"success": True}
    assert [m.type for m in kept.messages] == list(MESSAGES)


@pytest.mark.parametrize(
    ("headers", "body_key", "status"),
    [
        (AUTH, None, 200),
        (basic(KEY), None, 200),  # without the colon, as Segment takes it too
        ({}, KEY, 200),
        ({"Authorization": "Bearer token"}, KEY, 200),
        ({}, None, 401),
        ({}, "wrong", 401),
        ({}, 7, 401),
        (basic("wrong:"), KEY, 401),
        (basic(":" + KEY), None, 401),
        ({"Authorization": "Basic not-base64!"}, KEY, 401),
        ({"Authorization": "Basic "}, KEY, 401),
        (basic(KEY + "x:"), None, 401),
    ],
)
def test_write_keys(headers: dict[str, str], body_key: Any, status: int) -> None:
    kept = Kept()
    answer = post(kept, "/v1/track", {**GOOD, **({} if body_key is None else {"writeKey": body_key})}, headers)
    assert answer.status_code == status
    assert len(kept.messages) == (status == 200)
    if status == 401:
        assert answer.json()["success"] is False and KEY not in answer.text
        assert answer.headers["WWW-Authenticate"].startswith("Basic")


def zipped(document: Any) -> bytes:
    return gzip.compress(document if isinstance(document, bytes) else json.dumps(document).encode(), mtime=0)


GZIP = {**AUTH, "Content-Encoding": "gzip"}
LARGE = {**GOOD, "properties": {"x": "y" * 33_000}}
BOMB = gzip.compress(b"{" + b" " * 20_000_000)


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "code"),
    [
        ("track", b"", AUTH, 400, "malformed_json"),
        ("track", b"{", AUTH, 400, "malformed_json"),
        ("track", b"[]", AUTH, 400, "malformed_json"),
        ("track", b"\xff", AUTH, 400, "malformed_json"),
        ("track", {"userId": "u"}, AUTH, 400, "no_event"),
        ("track", {"event": "E"}, AUTH, 400, "no_user"),
        ("track", LARGE, AUTH, 413, "payload_too_large"),
        ("batch", {"batch": [{"type": "track", **LARGE}]}, AUTH, 400, "message_too_large"),
        ("batch", {"batch": [{"type": "track", **GOOD}], "x": "y" * 520_000}, AUTH, 413, "payload_too_large"),
        ("batch", {"batch": [{"type": "track", **GOOD}] * 2501}, AUTH, 400, "batch_too_long"),
        ("batch", {"batch": [{"type": "track", **GOOD}, {"type": "track"}]}, AUTH, 400, "no_user"),
        ("batch", {"batch": "x"}, AUTH, 400, "no_batch"),
        ("batch", {}, AUTH, 400, "no_batch"),
        ("track", b"not gzip", GZIP, 400, "bad_gzip"),
        ("track", zipped(GOOD)[:-9], GZIP, 400, "bad_gzip"),
        ("track", zipped(GOOD) + b"more", GZIP, 400, "bad_gzip"),
        ("track", zipped(LARGE), GZIP, 413, "payload_too_large"),
        ("batch", BOMB, GZIP, 413, "payload_too_large"),
        ("track", GOOD, {**AUTH, "Content-Encoding": "br"}, 415, "unknown_encoding"),
    ],
    ids=lambda value: str(value) if len(str(value)) < 40 else "…",
)
def test_faults_get_their_4xx_and_nothing_is_kept(
    path: str, body: Any, headers: dict[str, str], status: int, code: str
) -> None:
    kept = Kept()
    answer = post(kept, f"/v1/{path}", body, headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["success"] is False and answer.json()["message"]
    assert not kept.messages


def test_limits_are_met_exactly() -> None:
    kept = Kept()
    empty = len(json.dumps({**GOOD, "x": ""}))
    assert post(kept, "/v1/track", {**GOOD, "x": "y" * (32 * 1024 - empty)}).status_code == 200
    assert post(kept, "/v1/track", {**GOOD, "x": "y" * (32 * 1024 - empty + 1)}).status_code == 413
    assert post(kept, "/v1/track", zipped({**GOOD, "x": "y" * (32 * 1024 - empty)}), GZIP).status_code == 200
    assert len(kept.messages) == 2


def test_a_bomb_is_not_unfolded() -> None:
    import tracemalloc

    kept = Kept()
    tracemalloc.start()
    began = time.monotonic()
    assert post(kept, "/v1/batch", BOMB, GZIP).status_code == 413
    assert time.monotonic() - began < 2
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()


def test_other_paths_and_methods() -> None:
    kept = Kept()
    assert post(kept, "/v1/nonsense", GOOD).status_code == 404
    assert post(kept, "/", GOOD).json()["success"] is False
    got = call(kept, lambda client: client.get("/v1/track"))
    assert (got.status_code, got.json()["success"]) == (405, False)
    assert call(kept, lambda client: client.get("/healthz")).json() == {"status": "ok"}
    assert not kept.messages


def test_a_busy_relay_says_when_to_come_again() -> None:
    kept = Kept()
    kept.refuses = Refused(503, "busy", "come again", 2)
    answer = post(kept, "/v1/track", GOOD)
    assert (answer.status_code, answer.headers["Retry-After"], answer.json()["code"]) == (503, "2", "busy")


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_SECONDS", 0.05)

    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    kept = Kept()
    answer = call(kept, lambda client: client.post("/v1/track", content=slowly(), headers=AUTH))
    assert (answer.status_code, answer.json()["code"]) == (408, "too_slow")


def test_browsers_may_call_from_the_pages_that_are_listed() -> None:
    kept = Kept()
    shop, other = {"Origin": "https://shop.example"}, {"Origin": "https://other.example"}
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,authorization"}

    def preflight(origin: dict[str, str], **options: Any) -> Any:
        return call(kept, lambda client: client.options("/v1/t", headers={**origin, **asks}), **options)

    allowed = preflight(shop, origins=["https://shop.example"])
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://shop.example")
    refused = preflight(other, origins=["https://shop.example"])
    assert refused.status_code == 400 and "access-control-allow-origin" not in refused.headers
    assert "access-control-allow-origin" not in preflight(shop).headers
    # analytics.js sends text/plain without asking first, and its key in the body
    body = json.dumps({**GOOD, "writeKey": KEY})
    headers = {**shop, "Content-Type": "text/plain"}
    answer = post(kept, "/v1/t", body, headers, origins=["https://shop.example"])
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://shop.example")
    assert json.loads(kept.messages[-1].body)["channel"] == "browser"
    assert post(kept, "/v1/t", GOOD, origins=["*"]).status_code == 200
