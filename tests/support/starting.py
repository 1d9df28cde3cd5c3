"""`start` as a real process, and a shop whose members come and go."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from support.project import Project

DEADLINE_SECONDS = 40

members = sa.Table("members", sa.MetaData(), sa.Column("user_id", sa.Text))


def shop(project: Project) -> sa.Engine:
    engine = sa.create_engine(f"sqlite:///{project.folder}/shop.db", poolclass=sa.pool.NullPool)
    members.create(engine)
    return engine


def jobs_yaml(project: Project, schedule: str, extra: str = "") -> str:
    return f"""\
version: 1
source: sqlite:///shop.db
workflows:
  w1: {{url: '{project.url}/w1', shared_secret: s3cret}}
jobs:
  - name: J
    schedule: {schedule}
    guard: off
{extra}    audiences:
      - {{name: a, table: {{name: members, user_id: user_id}}}}
"""


def join(engine: sa.Engine, *users: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(members), [{"user_id": user} for user in users])


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@contextmanager
def started(project: Project, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    log = (project.folder / "log").open("a")
    process = subprocess.Popen(
        project.command("start", "--port", "0", *arguments), stderr=log, env=project.environment(), text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(DEADLINE_SECONDS)
        log.close()


def log_lines(project: Project) -> list[dict[str, Any]]:
    path = project.folder / "log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ended(project: Project) -> list[dict[str, Any]]:
    return [line for line in log_lines(project) if line["event"] == "sync ended"]
