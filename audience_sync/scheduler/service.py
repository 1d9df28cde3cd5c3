"""The process of `start`: signals, the file's changes, and a clean end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from audience_sync import logs
from audience_sync.scheduler.schedule import Scheduler
from audience_sync.scheduler.worker import Worker

POLL_SECONDS = 0.5
"""How often the files of the configuration are looked at; a change counts once it has held for one look."""
TICK_SECONDS = 30.0


def serve(scheduler: Scheduler, worker: Worker, on_tick: Callable[[], None] | None = None) -> None:
    """Run until SIGTERM or Ctrl-C; a second one does not wait for what is in flight. Call it in the main thread.

    SIGHUP, or a change of jobs.yaml or of a file that it includes, reads it again. `on_tick` is called every
    `TICK_SECONDS`.
    """
    wake = threading.Event()
    asked: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        if asked.count(signal.SIGTERM) + asked.count(signal.SIGINT) > 1:
            worker.kill()
        wake.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        scheduler.start()
        ticked_at = time.monotonic()
        used = seen = _stamps(scheduler.config.files)
        while True:
            wake.wait(POLL_SECONDS)
            wake.clear()
            if signal.SIGTERM in asked or signal.SIGINT in asked:
                break
            now = _stamps(scheduler.config.files)
            if signal.SIGHUP in asked or (now != used and now == seen):
                asked.clear()
                scheduler.reload()
                used = now = _stamps(scheduler.config.files)
            seen = now
            if on_tick is not None and time.monotonic() - ticked_at > TICK_SECONDS:
                ticked_at = time.monotonic()
                on_tick()
        logs.info("stopping", running=sorted(scheduler.running) or None)
        scheduler.stop()
        worker.stop()
        scheduler.wait()
        logs.info("stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stamps(files: Sequence[Path]) -> list[tuple[str, int, int, int] | None]:
    """What changes when a file is written or replaced."""
    found: list[tuple[str, int, int, int] | None] = []
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            found.append(None)
        else:
            found.append((str(file), stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return found
