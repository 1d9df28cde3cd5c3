"""A shop whose only table says who is a member, with what score; an audience and a trait of it; two workflows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from audience_sync.config import Config, load_config
from audience_sync.database import open_state
from audience_sync.receiver import Receiver
from audience_sync.state import schema
from audience_sync.sync import RunReport, run

START = datetime(2026, 1, 1, tzinfo=UTC)
members = sa.Table("members", sa.MetaData(), sa.Column("user_id", sa.Text), sa.Column("score", sa.Integer))


def believed(receiver: Receiver, workflow: str) -> dict[tuple[str, str], Any]:
    """What a workflow was told last, by (user, key); without those of whom it was told that they left."""
    return {
        (user, key): value
        for (path, user, key), value in receiver.told.items()
        if path == f"/{workflow}" and value is not False and value is not None
    }


class Shop:
    """`scored` says whose score the trait tells."""

    def __init__(
        self, folder: Path, source: str, state: str, url: str, scored: str = "true", *, keeps_snapshots: bool = False
    ) -> None:
        self.engine = sa.create_engine(source, poolclass=sa.pool.NullPool)
        members.create(self.engine)
        if keeps_snapshots:
            source = f"{{url: '{source}', synced: warehouse}}"
        self.path = folder / "jobs.yaml"
        self.path.write_text(f"""\
version: 1
source: {source}
state: {state}
workflows:
  w1: {{url: '{url}/w1', shared_secret: s3cret}}
  w2: {{url: '{url}/w2', shared_secret: s3cret}}
jobs:
  - name: J
    guard: off
    audiences:
      - {{name: a, table: {{name: members, user_id: user_id}}}}
    traits:
      - {{name: t, sql: "select user_id, score as value from members where {scored}"}}
""")
        if not state.startswith("sqlite"):
            engine = open_state(state)
            schema.migrate(engine)
            engine.dispose()
        self.day = 0

    @property
    def config(self) -> Config:
        return load_config(self.path)

    def set(self, **scores: int) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.delete(members))
            if scores:
                connection.execute(sa.insert(members), [{"user_id": u, "score": s} for u, s in scores.items()])

    def sync(self, **scores: int) -> RunReport:
        """Make these the members, and sync; all must be acknowledged."""
        self.set(**scores)
        report = self.run()
        assert report.exit_code == 0, report
        return report

    def run(self, **options: Any) -> RunReport:
        self.day += 1
        return run(self.config, [], START + timedelta(days=self.day), **options)


DATABASES = ["sqlite", *(pytest.param(name, marks=pytest.mark.slow) for name in ("postgresql", "warehouse"))]
"""`warehouse`: a source that keeps the snapshots itself."""


@pytest.fixture(params=DATABASES)
def shop(request: pytest.FixtureRequest, tmp_path: Path, receiver: tuple[Receiver, str]) -> Shop:
    if request.param == "sqlite":
        return Shop(tmp_path, f"sqlite:///{tmp_path}/shop.db", f"sqlite:///{tmp_path}/state.db", receiver[1])
    if request.param == "warehouse":
        state = f"sqlite:///{tmp_path}/state.db"
        return Shop(tmp_path, f"duckdb:///{tmp_path}/shop.duckdb", state, receiver[1], keeps_snapshots=True)
    new_database: Callable[[], str] = request.getfixturevalue("new_database")
    url = new_database()
    return Shop(tmp_path, url, url, receiver[1])
