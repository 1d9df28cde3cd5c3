"""State moved to another database goes on where it stopped: nothing is told twice, nothing is lost."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.scores import Shop

from audience_sync.cli.progress import Bars
from audience_sync.config import load_config
from audience_sync.database import open_state
from audience_sync.delivery.sender import Patience
from audience_sync.errors import AudienceSyncError
from audience_sync.forget import forget
from audience_sync.moving import MANIFEST, TABLES, export_state, import_state
from audience_sync.outbox.lanes import lane_of
from audience_sync.receiver import Receiver
from audience_sync.state import schema
from audience_sync.state.tables import lanes, meta, outbox, passed_over

IMPATIENT = Patience(silent=0.0, total=0.0)


@pytest.fixture
def lived(tmp_path: Path, receiver: tuple[Receiver, str]) -> Shop:
    """A state with members, traits, a dead letter, leftovers, a workflow that is behind, and a forgotten user."""
    shop = Shop(tmp_path, f"sqlite:///{tmp_path}/shop.db", f"sqlite:///{tmp_path}/state.db", receiver[1])
    shop.sync(**{f"u{n}": n for n in range(30)})
    assert forget(shop.config, ["u3"]).is_done
    receiver[0].answer = lambda path, body: (
        400 if body.get("userId") == "u5" else 503 if path == "/w2" and body.get("userId") == "u7" else None
    )
    shop.set(**{f"u{n}": n + 1 for n in range(20)})
    shop.run(patience=IMPATIENT)
    receiver[0].answer = lambda path, _body: 503 if path == "/w1" else None
    shop.set(**{f"u{n}": n + 2 for n in range(5, 35)})
    shop.run(patience=IMPATIENT)
    receiver[0].answer = None
    return shop


def at(shop: Shop, state: str, name: str) -> Shop:
    """The same shop with another state."""
    other = object.__new__(Shop)
    other.engine, other.day = shop.engine, shop.day
    other.path = shop.path.with_name(f"{name}.yaml")
    other.path.write_text(shop.path.read_text().replace(shop.config.state, state))
    return other


def move(shop: Shop, state: str, name: str, kind: str) -> Shop:
    if not state.startswith("sqlite"):
        engine = open_state(state)
        schema.migrate(engine)
        engine.dispose()
    moved = at(shop, state, name)
    folder = shop.path.with_name(f"{name}-files")
    with Bars() as bars:
        written = export_state(shop.config, folder, kind, bars)
        assert import_state(moved.config, folder, bars) == written
    return moved


def rows(shop: Shop, table: sa.Table, *but: str) -> list[tuple[Any, ...]]:
    engine = open_state(shop.config.state)
    with engine.connect() as connection:
        found = connection.execute(sa.select(*[c for c in table.c if c.name not in but])).all()
    engine.dispose()
    return sorted((tuple(row) for row in found), key=repr)


def told_by_next(shop: Shop, receiver: Receiver, last: int) -> list[str]:
    """Every call of the next sync; of changes up to `last`, which were pending before the move, with its messageId."""
    receiver.calls.clear()
    shop.set(**{f"u{n}": n + 3 for n in range(0, 32, 2)})
    engine = open_state(shop.config.state)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE audience_sync_leftovers SET next_attempt_at = '2000-01-01 00:00:00.000000'")
    engine.dispose()
    shop.run(patience=IMPATIENT)
    calls = [call for call in receiver.calls if call.status < 300]
    assert len({(call.path, call.body["messageId"]) for call in calls}) == len(calls)
    ids = [str(call.body["messageId"]) for call in calls]
    pending = [id_ if int(id_.rpartition("-")[2]) <= last else "new" for id_ in ids]
    assert set(pending) - {"new"}
    return sorted(
        f"{call.path} {call.body['userId']} {json.dumps(call.body['traits'])} {id_}"
        for call, id_ in zip(calls, pending, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_there_and_back_again(
    lived: Shop, receiver: tuple[Receiver, str], new_database: Callable[[], str], tmp_path: Path, kind: str
) -> None:
    original = at(lived, f"sqlite:///{tmp_path}/copy.db", "copy")
    with sqlite3.connect(tmp_path / "state.db") as source, sqlite3.connect(tmp_path / "copy.db") as copy:
        source.backup(copy)
    there = move(lived, new_database(), "there", kind)
    back = move(there, f"sqlite:///{tmp_path}/back.db", "back", kind)
    for table in TABLES:
        but = () if table.name.endswith("_lanes") is False else ("leased_by", "leased_until")
        assert rows(back, table, *but) == rows(lived, table, *but), table.name
        assert len(rows(there, table)) == len(rows(lived, table)) or table is lanes
    last = max(row[0] for row in rows(lived, outbox))
    expected = told_by_next(original, receiver[0], last)
    assert expected
    assert told_by_next(there, receiver[0], last) == expected
    assert told_by_next(back, receiver[0], last) == expected
    assert not [line for line in expected if " u3 " in line]


def test_lanes_that_came_to_different_places(
    lived: Shop, receiver: tuple[Receiver, str], new_database: Callable[[], str], tmp_path: Path
) -> None:
    """A lane that is behind holds back none of what other lanes were told already."""
    there = move(lived, new_database(), "there", "parquet")
    engine = open_state(there.config.state)
    with engine.begin() as connection:
        head = connection.execute(sa.select(sa.func.max(outbox.c.seq))).scalar_one()
        connection.execute(sa.update(lanes).values(cursor=head, window_end=head))
        behind = sa.and_(lanes.c.workflow_id == 1, lanes.c.lane < 4)
        connection.execute(sa.update(lanes).where(behind).values(cursor=head - 25, window_end=head - 10))
        connection.exec_driver_sql("DELETE FROM audience_sync_leftovers")
        connection.execute(sa.delete(passed_over))
        waiting = connection.execute(
            sa.select(outbox.c.user_id, outbox.c.seq)
            .where(outbox.c.seq > head - 25, lane_of(outbox.c.user_id, "postgresql") < 4)
            .order_by(outbox.c.seq)
        ).all()
    engine.dispose()
    back = move(there, f"sqlite:///{tmp_path}/back.db", "back", "parquet")
    receiver[0].calls.clear()
    lived.set(**{f"u{n}": n + 2 for n in range(5, 35)})
    assert back.run().exit_code == 0
    assert waiting
    assert sorted((c.body["userId"], int(c.body["messageId"].rpartition("-")[2])) for c in receiver[0].calls) == sorted(
        (user, seq) for user, seq in waiting
    )
    assert {row[:2] for row in rows(back, lanes)} == {(1, 0), (2, 0)}


def test_sequence_numbers_go_on_where_the_outbox_is_empty(
    lived: Shop, new_database: Callable[[], str], tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "state.db") as state:
        last = state.execute("select max(seq) from audience_sync_outbox").fetchone()[0]
        state.execute("delete from audience_sync_outbox")
    there = move(lived, new_database(), "there", "parquet")
    back = move(there, f"sqlite:///{tmp_path}/back.db", "back", "parquet")
    for shop in (there, back):
        engine = open_state(shop.config.state)
        with engine.begin() as connection:
            values = {"lane": 0, "computation_id": 1, "sync_id": 1, "user_id": "x", "value": "true"}
            insert = sa.insert(outbox).values(values).returning(outbox.c.seq)
            assert connection.execute(insert).scalar_one() == last + 1
        engine.dispose()


def fails(shop: Shop, folder: Path, said: str, code: int) -> None:
    with Bars() as bars, pytest.raises(AudienceSyncError) as error:
        import_state(load_config(shop.path), folder, bars)
    assert said in str(error.value)
    assert error.value.exit_code == code


def test_what_is_refused_leaves_nothing_half_done(lived: Shop, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    with Bars() as bars:
        export_state(lived.config, folder, "parquet", bars)
        with pytest.raises(AudienceSyncError, match="not an empty folder"):
            export_state(lived.config, folder, "parquet", bars)
    fresh = at(lived, f"sqlite:///{tmp_path}/fresh.db", "fresh")
    fails(lived, folder, "in use already", 2)
    fails(fresh, tmp_path / "nowhere", "there is no manifest.json", 2)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "schema": "9999"}))
    fails(fresh, folder, "schema 9999", 2)
    (folder / MANIFEST).write_text(json.dumps({**manifest, "tables": {**manifest["tables"], "synced": 1}}))
    fails(fresh, folder, "synced.parquet: has", 1)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    whole = (folder / "workflows.parquet").read_bytes()
    (folder / "workflows.parquet").write_bytes(whole[: len(whole) // 2])
    fails(fresh, folder, "workflows.parquet: is damaged", 1)
    for table in TABLES:
        assert table is meta or rows(fresh, table) == []
    (folder / "workflows.parquet").write_bytes(whole)
    with Bars() as bars:
        import_state(fresh.config, folder, bars)
    assert rows(fresh, outbox) == rows(lived, outbox)
