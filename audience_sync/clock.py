"""Instants as state keeps them: UTC, without a zone."""

from __future__ import annotations

from datetime import UTC, datetime


def naive(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(tzinfo=None)


def utcnow() -> datetime:
    return naive(datetime.now(UTC))
