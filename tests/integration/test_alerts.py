"""Who is told what: a webhook in Slack's shape, and a cron monitor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from audience_sync.alerts import Alerter
from audience_sync.config import Config, load_config
from audience_sync.web import Web


class Told:
    """Takes whatever is sent to it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes]] = []
        self.status = 200

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = (await receive()).get("body", b"")
        self.calls.append((scope["path"], body))
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    @property
    def texts(self) -> list[str]:
        return [json.loads(body)["text"] for path, body in self.calls if path == "/hook/t0ken"]

    @property
    def pings(self) -> list[str]:
        return [path for path, _ in self.calls if path.startswith("/ping")]


@pytest.fixture
def told() -> Iterator[tuple[Told, str]]:
    made = Told()
    with Web(made, "127.0.0.1", 0) as url:
        yield made, url


def config(folder: Path, url: str, on: str = "") -> Config:
    path = folder / "jobs.yaml"
    path.write_text(f"""\
version: 1
source: sqlite:///shop.db
alerts: {{webhook: '{url}/hook/t0ken'{on}}}
workflows:
  w1: {{url: 'http://127.0.0.1:9'}}
jobs:
  - name: Lifecycle
    schedule: every 2 hours
    ping: {url}/ping/uuid
    audiences:
      - {{name: a, sql: select 1 as user_id}}
""")
    return load_config(path)


def test_news_is_told_once_and_its_end_too(tmp_path: Path, told: tuple[Told, str]) -> None:
    receiver, url = told
    loaded, alerter = config(tmp_path, url), Alerter()
    for _ in range(3):
        alerter.ended(loaded, "lifecycle", "failed", "source: connection refused", {})
    alerter.ended(loaded, "lifecycle", "skipped", None, {})
    alerter.ended(loaded, "lifecycle", "held", None, {})
    for _ in range(2):
        alerter.ended(loaded, "lifecycle", "succeeded", None, {"w1": 0})
    assert receiver.texts == [
        "audience_sync: Lifecycle failed: source: connection refused",
        "audience_sync: Lifecycle was held by the guard: look at `audience-sync plan`, then `run --allow-large-change`",
        "audience_sync: Lifecycle is well again",
    ]
    assert receiver.pings == ["/ping/uuid/fail"] * 4 + ["/ping/uuid"] * 2


def test_dead_letters_are_told_when_they_grow_and_when_they_are_gone(tmp_path: Path, told: tuple[Told, str]) -> None:
    receiver, url = told
    loaded, alerter = config(tmp_path, url), Alerter()
    for count in (0, 2, 2, 1200, 0, 0):
        alerter.ended(loaded, "lifecycle", "succeeded", None, {"w1": count})
    assert [text.partition(": ")[2] for text in receiver.texts] == [
        "w1 has 2 dead letters: see `audience-sync dead-letters list`",
        "w1 has 1,200 dead letters: see `audience-sync dead-letters list`",
        "w1 has no dead letters any more",
    ]


def test_late_is_told_after_a_while(tmp_path: Path, told: tuple[Told, str]) -> None:
    receiver, url = told
    loaded, alerter = config(tmp_path, url, ", late_after: 30 minutes"), Alerter()
    due = datetime(2026, 1, 1, 6, tzinfo=UTC)
    for minutes in (-5, 10, 31, 60):
        alerter.due(loaded, "lifecycle", due, due + timedelta(minutes=minutes))
    alerter.due(loaded, "lifecycle", due + timedelta(hours=2), due + timedelta(minutes=61))
    assert receiver.texts == [
        "audience_sync: Lifecycle is late: it was due 31 minutes ago",
        "audience_sync: Lifecycle is on time again",
    ]


def test_only_what_was_asked_for_and_nothing_breaks(
    tmp_path: Path, told: tuple[Told, str], caplog: pytest.LogCaptureFixture
) -> None:
    receiver, url = told
    loaded, alerter = config(tmp_path, url, ", on: [held]"), Alerter()
    alerter.ended(loaded, "lifecycle", "failed", "x", {"w1": 3})
    assert receiver.texts == []
    receiver.status = 500
    alerter.ended(loaded, "lifecycle", "held", None, {})
    assert len(receiver.texts) == 3, "a webhook that fails is tried again"
    assert "could not be sent" in caplog.text
    assert "t0ken" not in caplog.text and "t0ken" not in str([vars(record) for record in caplog.records])
