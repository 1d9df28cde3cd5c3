"""Delivery beside the relay: a thread for each workflow, so that one that is down delays no other (DESIGN, rule 5)."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from audience_sync import logs
from audience_sync.config import Config
from audience_sync.delivery import deliver
from audience_sync.errors import AudienceSyncError
from audience_sync.snapshot import Databases

LOOK_SECONDS = 30.0
"""How often the outbox is looked at unasked: another process may have left something behind."""
AGAIN_SECONDS = 2.0
"""The pause after a delivery that left something undelivered."""


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
        """Let calls in flight finish; what is left stays in the outbox."""
        self._stop.set()
        self.wake()
        for courier in self._couriers:
            courier.join(grace)


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
        while not self._stopping.is_set():
            self.wake.clear()
            try:
                (report,) = deliver(
                    self._config, self._databases, {self._workflow: self._workflow_id}, stopping=self._stopping
                )
                behind = any(waiting for waiting, _ in report.pending.values())
                self._say(report.last_error if behind else None)
            except (
                Exception
            ) as error:  # whatever it is, it must not end the deliveries of a process that runs for months
                behind = True
                self._say(str(error) if isinstance(error, AudienceSyncError) else f"{type(error).__name__}")
            if behind:
                self._stopping.wait(AGAIN_SECONDS)
            else:
                self.wake.wait(LOOK_SECONDS)

    def _say(self, problem: str | None) -> None:
        """Once when something goes wrong, and once when it is over."""
        if problem == self._said:
            return
        if problem is not None:
            logs.warning("not delivered; it is kept", workflow=self._workflow, error=problem)
        elif self._said is not None:
            logs.info("delivered again", workflow=self._workflow)
        self._said = problem
