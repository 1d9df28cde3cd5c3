"""A state with something to deliver, and deliveries run in this process: for tests of delivery itself."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from audience_sync.config import Config, load_config
from audience_sync.database import open_state
from audience_sync.delivery.sender import Patience
from audience_sync.state import schema
from audience_sync.sync import RunReport, run

members = sa.Table(
    "members",
    sa.MetaData(),
    sa.Column("audience", sa.Text),
    sa.Column("user_id", sa.Text),
)
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Outgoing:
    """`workflows` are lines of jobs.yaml; `audiences` the names of audiences, each a table of its members."""

    folder: Path
    workflows: list[str]
    audiences: list[str] = field(default_factory=lambda: ["a"])
    state: str = "sqlite:///state.db"
    job: str = ""
    patience: Patience = field(default_factory=lambda: Patience(silent=1.0, first_pause=0.01))
    syncs: int = 0

    def __post_init__(self) -> None:
        self.source = sa.create_engine(f"sqlite:///{self.folder}/shop.db", poolclass=sa.pool.NullPool)
        members.create(self.source, checkfirst=True)
        engine = open_state(self.config().state)
        schema.migrate(engine)
        engine.dispose()

    def config(self) -> Config:
        audiences = "\n".join(
            f"      - {{name: {name}, table: {{name: members, user_id: user_id, where: {{audience: {name}}}}}}}"
            for name in self.audiences
        )
        listed = "\n".join(f"  {line}" for line in self.workflows)
        path = self.folder / "jobs.yaml"
        path.write_text(
            f"version: 1\nsource: sqlite:///shop.db\nstate: {self.state}\nworkflows:\n{listed}\n"
            f"jobs:\n  - name: J\n    guard: off\n{self.job}    audiences:\n{audiences}\n"
        )
        return load_config(path)

    def put(self, users: Iterable[str], audience: str = "a") -> None:
        """Make these the members of an audience, and nobody else."""
        rows = [{"audience": audience, "user_id": user} for user in users]
        with self.source.begin() as connection:
            connection.execute(sa.delete(members).where(members.c.audience == audience))
            if rows:
                connection.execute(sa.insert(members), rows)

    def sync(self, *, stopping: threading.Event | None = None, **given: Any) -> RunReport:
        self.syncs += 1
        instant = START + timedelta(days=self.syncs)
        return run(self.config(), [], instant, patience=self.patience, stopping=stopping, **given)

    def deliveries(self, **given: Any) -> dict[str, dict[str, Any]]:
        """Run a sync; what it says of each workflow, by name."""
        return {one["workflow"]: one for one in self.sync(**given).jobs[0].deliveries}

    def query(self, statement: sa.Select[Any]) -> list[Any]:
        engine = open_state(self.config().state)
        try:
            with engine.connect() as connection:
                return list(connection.execute(statement))
        finally:
            engine.dispose()
