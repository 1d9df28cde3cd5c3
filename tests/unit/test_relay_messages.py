"""Segment's messages, read: ids, timestamps, integrations, and what is refused."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from audience_sync.relay.messages import Message, goes_to_tray, parse, read_batch, read_one
from audience_sync.relay.refusals import Refused

RECEIVED = datetime(2026, 3, 1, 12, 0, 0)


def one(message_type: str = "track", **fields: Any) -> Message:
    given = {"userId": "u1", "event": "Ordered", **fields}
    return read_one(message_type, {key: value for key, value in given.items() if value is not None}, RECEIVED, "server")


def body(message: Message) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(message.body)
    return read


@pytest.mark.parametrize(
    ("said", "sent", "expected"),
    [
        (None, None, "2026-03-01T12:00:00.000Z"),
        ("2026-03-01T10:00:00Z", None, "2026-03-01T10:00:00.000Z"),
        # the client's clock is an hour fast: sent at 13:00 of its time, five minutes after it happened
        ("2026-03-01T12:55:00Z", "2026-03-01T13:00:00Z", "2026-03-01T11:55:00.000Z"),
        ("2026-03-01T07:55:00-05:00", "2026-03-01T13:00:00.000Z", "2026-03-01T11:55:00.000Z"),
        ("2015-2-02T00:30:12.984Z", None, "2015-02-02T00:30:12.984Z"),
        ("2026-03-01", None, "2026-03-01T00:00:00.000Z"),
    ],
)
def test_a_timestamp_is_corrected_by_the_clients_clock(said: str | None, sent: str | None, expected: str) -> None:
    told = body(message := one(timestamp=said, sentAt=sent))
    assert told["timestamp"] == expected
    assert told["originalTimestamp"] == (said or expected)
    assert told["receivedAt"] == "2026-03-01T12:00:00.000Z"
    assert told.get("sentAt") == sent
    assert message.at.isoformat(timespec="milliseconds") + "Z" == expected


def test_the_forwarded_body_is_the_message_with_segments_own_fields() -> None:
    sent = {"writeKey": "wk", "context": {"ip": "8.8.8.8"}, "properties": {"a": [1, {"b": None}]}, "messageId": "m1"}
    told = body(one(**sent, anonymousId="a1", extra="kept"))
    assert told == {
        "type": "track",
        "userId": "u1",
        "anonymousId": "a1",
        "event": "Ordered",
        "properties": {"a": [1, {"b": None}]},
        "context": {"ip": "8.8.8.8"},
        "integrations": {},
        "messageId": "m1",
        "timestamp": "2026-03-01T12:00:00.000Z",
        "originalTimestamp": "2026-03-01T12:00:00.000Z",
        "receivedAt": "2026-03-01T12:00:00.000Z",
        "channel": "server",
        "version": 2,
        "extra": "kept",
    }


def test_a_batchs_context_and_integrations_are_merged_into_its_messages() -> None:
    payload = {
        "batch": [
            {"type": "identify", "userId": 7, "traits": {"plan": "pro"}, "context": {"ip": "1.1.1.1"}},
            {"type": "page", "anonymousId": "a", "name": "Home", "integrations": {"tray.io": True}},
            {"type": "delete", "userId": "u9"},
        ],
        "context": {"ip": "8.8.8.8", "device": {"type": "phone"}},
        "integrations": {"All": False},
        "sentAt": "2026-03-01T11:59:59Z",
        "writeKey": "wk",
    }
    identify, page, delete = read_batch(payload, RECEIVED, "browser")
    assert identify.user_id == "7" and body(identify)["userId"] == "7"
    assert body(identify)["context"] == {"ip": "1.1.1.1", "device": {"type": "phone"}}
    assert (identify.forwarded, page.forwarded) == (False, True)
    assert (page.name, page.details) == ("Page Viewed", {"name": "Home"})
    assert body(page)["channel"] == "browser" and body(page)["sentAt"] == "2026-03-01T11:59:59Z"
    assert body(delete)["userID"] == "u9" and "userId" not in body(delete)
    assert len({m.message_id for m in (identify, page, delete)}) == 3


@pytest.mark.parametrize(
    ("integrations", "goes"),
    [
        ({}, True),
        ({"All": True}, True),
        ({"All": False}, False),
        ({"All": False, "tray.io": True}, True),
        ({"All": False, "Tray.io": True}, True),
        ({"All": False, "Tray.io": {"path": "x"}}, True),
        ({"tray.io": False}, False),
        ({"All": True, "Tray.io": False}, False),
        ({"tray.io": None}, True),
        ({"All": False, "Mixpanel": True}, False),
        ({"Mixpanel": False}, True),
    ],
)
def test_the_integrations_object_decides(integrations: dict[str, Any], goes: bool) -> None:
    assert goes_to_tray(integrations) is goes
    assert one(integrations=integrations).forwarded is goes


@pytest.mark.parametrize(
    ("message_type", "fields", "code"),
    [
        ("track", {"userId": None}, "no_user"),
        ("track", {"userId": ""}, "no_user"),
        ("track", {"event": None}, "no_event"),
        ("track", {"event": 7}, "no_event"),
        ("track", {"event": "e" * 256}, "event_too_long"),
        ("track", {"userId": True}, "bad_id"),
        ("track", {"userId": {"id": 1}}, "bad_id"),
        ("track", {"userId": "u" * 256}, "id_too_long"),
        ("track", {"messageId": "m" * 256}, "id_too_long"),
        ("track", {"properties": "p"}, "malformed_message"),
        ("track", {"context": []}, "malformed_message"),
        ("track", {"integrations": "All"}, "malformed_message"),
        ("track", {"timestamp": "yesterday"}, "bad_timestamp"),
        ("track", {"timestamp": 1700000000}, "bad_timestamp"),
        ("track", {"sentAt": "9999-12-31T23:59:59Z", "timestamp": "0001-01-02T00:00:00Z"}, "bad_timestamp"),
        ("track", {"timestamp": "0001-01-01T00:00:00+14:00"}, "bad_timestamp"),
        ("identify", {"traits": [1]}, "malformed_message"),
        ("group", {}, "no_group_id"),
        ("alias", {}, "no_previous_id"),
        ("alias", {"userId": None, "anonymousId": "a", "previousId": "p"}, "no_user"),
        ("delete", {"userId": None, "anonymousId": "a"}, "no_user"),
    ],
)
def test_what_is_wrong_is_refused_with_400(message_type: str, fields: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused) as refused:
        one(message_type, **fields)
    assert (refused.value.status, refused.value.code) == (400, code)


def test_a_batch_is_refused_whole_and_names_the_message() -> None:
    good = {"type": "track", "userId": "u", "event": "E"}
    for wrong, code in (
        ({"type": "track", "userId": "u"}, "no_event"),
        ({"type": "nonsense", "userId": "u"}, "unknown_type"),
        ({"type": ["track"], "userId": "u"}, "unknown_type"),
        ({**good, "properties": {"x": "y" * 33_000}}, "message_too_large"),
        ("text", "malformed_message"),
    ):
        with pytest.raises(Refused, match=r"batch\[1\]") as refused:
            read_batch({"batch": [good, wrong]}, RECEIVED, "server")
        assert (refused.value.status, refused.value.code) == (400, code)
    with pytest.raises(Refused, match="2,501"):
        read_batch({"batch": [good] * 2501}, RECEIVED, "server")
    assert len(read_batch({"batch": [good] * 2500}, RECEIVED, "server")) == 2500
    with pytest.raises(Refused, match="expected a list"):
        read_batch({"batch": {}}, RECEIVED, "server")


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b'"x"', b'{"a": NaN}', b'{"a": "\\ud800"}', b"\xff\xfe"])
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse(raw)
    assert refused.value.status == 400


def test_the_character_that_databases_cannot_keep_is_refused_and_its_name_is_not() -> None:
    for raw in (b'{"a": "x\\u0000"}', b'{"a": "\\\\\\u0000"}', b'{"\\u0000": 1}'):
        with pytest.raises(Refused, match=r"U\+0000"):
            parse(raw)
    assert parse(b'{"a": "\\\\u0000"}') == {"a": "\\u0000"}


def test_what_is_nested_too_deep_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(400):
        deep = {"d": deep}
    with pytest.raises(Refused, match="too deep"):
        one(properties=deep)
