"""Delivery beside the relay: a thread for each workflow, so that one that is down delays no other (DESIGN, rule 5)."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from audience_sync import logs
from audience_sync.config import Config
from audience_sync.delivery import deliver
from audience_sync.errors import AudienceSyncError
from audience_sync.snapshot import Databases

LOOK_SECONDS = 30.0
"""How often the outbox is looked at unasked: another process may have left something behind."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds to wait after a delivery that left something undelivered; doubled while nothing is acknowledged."""


class Couriers:
    """Deliver whatever is in the outbox for these workflows, as soon as `wake` says that there is something."""

    def __init__(self, config: Config, databases: Databases, workflow_ids: Mapping[str, int]) -> None:
        self._stop = threading.Event()
        self._couriers = [_Courier(config, databases, name, id_, self._stop) for name, id_ in workflow_ids.items()]

    def start(self) -> None:
        for courier in self._couriers:
            courier.start()

    def wake(self) -> None:
        for courier in self._couriers:
            courier.wake.set()

    def stop(self, grace: float) -> None:
        """Let calls in flight finish, for `grace` seconds; what is left stays in the outbox."""
        self._stop.set()
        self.wake()
        deadline = time.monotonic() + grace
        for courier in self._couriers:
            courier.join(max(0.0, deadline - time.monotonic()))


class _Courier(threading.Thread):
    def __init__(
        self, config: Config, databases: Databases, name: str, workflow_id: int, stopping: threading.Event
    ) -> None:
        super().__init__(name=f"courier {name}", daemon=True)
        self.wake = threading.Event()
        self._config = config
        self._databases = databases
        self._workflow = name
        self._workflow_id = workflow_id
        self._stopping = stopping
        self._said: str | None = None

    def run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            self.wake.clear()
            acknowledged = 0
            try:
                (report,) = deliver(
                    self._config, self._databases, {self._workflow: self._workflow_id}, stopping=self._stopping
                )
                acknowledged = report.tally.delivered.total()
                behind = any(waiting for waiting, _ in report.pending.values())
                self._say(report.last_error if behind else None)
            except (
                Exception
            ) as error:  # whatever it is, it must not end the deliveries of a process that runs for months
                behind = True
                self._say(str(error) if isinstance(error, AudienceSyncError) else f"{type(error).__name__}")
            if not behind:
                pause = FIRST_PAUSE
                self.wake.wait(LOOK_SECONDS)
                continue
            pause = FIRST_PAUSE if acknowledged else min(LONGEST_PAUSE, pause * 2)
            self._stopping.wait(pause)

    def _say(self, problem: str | None) -> None:
        """Once when something goes wrong, and once when it is over."""
        if problem == self._said:
            return
        if problem is not None:
            logs.warning("not delivered; it is kept", workflow=self._workflow, error=problem)
        elif self._said is not None:
            logs.info("delivered again", workflow=self._workflow)
        self._said = problem
