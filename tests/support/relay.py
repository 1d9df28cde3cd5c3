"""A state with the relay's tables, and a way to put messages into it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from audience_sync.clock import utcnow
from audience_sync.config import load_config
from audience_sync.database import open_state, writing
from audience_sync.relay.messages import read_one
from audience_sync.relay.opening import open_routes
from audience_sync.relay.store import Routes, store
from audience_sync.state import schema
from audience_sync.state.tables import RELAY_EVENTS, RELAY_PEOPLE, relay_counts

NOW = datetime(2026, 3, 1, 12)


class Store:
    def __init__(self, url: str, folder: Path) -> None:
        self.engine = open_state(url)
        schema.migrate(self.engine)
        path = folder / "jobs.yaml"
        path.write_text(
            f"""\
version: 1
state: {url}
events: relay
relay: {{write_keys: [wk]}}
workflows:
  crm: {{url: "http://127.0.0.1:1/crm"}}
  ads: {{url: "http://127.0.0.1:1/ads", messages: [identify, track]}}
jobs: [{{name: J, audiences: [{{name: A, who: {{did: E}}}}]}}]
"""
        )
        self.connection = self.engine.connect()
        with writing(self.connection):
            self.routes: Routes = open_routes(self.connection, load_config(path), utcnow())[0]

    def take(self, *calls: dict[str, Any], together: bool = True) -> int:
        messages = [read_one(call["type"], call, NOW, "server") for call in calls]
        for group in [messages] if together else [[message] for message in messages]:
            with writing(self.connection):
                sent = store(self.connection, group, self.routes, NOW)
        return sent

    def rows(self, table: str, *columns: str) -> list[Any]:
        found = sa.table(table, *(sa.column(name) for name in columns))
        with self.connection.begin():
            return sorted(tuple(row) for row in self.connection.execute(sa.select(found)))

    def events(self) -> list[tuple[str, str]]:
        return self.rows(RELAY_EVENTS, "user_id", "name")

    def people(self) -> dict[str, Any]:
        return {user: json.loads(traits) for user, traits in self.rows(RELAY_PEOPLE, "user_id", "traits")}

    def counts(self) -> dict[tuple[str, str, str], int]:
        with self.connection.begin():
            return {(r.type, r.outcome, r.workflow): r.count for r in self.connection.execute(sa.select(relay_counts))}
