"""From many requests to few transactions: a call is answered once what it brought is durable.

While one transaction is being committed, what comes in gathers for the next. So with few calls each waits for one
commit and no longer, and with many the cost of a commit is shared; there is no timer to tune.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import sqlalchemy as sa

from audience_sync import logs
from audience_sync.database import one_line
from audience_sync.relay.messages import Message
from audience_sync.relay.refusals import Refused

MOST_IN_COMMIT = 2_500
MOST_BYTES_WAITING = 64 * 1024 * 1024
ANSWER_SECONDS = 12.0
"""Clients give up after 15 s or so; one told to come again does, with the same messageId."""
COME_AGAIN_SECONDS = 2

Commit = Callable[[Sequence[Message]], None]
"""Keeps messages durably, all or none; runs on a thread of its own."""


@dataclass(eq=False)
class _Waiting:
    messages: Sequence[Message]
    size: int
    done: asyncio.Future[None]


class Inbox:
    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inbox")
        self._closing = False
        self.committed = 0
        """Transactions so far."""

    async def put(self, messages: Sequence[Message]) -> None:
        """Returns once the messages are durable; Refused (503) when that cannot be said in time."""
        size = sum(len(message.body) for message in messages)
        if self._closing or self._bytes + size > MOST_BYTES_WAITING:
            raise _come_again()
        waiting = _Waiting(messages, size, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._bytes += size
        self._arrived.set()
        try:
            await asyncio.wait_for(asyncio.shield(waiting.done), ANSWER_SECONDS)
        except TimeoutError:
            raise _come_again() from None

    async def run(self) -> None:
        """Commit what comes in until `close`."""
        while True:
            await self._arrived.wait()
            batch = self._next()
            if not batch:
                if self._closing:
                    return
                self._arrived.clear()
                continue
            await self._keep(batch)
            self._bytes -= sum(waiting.size for waiting in batch)

    def close(self) -> None:
        """Take nothing more; `run` returns when what waits is committed."""
        self._closing = True
        self._arrived.set()

    def _next(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        count = 0
        while self._waiting and (not batch or count + len(self._waiting[0].messages) <= MOST_IN_COMMIT):
            batch.append(self._waiting.popleft())
            count += len(batch[-1].messages)
        return batch

    async def _keep(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        messages = [message for waiting in batch for message in waiting.messages]
        try:
            await loop.run_in_executor(self._thread, self._commit, messages)
            self.committed += 1
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
            logs.warning("the state database does not take messages", error=one_line(error))
            _settle(batch, _come_again())
        except Exception as error:
            if len(batch) > 1:  # one bad request must not take the others with it
                for waiting in batch:
                    await self._keep([waiting])
                return
            logs.error("a request could not be kept", error=type(error).__name__)
            _settle(batch, Refused(500, "not_kept", "the messages could not be kept"))
        else:
            _settle(batch, None)


def _settle(batch: Sequence[_Waiting], problem: Refused | None) -> None:
    for waiting in batch:
        if waiting.done.done():
            continue
        if problem is None:
            waiting.done.set_result(None)
        else:
            waiting.done.set_exception(problem)
            waiting.done.exception()  # nobody may be waiting any more


def _come_again() -> Refused:
    return Refused(503, "busy", "not kept yet; come again with the same messageIds", COME_AGAIN_SECONDS)
