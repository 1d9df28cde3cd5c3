"""Reading deliveries and writing down what became of them, on a thread of its own: the database is never waited for
while calls could be made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from audience_sync.database import writing

T = TypeVar("T")


class Ledger:
    """Work on one connection, done in the order in which it was asked for."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._asked: deque[tuple[Future[Any], Callable[[Any], None]]] = deque()

    def __bool__(self) -> bool:
        """Whether anything is still under way."""
        return bool(self._asked)

    def read(self, work: Callable[[Connection], T], then: Callable[[T], None]) -> None:
        def inside() -> T:
            with self._connection.begin():
                return work(self._connection)

        self._asked.append((self._thread.submit(inside), then))

    def write(self, work: Callable[[Connection], T], then: Callable[[T], None]) -> None:
        def inside() -> T:
            with writing(self._connection) as connection:
                return work(connection)

        self._asked.append((self._thread.submit(inside), then))

    def take(self, *, wait: bool = False) -> None:
        """Hand over what is done, in order; with `wait`, all of it. Raises what the work raised."""
        while self._asked and (wait or self._asked[0][0].done()):
            future, then = self._asked.popleft()
            then(future.result())

    def wait_for_first(self, timeout: float) -> None:
        if self._asked:
            try:
                self._asked[0][0].exception(timeout)
            except TimeoutError:
                return

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
