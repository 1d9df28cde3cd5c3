"""One workflow's cursor, retries, supersession and dead letters against an oracle of a page.

The oracle knows of each user: what the workflow was told last, what is still to be told, and what was given up on. It
needs no cursor, no window and no leftovers; that the program has them must not show.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.direct import DirectTransport
from support.outgoing import Outgoing

from audience_sync.clock import utcnow
from audience_sync.database import open_state, writing
from audience_sync.delivery.pace import Pace
from audience_sync.delivery.sender import Patience
from audience_sync.outbox.dead_letters import Chosen, discard_dead, list_dead, retry_dead
from audience_sync.receiver import Receiver

USERS = ["u1", "u2", "ü3", "04"]


class Workflow(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.receiver = Receiver()
        line = "w: {url: 'http://127.0.0.1/w', max_attempts: 1000, max_wait: 100 ms, concurrency: 2}"
        self.outgoing = Outgoing(self.folder, [line], patience=Patience(silent=0.1, first_pause=0.001))
        # Time for every user to be the probe of a breaker that is open, however many fail.
        self.pauses = Pace.FIRST_PAUSE, Pace.LONGEST_PAUSE
        Pace.FIRST_PAUSE, Pace.LONGEST_PAUSE = 0.001, 0.002
        self.members: set[str] = set()
        self.synced: set[str] = set()
        self.told: dict[str, bool] = {}
        self.waiting: dict[str, bool] = {}
        self.dead: dict[str, bool] = {}

    def teardown(self) -> None:
        Pace.FIRST_PAUSE, Pace.LONGEST_PAUSE = self.pauses
        shutil.rmtree(self.folder)

    @rule(members=st.sets(st.sampled_from(USERS)))
    def people_come_and_go(self, members: set[str]) -> None:
        self.outgoing.put(members)
        self.members = members

    @rule(answers=st.dictionaries(st.sampled_from(USERS), st.sampled_from([200, 503, 400])))
    def sync(self, answers: dict[str, int]) -> None:
        self._sync(answers)
        for user in self.members ^ self.synced:
            self.waiting[user] = user in self.members
            self.dead.pop(user, None)  # the newer value takes the dead letter's place
        self.synced = set(self.members)
        for user, value in list(self.waiting.items()):
            answer = answers.get(user, 200)
            if answer == 503:
                continue
            del self.waiting[user]
            if answer == 200:
                self.told[user] = value
            else:
                self.dead[user] = value

    @rule()
    def sync_while_the_address_is_wrong(self) -> None:
        self._sync(dict.fromkeys(USERS, 404))
        for user in self.members ^ self.synced:
            self.waiting[user] = user in self.members
            self.dead.pop(user, None)
        self.synced = set(self.members)

    @rule(users=st.sets(st.sampled_from(USERS), min_size=1))
    def retry(self, users: set[str]) -> None:
        self._change(lambda connection: retry_dead(connection, Chosen(users=sorted(users)), utcnow()))
        for user in users & self.dead.keys():
            self.waiting[user] = self.dead.pop(user)

    @rule(user=st.sampled_from(USERS))
    def discard(self, user: str) -> None:
        self._change(lambda connection: discard_dead(connection, Chosen(users=[user])))
        self.dead.pop(user, None)

    @invariant()
    def the_receiver_was_told_what_the_oracle_says(self) -> None:
        told = {user: value for (_, user, _), value in self.receiver.told.items()}
        assert told == self.told

    @invariant()
    def what_was_given_up_on_is_kept(self) -> None:
        found = self._change(lambda connection: list_dead(connection, Chosen()))
        assert {letter["user_id"]: letter["value"] == "true" for letter in found} == self.dead

    @invariant()
    def nothing_older_after_newer(self) -> None:
        newest: dict[str, int] = {}
        for call in self.receiver.calls:
            number = int(call.body["messageId"].rpartition("-")[2])
            assert number >= newest.get(call.body["userId"], 0)
            newest[call.body["userId"]] = number

    def _sync(self, answers: dict[str, int]) -> None:
        self.receiver.answer = lambda _path, body: answers.get(body["userId"])
        self.outgoing.sync(transports=lambda _name: DirectTransport(self.receiver))

    def _change(self, work: Any) -> Any:
        engine = open_state(self.outgoing.config().state)
        try:
            with engine.connect() as connection, writing(connection):
                return work(connection)
        finally:
            engine.dispose()


Workflow.TestCase.settings = settings(
    max_examples=20, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestWorkflow(Workflow.TestCase):  # type: ignore[name-defined]
    pass
