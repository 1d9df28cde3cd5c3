"""Killed between every two steps of a sync whose snapshots the warehouse keeps: nothing is lost, nothing stays behind.

A step is a statement that writes, or a commit, in either database. After each kill the next sync must find its way:
the workflows believe the latest members, and the warehouse holds no table but those that state names.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.forking import Forking
from support.project import Project
from support.scores import Shop, believed, members

from audience_sync.forget import forget
from audience_sync.state.tables import computations

MOST_STEPS = 120


def tables_left(shop: Shop) -> set[str]:
    with shop.engine.connect() as connection:
        return {name for name in sa.inspect(connection).get_table_names() if name != members.name}


def named_by_state(state: str) -> set[str]:
    engine = sa.create_engine(state, poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        return {name for name in connection.execute(sa.select(computations.c.snapshot)).scalars() if name}


def check_every_step(project: Project, shop: Shop, state: str) -> int:
    """Kill a sync before its first step, another before its second, and so on, until one comes to its end; returns how
    many were killed."""
    shop.sync(ann=1, bob=2, eve=3)
    forget(shop.config, ["eve"])  # so that the steps of those who are forgotten are among them
    for place in [place for place in project.receiver.told if place[1] == "eve"]:
        del project.receiver.told[place]  # the delete was taken; from here on nobody may hear of her
    with Forking(shop.path, project.environment()) as forking:
        for step in range(1, MOST_STEPS):
            now = {"ann": step, "bob": 2, f"u{step}": step, f"v{step % 3}": 1}
            shop.set(**now, eve=step)
            forking.start("run", die_at=step)
            code = forking.wait()
            killed = code == -signal.SIGKILL
            assert killed or code == 0, code
            if step % 2:  # every other time the members move on before the next sync
                now |= {"ann": -step, "late": step}
                del now["bob"]
                shop.set(**now, eve=-step)
            report = shop.run()
            assert report.exit_code == 0, (step, report)
            expected = {(user, key): value for user, score in now.items() for key, value in (("a", True), ("t", score))}
            assert believed(project.receiver, "w1") == expected, step
            assert believed(project.receiver, "w2") == expected, step
            assert tables_left(shop) == named_by_state(state), step
            if not killed:
                print(f"{step - 1} steps")
                return step - 1
    raise AssertionError("it never came to its end")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_between_every_two_steps_on_duckdb(project: Project, tmp_path: Path) -> None:
    state = f"sqlite:///{tmp_path}/state.db"
    shop = Shop(tmp_path, f"duckdb:///{tmp_path}/shop.duckdb", state, project.url, keeps_snapshots=True)
    assert check_every_step(project, shop, state) > 30


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_between_every_two_steps_on_postgresql(
    project: Project, tmp_path: Path, new_database: Callable[[], str]
) -> None:
    state = f"sqlite:///{tmp_path}/state.db"
    shop = Shop(tmp_path, new_database(), state, project.url, keeps_snapshots=True)
    assert check_every_step(project, shop, state) > 30
