"""Instants: as state keeps them (UTC, without a zone), as JSON shows them, and as people say them."""

from __future__ import annotations

from datetime import UTC, datetime


def naive(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(tzinfo=None)


def utcnow() -> datetime:
    return naive(datetime.now(UTC))


def text(instant: datetime | None) -> str | None:
    """An instant of state as JSON shows it: `1997-04-01T00:00:00Z`."""
    return None if instant is None else instant.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")


_STEPS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def rough(seconds: float) -> str:
    """`3 hours`: the largest unit that fits, rounded down."""
    for size, unit in _STEPS:
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}" + ("" if count == 1 else "s")
    return "a moment"


def lasted(seconds: float) -> str:
    """`0.3 s`, `42 s`, `3 min 10 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def ago(shown: str | None, now: datetime | None = None) -> str:
    """`3 hours ago`, or `in 20 minutes` for what is to come, of an instant as JSON shows it."""
    if shown is None:
        return "never"
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(shown)).total_seconds()
    return f"{rough(seconds)} ago" if seconds >= 0 else f"in {rough(-seconds)}"
