"""Many requests, few transactions: no answer before it is durable, and nothing that cannot be kept passes for kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from audience_sync.relay import inbox as module
from audience_sync.relay.inbox import MOST_IN_COMMIT, Inbox
from audience_sync.relay.messages import Message, read_one
from audience_sync.relay.refusals import Refused


def message(number: int, event: str = "E") -> Message:
    payload = {"userId": "u", "event": event, "messageId": f"m{number}"}
    return read_one("track", payload, datetime(2026, 1, 1), "server")


class Disk:
    """Keeps what is committed; `free` cleared makes commits wait."""

    def __init__(self) -> None:
        self.commits: list[list[str]] = []
        self.free = threading.Event()
        self.free.set()
        self.fails: Callable[[Sequence[Message]], Exception | None] = lambda _messages: None

    def commit(self, messages: Sequence[Message]) -> None:
        assert self.free.wait(30)
        if problem := self.fails(messages):
            raise problem
        self.commits.append([m.message_id for m in messages])


def using(disk: Disk, work: Callable[[Inbox], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        inbox = Inbox(disk.commit)
        running = asyncio.create_task(inbox.run())
        await work(inbox)
        inbox.close()
        await asyncio.wait_for(running, 10)

    asyncio.run(main())


def test_what_comes_in_during_a_commit_shares_the_next_one_in_order() -> None:
    disk = Disk()
    disk.free.clear()

    async def work(inbox: Inbox) -> None:
        calls = [asyncio.create_task(inbox.put([message(n)])) for n in range(500)]
        await asyncio.sleep(0.05)
        assert not any(call.done() for call in calls), "answered before it was durable"
        disk.free.set()
        await asyncio.gather(*calls)

    using(disk, work)
    assert [m for commit in disk.commits for m in commit] == [f"m{n}" for n in range(500)]
    assert len(disk.commits) <= 2


def test_a_commit_is_bounded_and_a_large_call_goes_alone() -> None:
    disk = Disk()
    disk.free.clear()

    async def work(inbox: Inbox) -> None:
        large = [message(n) for n in range(2500)]
        calls = [asyncio.create_task(inbox.put(part)) for part in ([message(0)], large, large, [message(1)])]
        await asyncio.sleep(0.05)
        disk.free.set()
        await asyncio.gather(*calls)

    using(disk, work)
    assert max(map(len, disk.commits)) <= MOST_IN_COMMIT
    assert sum(map(len, disk.commits)) == 5002


def test_a_database_that_is_away_is_told_as_503_and_comes_back() -> None:
    disk = Disk()

    async def work(inbox: Inbox) -> None:
        disk.fails = lambda _messages: sa.exc.OperationalError("INSERT", {}, Exception("the server closed"))
        for _ in range(3):
            with pytest.raises(Refused) as refused:
                await inbox.put([message(1)])
            assert (refused.value.status, refused.value.retry_after) == (503, 2)
        disk.fails = lambda _messages: None
        await inbox.put([message(1)])

    using(disk, work)
    assert disk.commits == [["m1"]]


def test_one_call_that_cannot_be_kept_takes_no_other_with_it() -> None:
    disk = Disk()
    disk.free.clear()
    disk.fails = lambda messages: ValueError("bad") if any(m.name == "bad" for m in messages) else None

    async def work(inbox: Inbox) -> None:
        calls = [asyncio.create_task(inbox.put([message(n, "bad" if n == 7 else "E")])) for n in range(20)]
        await asyncio.sleep(0.05)
        disk.free.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [n for n, answer in enumerate(answers) if answer is not None] == [7]
        assert isinstance(answers[7], Refused) and answers[7].status == 500

    using(disk, work)
    assert sorted(m for commit in disk.commits for m in commit) == sorted(f"m{n}" for n in range(20) if n != 7)


def test_who_waits_too_long_is_told_to_come_again_and_it_is_kept_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)
    disk = Disk()
    disk.free.clear()

    async def work(inbox: Inbox) -> None:
        with pytest.raises(Refused) as refused:
            await inbox.put([message(1)])
        assert refused.value.status == 503
        disk.free.set()

    using(disk, work)
    assert disk.commits == [["m1"]]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES_WAITING", 3 * len(message(1).body))
    disk = Disk()
    disk.free.clear()

    async def work(inbox: Inbox) -> None:
        calls = [asyncio.create_task(inbox.put([message(n)])) for n in range(5)]
        await asyncio.sleep(0.05)
        disk.free.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [answer is None for answer in answers] == [True, True, True, False, False]
        await inbox.put([message(9)])

    using(disk, work)
    assert sum(map(len, disk.commits)) == 4


def test_closing_keeps_what_waits_and_takes_nothing_more() -> None:
    disk = Disk()
    disk.free.clear()

    async def work(inbox: Inbox) -> None:
        calls = [asyncio.create_task(inbox.put([message(n)])) for n in range(10)]
        await asyncio.sleep(0.05)
        inbox.close()
        with pytest.raises(Refused):
            await inbox.put([message(99)])
        disk.free.set()
        await asyncio.gather(*calls)

    using(disk, work)
    assert sum(map(len, disk.commits)) == 10
