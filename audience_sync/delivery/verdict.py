"""What an answer means for the delivery."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum

RETRIED = frozenset({408, 425, 429})
WORKFLOW_WRONG = frozenset({401, 403, 404, 410})
LONGEST_SECONDS = 60.0
LONGEST_RETRY_AFTER = 3600.0


class Verdict(Enum):
    ACKNOWLEDGED = "acknowledged"
    RETRY = "retry"  # the receiver may take it later
    REFUSED = "refused"  # the receiver will never take this call
    WORKFLOW_WRONG = "workflow wrong"  # the address or its secret is wrong: no call would be taken


def judge(status: int) -> Verdict:
    if 200 <= status < 300:
        return Verdict.ACKNOWLEDGED
    if status in RETRIED or status >= 500:
        return Verdict.RETRY
    if status in WORKFLOW_WRONG or status < 400:  # a redirect: the address has moved, for all calls alike
        return Verdict.WORKFLOW_WRONG
    return Verdict.REFUSED


def backoff(attempts: int, first: float) -> float:
    """Seconds until the next attempt: exponential with full jitter, so that many failed at once do not return at
    once (Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015)."""
    return random.uniform(0, min(LONGEST_SECONDS, first * 2 ** min(attempts, 20)))


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds asked for by `Retry-After`, a number or an HTTP date (RFC 9110, 10.2.3); None if there is none."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except (ValueError, TypeError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if seconds == seconds else None
