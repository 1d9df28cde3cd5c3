"""`coalesce: true`: one user's changes of one sync are one call, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.outgoing import Outgoing

from audience_sync.delivery.sender import Patience
from audience_sync.receiver import Receiver, Serving

AUDIENCES = ["a", "b", "c"]


def outgoing_to(folder: Path, url: str) -> Outgoing:
    return Outgoing(
        folder,
        [f"w: {{url: '{url}/w', shared_secret: s3cret}}"],
        audiences=AUDIENCES,
        job="    coalesce: true\n",
        patience=Patience(silent=0.0, first_pause=0.01),
    )


def traits(receiver: Receiver) -> dict[str, dict[str, Any]]:
    return {call.body["userId"]: call.body["traits"] for call in receiver.calls if call.status < 300}


def test_one_call_tells_all_of_a_users_changes(tmp_path: Path) -> None:
    receiver = Receiver(shared_secret="s3cret")
    with Serving(receiver) as url:
        outgoing = outgoing_to(tmp_path, url)
        outgoing.put(["u1", "u2"], "a")
        outgoing.put(["u1", "ü3"], "b")
        outgoing.put(["u1"], "c")
        found = outgoing.deliveries()["w"]
        assert traits(receiver) == {"u1": {"a": True, "b": True, "c": True}, "u2": {"a": True}, "ü3": {"b": True}}
        assert found["delivered"] == 5, "five changes, in three calls"
        assert len(receiver.calls) == 3
        assert {call.signature for call in receiver.calls} == {"ok"}
        personas = next(c.body for c in receiver.calls if c.body["userId"] == "u1")["context"]["personas"]
        assert [one["computation_key"] for one in personas["computations"]] == AUDIENCES
        assert personas["computation_key"] == "a"

        receiver.calls.clear()
        outgoing.put(["u2"], "a")
        outgoing.put([], "c")
        assert outgoing.deliveries()["w"]["delivered"] == 2
        assert traits(receiver) == {"u1": {"a": False, "c": False}}


def test_a_call_that_failed_is_repeated_as_it_was(tmp_path: Path) -> None:
    receiver = Receiver(answer=lambda _path, _body: 503)
    with Serving(receiver) as url:
        outgoing = outgoing_to(tmp_path, url)
        outgoing.put(["u1"], "a")
        outgoing.put(["u1"], "b")
        assert outgoing.deliveries()["w"]["pending"] == 2
        first = receiver.calls[-1].body
        receiver.answer = None
        assert outgoing.deliveries()["w"]["delivered"] == 2
    again = receiver.calls[-1].body
    assert again["messageId"] == first["messageId"]
    assert again["traits"] == first["traits"] == {"a": True, "b": True}


def test_what_was_told_alone_never_grows(tmp_path: Path) -> None:
    """A receiver may have had the call whose answer was lost, and drop its repeat: were another trait in it by then, it
    would be dropped too."""
    receiver = Receiver(answer=lambda _path, _body: 503)
    with Serving(receiver) as url:
        outgoing = outgoing_to(tmp_path, url)
        outgoing.put(["u1"], "a")
        outgoing.put(["u1"], "b")
        assert outgoing.deliveries()["w"]["pending"] == 2
        outgoing.put([], "a")
        assert outgoing.deliveries()["w"]["pending"] == 2
        receiver.answer = None
        outgoing.put(["u1"], "c")
        assert outgoing.deliveries()["w"]["pending"] == 0
    said: dict[str, dict[str, Any]] = {}
    for call in receiver.calls:
        known = said.setdefault(call.body["messageId"], call.body["traits"])
        assert call.body["traits"].items() <= known.items()
    assert {key: value for (_, _, key), value in receiver.told.items()} == {"a": False, "b": True, "c": True}
