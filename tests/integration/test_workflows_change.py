"""Workflows come, go and move in jobs.yaml: who is told what."""

from __future__ import annotations

import sqlalchemy as sa
from support.scores import Shop, shop

from audience_sync.delivery.sender import Patience
from audience_sync.receiver import Receiver
from audience_sync.state.tables import leftovers, passed_over, workflows
from audience_sync.status import look

__all__ = ["shop"]


def test_added_removed_and_moved(shop: Shop, receiver: tuple[Receiver, str]) -> None:
    calls, url = receiver
    shop.sync(u1=1, u2=2, gone=3)
    shop.sync(u1=1, u2=2)
    calls.answer = lambda path, _body: 503 if path == "/w2" else None
    shop.set(u1=1, u2=2, u3=3)
    shop.run(patience=Patience(silent=0.0))
    calls.answer = None
    text = shop.path.read_text()
    moved = text.replace(f"{url}/w1", f"{url}/elsewhere").replace(
        f"  w2: {{url: '{url}/w2'", f"  w3: {{url: '{url}/w3'"
    )
    shop.path.write_text(moved)
    assert any("w3 is new in jobs.yaml" in advice for advice in look(shop.config)["advice"])
    calls.calls.clear()
    shop.sync(u1=1, u2=2, u3=3, u4=4)
    told = {path: [c for c in calls.calls if c.path == path] for path in ("/elsewhere", "/w1", "/w2", "/w3")}
    assert sorted(c.body["userId"] for c in told["/w3"]) == ["u1", "u1", "u2", "u2", "u3", "u3", "u4", "u4"]
    assert sorted(c.body["userId"] for c in told["/elsewhere"]) == ["u4", "u4"], "a new URL is the same workflow"
    assert told["/w1"] == told["/w2"] == []
    engine = sa.create_engine(shop.config.state, poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        gone = connection.execute(sa.select(workflows.c.id).where(workflows.c.name == "w2")).scalar_one()
        for table in (leftovers, passed_over):
            left = sa.select(sa.func.count()).select_from(table).where(table.c.workflow_id == gone)
            assert connection.execute(left).scalar() == 0, "one that was taken out keeps nothing pending"
    shop.path.write_text(text)
    calls.calls.clear()
    shop.sync(u1=1, u2=2, u3=3, u4=4)
    back = {(c.body["userId"], key): v for c in calls.calls if c.path == "/w2" for key, v in c.body["traits"].items()}
    assert {user for (user, key), value in back.items() if key == "a" and value is True} == {"u1", "u2", "u3", "u4"}
    assert back["gone", "a"] is False
