"""Segment's messages: what a client sent, checked and made ready to be kept and sent on.

Sources: Segment's HTTP API (endpoints, limits, `batch`) and Spec: Common Fields (timestamps, ids, integrations).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import orjson

from audience_sync.clock import naive
from audience_sync.config.model import MESSAGES
from audience_sync.relay.refusals import Refused

LARGEST_MESSAGE = 32 * 1024
LARGEST_BATCH = 500 * 1024
MOST_IN_BATCH = 2_500
LONGEST_ID = 255
"""Ids and event names are keys of indexes, which hold no more than some thousand bytes an entry."""

SHORT = {message_type[0]: message_type for message_type in ("identify", "track", "page", "screen", "group", "alias")}
"""analytics.js posts to `/v1/t` and the like."""

VIEWED = {"page": "Page Viewed", "screen": "Screen Viewed"}
"""The names under which page and screen calls are events of rules, as in Engage."""

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_LOOSE_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})(?=$|[T ])")


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `body` is what goes to the workflows, as JSON; `at` is its timestamp, UTC and naive."""

    type: str
    message_id: str
    user_id: str | None
    anonymous_id: str | None
    previous_id: str | None
    name: str | None
    """Of the event, for what rules can ask about: track, page and screen."""
    at: datetime
    details: dict[str, Any]
    """Properties, or traits."""
    forwarded: bool
    """Whether its integrations let it go to Tray."""
    body: str

    @property
    def who(self) -> str:
        """The user whose messages it stays in order with."""
        return self.user_id or self.anonymous_id or ""


