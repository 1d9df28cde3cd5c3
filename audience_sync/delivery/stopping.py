"""How a process that delivers is asked to stop."""

from __future__ import annotations

import asyncio
import signal


def stop_on_signals(stop: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
    """The first SIGTERM or Ctrl-C lets what is in flight finish and writes down the rest; it stays pending."""
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
