"""APScheduler without a thread: the test lets it work, and is told how long it would sleep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.base import BaseScheduler


class ByHand(BaseScheduler):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(timezone=UTC, executors={"default": DebugExecutor()})

    def wakeup(self) -> None:
        pass

    def shutdown(self, wait: bool = True) -> None:
        super().shutdown(wait)


def pass_time(clock: ByHand, frozen: Any, length: timedelta) -> None:
    """Let time pass as the scheduler would sleep through it; `frozen` is freezegun's clock."""
    end = datetime.now(UTC) + length
    while True:
        wait = clock._process_jobs()
        left = (end - datetime.now(UTC)).total_seconds()
        if wait is None or wait > left:
            frozen.tick(left)
            return
        frozen.tick(wait)
