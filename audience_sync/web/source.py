"""What the page and the metrics show, looked up at most once a second however many ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from audience_sync.config import Config
from audience_sync.errors import AudienceSyncError, ConfigError
from audience_sync.status import look

FRESH_SECONDS = 1.0


class Source:
    """`config` gives the configuration in use; the rest is what only the process of `start` knows."""

    def __init__(
        self,
        config: Callable[[], Config],
        *,
        config_error: Callable[[], ConfigError | None] = lambda: None,
        running: Callable[[], Collection[str]] = tuple,
        run_now: Callable[[str], bool] | None = None,
        deliver_now: Callable[[], None] | None = None,
    ) -> None:
        self._config = config
        self._config_error = config_error
        self.running = running
        self.run_now = run_now
        self.deliver_now = deliver_now
        self._lock = threading.Lock()
        self._found: dict[str, Any] | None = None
        self._error: AudienceSyncError | None = None
        self._looked_at = -FRESH_SECONDS
        self._cost = 0.0

    @property
    def config(self) -> Config:
        return self._config()

    @property
    def config_error(self) -> ConfigError | None:
        return self._config_error()

    def look(self) -> dict[str, Any]:
        """Where things stand (see `status.look`); raises what made it impossible."""
        found, error = self.look_or_error()
        if found is None:
            assert error is not None
            raise error
        return found

    def look_or_error(self) -> tuple[dict[str, Any] | None, AudienceSyncError | None]:
        with self._lock:
            # A look at a long backlog costs the database something: keep it to a tenth of the time.
            if time.monotonic() - self._looked_at >= max(FRESH_SECONDS, 10 * self._cost):
                began = time.monotonic()
                try:
                    self._found, self._error = look(self.config), None
                except AudienceSyncError as error:
                    self._found, self._error = None, error
                self._looked_at = time.monotonic()
                self._cost = self._looked_at - began
            return self._found, self._error

    def forget(self) -> None:
        """Look anew the next time: something was just done."""
        with self._lock:
            self._looked_at = -1e9
