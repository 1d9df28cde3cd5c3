"""A source that drops the connection, is slow, or changes while it is read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.wire_between import WireBetween

from audience_sync.config import Config, load_config
from audience_sync.database import open_state
from audience_sync.receiver import Receiver
from audience_sync.state import schema
from audience_sync.sync import RunReport, run

USERS = 4_000
JOBS = """\
version: 1
source: {source}
state: {state}
workflows: {{crm: {{url: '{url}/crm', shared_secret: s3cret}}}}
jobs:
  - name: J
    guard: off
    audiences:
      - {{name: Left, table: {{name: people, user_id: id, where: {{side: left}}}}}}
      - {{name: Right, sql: "select id as user_id from people where side = 'right'"}}
"""
people = sa.Table("people", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True), sa.Column("side", sa.Text))


@dataclass
class Shaky:
    """A PostgreSQL source at the other end of a wire."""

    config: Config
    wire: WireBetween
    engine: sa.Engine
    receiver: Receiver

    def run(self) -> RunReport:
        return run(self.config, [], datetime(2026, 1, 1, tzinfo=UTC))

    def believed(self, key: str) -> set[str]:
        return {user for (_, user, name), value in self.receiver.told.items() if name == key and value is True}

    def execute(self, statement: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(statement)


KINDS = ["postgresql to sqlite", "postgresql to postgresql", "warehouse to sqlite"]


@pytest.fixture(params=KINDS)
def shaky(
    request: pytest.FixtureRequest, tmp_path: Path, new_database: Callable[[], str], receiver: tuple[Receiver, str]
) -> Iterator[Shaky]:
    kind, _, to = request.param.partition(" to ")
    url = sa.make_url(new_database())
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"), poolclass=sa.pool.NullPool)
    people.create(engine)
    numbers = sa.select(sa.func.generate_series(1, USERS).label("n")).subquery()
    user = sa.literal("user-") + sa.func.lpad(sa.cast(numbers.c.n, sa.Text), 8, "0")
    side = sa.case((numbers.c.n % 2 == 0, "left"), else_="right")
    with engine.begin() as connection:
        connection.execute(sa.insert(people).from_select(["id", "side"], sa.select(user, side)))
    assert url.host is not None and url.port is not None
    wire = WireBetween(url.host, url.port)
    with wire as port:
        source = url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        if kind == "warehouse":
            source = f"{{url: '{source}', synced: warehouse}}"
        state = f"sqlite:///{tmp_path}/state.db" if to == "sqlite" else new_database()
        path = tmp_path / "jobs.yaml"
        path.write_text(JOBS.format(source=source, state=state, url=receiver[1]))
        config = load_config(path)
        made = open_state(config.state)
        schema.migrate(made)
        made.dispose()
        yield Shaky(config, wire, engine, receiver[0])
    engine.dispose()


@pytest.mark.slow
def test_a_connection_that_drops_half_way_loses_nothing(shaky: Shaky) -> None:
    assert shaky.run().exit_code == 0
    assert len(shaky.believed("left")) == len(shaky.believed("right")) == USERS // 2
    shaky.execute(sa.update(people).values(side=sa.case((people.c.side == "left", "right"), else_="left")))
    carried = shaky.wire.carried
    for part in (0.05, 0.5, 0.9):  # at the first audience, between them, at the second
        shaky.wire.cut_after, shaky.wire.carried = int(carried * part), 0
        try:
            report = shaky.run()
        except Exception as error:
            assert "source: postgresql" in str(error), error  # nothing could be read at all
        else:
            assert report.exit_code == 1
            assert "source: postgresql" in str(report.jobs[0].error), report.jobs[0].error
        shaky.wire.cut_after = None
    assert shaky.run().exit_code == 0
    evens = {f"user-{n:08}" for n in range(2, USERS + 1, 2)}
    assert shaky.believed("right") == evens
    assert len(shaky.believed("left")) == USERS // 2 and not shaky.believed("left") & evens


@pytest.mark.slow
def test_a_source_that_is_slow_and_changes_is_read_at_one_instant(shaky: Shaky) -> None:
    """Everybody is on one side; somebody changes sides all the time. Seen at one instant, nobody is on both or none."""
    shaky.wire.block_seconds = 0.01
    done = threading.Event()

    def keep_changing() -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            over = sa.case((people.c.side == "left", "right"), else_="left")
            shaky.execute(sa.update(people).where(people.c.id.like(f"%{turn % 100:02}")).values(side=over))

    changing = threading.Thread(target=keep_changing)
    changing.start()
    try:
        for _ in range(2):
            assert shaky.run().exit_code == 0
            left, right = shaky.believed("left"), shaky.believed("right")
            assert not left & right
            assert len(left | right) == USERS
    finally:
        done.set()
        changing.join(30)