def parse(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request's body."""
    try:
        payload = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Refused(400, "malformed_json", f"the body is not JSON: {error.msg}") from None
    if not isinstance(payload, dict):
        raise Refused(400, "malformed_json", "the body is not a JSON object")
    if b"\\u0000" in raw and _NUL.search(raw):
        raise Refused(400, "nul_character", "the body holds the character U+0000, which databases cannot keep")
    return payload


def read_one(message_type: str, payload: dict[str, Any], received_at: datetime, channel: str) -> Message:
    """The message of a call such as `/v1/track`."""
    return _Reader(payload, received_at, channel).message(payload, message_type, message_type)


def read_batch(payload: dict[str, Any], received_at: datetime, channel: str) -> list[Message]:
    """The messages of `/v1/batch`. One that is wrong refuses them all: a client can mend and resend only a whole."""
    batch = payload.get("batch")
    if not isinstance(batch, list):
        raise Refused(400, "no_batch", "batch: expected a list of messages")
    if len(batch) > MOST_IN_BATCH:
        raise Refused(400, "batch_too_long", f"batch: {len(batch):,} messages; at most {MOST_IN_BATCH:,} are taken")
    reader = _Reader(payload, received_at, channel)
    messages = []
    for number, item in enumerate(batch):
        where = f"batch[{number}]"
        if not isinstance(item, dict):
            raise Refused(400, "malformed_message", f"{where}: expected an object")
        message_type = item.get("type")
        if message_type not in MESSAGES:
            raise Refused(400, "unknown_type", f"{where}: type: expected one of {', '.join(MESSAGES)}")
        messages.append(reader.message(item, str(message_type), where))
        if len(messages[-1].body) > LARGEST_MESSAGE and _size(item) > LARGEST_MESSAGE:
            raise Refused(400, "message_too_large", f"{where}: larger than {LARGEST_MESSAGE // 1024} KB")
    return messages


def _size(item: dict[str, Any]) -> int:
    return len(orjson.dumps(item))


class _Reader:
    """What the messages of one request share."""

    def __init__(self, payload: dict[str, Any], received_at: datetime, channel: str) -> None:
        self.received_at = received_at
        self.received = instant(received_at)
        self.channel = channel
        self.sent_at = payload.get("sentAt")
        self.sent = _moment(self.sent_at, "sentAt")
        self.context = _object(payload.get("context"), "context")
        self.integrations = _object(payload.get("integrations"), "integrations")

    def message(self, item: dict[str, Any], message_type: str, where: str) -> Message:
        user_id = _id(item.get("userId", item.get("userID")), f"{where}: userId")
        anonymous_id = _id(item.get("anonymousId"), f"{where}: anonymousId")
        previous_id = _id(item.get("previousId"), f"{where}: previousId")
        needs_user = message_type in ("alias", "delete")
        if user_id is None and (needs_user or anonymous_id is None):
            wanted = "userId" if needs_user else "userId or anonymousId"
            raise Refused(400, "no_user", f"{where}: {wanted}: is missing")
        if message_type == "alias" and previous_id is None:
            raise Refused(400, "no_previous_id", f"{where}: previousId: is missing")
        if message_type == "group" and _id(item.get("groupId"), f"{where}: groupId") is None:
            raise Refused(400, "no_group_id", f"{where}: groupId: is missing")
        name = VIEWED.get(message_type)
        if message_type == "track":
            name = item.get("event")
            if not isinstance(name, str) or not name:
                raise Refused(400, "no_event", f"{where}: event: expected the event's name")
            if len(name) > LONGEST_ID:
                raise Refused(400, "event_too_long", f"{where}: event: longer than {LONGEST_ID} characters")
        properties = _object(item.get("properties"), f"{where}: properties")
        traits = _object(item.get("traits"), f"{where}: traits")
        integrations = self.integrations | _object(item.get("integrations"), f"{where}: integrations")
        message_id = _id(item.get("messageId"), f"{where}: messageId") or str(uuid4())
        said = item.get("timestamp") or item.get("originalTimestamp")
        at = self.corrected(_moment(said, f"{where}: timestamp"), where)
        out = {key: value for key, value in item.items() if key not in ("writeKey", "userID")}
        out["type"] = message_type
        if message_type == "delete":
            out.pop("userId", None)
            out["userID"] = user_id
        elif user_id is not None:
            out["userId"] = user_id
        out["messageId"] = message_id
        out["context"] = self.context | _object(item.get("context"), f"{where}: context")
        out["integrations"] = integrations
        out["timestamp"] = instant(at)
        out["originalTimestamp"] = said or out["timestamp"]
        out["receivedAt"] = self.received
        if self.sent_at is not None:
            out["sentAt"] = self.sent_at
        out.setdefault("channel", self.channel)
        out.setdefault("version", 2)
        if message_type in VIEWED and isinstance(item.get("name"), str):
            properties = {"name": item["name"], **properties}
        try:
            body = orjson.dumps(out).decode()
        except orjson.JSONEncodeError:
            raise Refused(400, "nested_too_deep", f"{where}: nested too deep") from None
        return Message(
            type=message_type,
            message_id=message_id,
            user_id=user_id,
            anonymous_id=anonymous_id,
            previous_id=previous_id,
            name=name,
            at=at,
            details=traits if message_type in ("identify", "group") else properties,
            forwarded=goes_to_tray(integrations),
            body=body,
        )

    def corrected(self, said: datetime | None, where: str) -> datetime:
        """Segment's rule for clocks that are wrong: timestamp = receivedAt − (sentAt − originalTimestamp)."""
        if said is None:
            return self.received_at
        if self.sent is None:
            return said
        try:
            return self.received_at - (self.sent - said)
        except OverflowError:
            raise Refused(400, "bad_timestamp", f"{where}: timestamp: cannot be corrected by sentAt") from None


def goes_to_tray(integrations: dict[str, Any]) -> bool:
    """Whether a message's integrations object sends it to Tray: its own word, else that for All, else yes.

    The destination is `tray.io`; older sources write `Tray.io` or `Tray`.
    """
    words = {name.casefold(): value for name, value in integrations.items() if value is not None}
    for name in ("tray.io", "tray", "all"):
        if name in words:
            return words[name] is not False
    return True


def instant(at: datetime) -> str:
    """ISO 8601 in UTC to the millisecond, as Segment writes it."""
    return at.isoformat(timespec="milliseconds") + "Z"


def _moment(value: Any, where: str) -> datetime | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(_LOOSE_DATE.sub(_padded, value, count=1))
            return naive(parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC))
        except (ValueError, OverflowError):
            pass
    raise Refused(400, "bad_timestamp", f"{where}: expected an ISO 8601 time such as 2026-01-31T10:00:00.000Z")


def _padded(match: re.Match[str]) -> str:
    """`2015-2-02` stands in Segment's own documentation."""
    return f"{match[1]}-{match[2]:0>2}-{match[3]:0>2}"


def _id(value: Any, where: str) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise Refused(400, "bad_id", f"{where}: expected text")
    if len(value) > LONGEST_ID:
        raise Refused(400, "id_too_long", f"{where}: longer than {LONGEST_ID} characters")
    return value


def _object(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused(400, "malformed_message", f"{where}: expected an object")
    return value
