"""The identify call (DESIGN, "On the wire"; Segment Engage's documented `context.personas` block).

Between the calls of one computation and sync only user id, value, sequence number and time of sending differ, so
the rest is encoded once and the value, JSON already, is spliced in.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime

import orjson

from audience_sync import __version__


@dataclass(frozen=True)
class Template:
    before_value: bytes
    before_seq: bytes
    before_sent_at: bytes

    def body(self, user_id: str, value: str, seq: int, sent_at: bytes) -> bytes:
        return b"".join(
            (
                b'{"type":"identify","userId":',
                orjson.dumps(user_id),
                self.before_value,
                value.encode(),
                self.before_seq,
                b"%d" % seq,
                self.before_sent_at,
                sent_at,
                b'","version":2,"channel":"server"}',
            )
        )


def template(
    *, key: str, klass: str, space_id: str, computation_id: str, message_prefix: str, as_of: datetime
) -> Template:
    personas = {
        "computation_class": klass,
        "computation_key": key,
        "computation_id": computation_id,
        "namespace": space_id,
        "space_id": space_id,
    }
    context = {"personas": personas, "library": {"name": "audience-sync", "version": __version__}}
    integrations = {"All": False, "tray.io": True}
    instant = timestamp(as_of)
    return Template(
        before_value=b',"traits":{' + orjson.dumps(key) + b":",
        before_seq=b'},"context":'
        + orjson.dumps(context)
        + b',"integrations":'
        + orjson.dumps(integrations)
        + b',"messageId":"'
        + message_prefix.encode()
        + b"-",
        before_sent_at=b'","timestamp":"' + instant + b'","originalTimestamp":"' + instant + b'","sentAt":"',
    )


def timestamp(instant: datetime) -> bytes:
    """ISO 8601 in UTC to the millisecond, as Segment writes it: `1997-04-01T00:00:00.000Z`."""
    return instant.strftime("%Y-%m-%dT%H:%M:%S.").encode() + b"%03dZ" % (instant.microsecond // 1000)


def signature(secret: bytes, body: bytes) -> str:
    """`X-Signature`: the hex HMAC-SHA1 of the body, as Segment signs its webhooks."""
    return hmac.digest(secret, body, "sha1").hex()
