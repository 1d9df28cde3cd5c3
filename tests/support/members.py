"""The smallest source: a table of who is in what, and a jobs.yaml with one audience on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

table = sa.Table(
    "members",
    sa.MetaData(),
    sa.Column("audience", sa.Text),
    sa.Column("user_id", sa.Text),
    sa.Column("value", sa.Float),
)


def put(url: str, users: Iterable[str | None], audience: str = "a", value: Any = None) -> None:
    """Make these the members of an audience, and nobody else."""
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    table.create(engine, checkfirst=True)
    rows = [{"audience": audience, "user_id": user, "value": value} for user in users]
    with engine.begin() as connection:
        connection.execute(sa.delete(table).where(table.c.audience == audience))
        if rows:
            connection.execute(sa.insert(table), rows)


def jobs_yaml(
    url: str, *, source: str = "sqlite:///shop.db", state: str = "", job: str = "", computed: str = ""
) -> str:
    """One job, `J`; `job` are more lines of it, `computed` its audiences and traits in place of the audience `A`."""
    audience = "    audiences:\n      - {name: A, table: {name: members, user_id: user_id, where: {audience: a}}}\n"
    state = f"state: {state}\n" if state else ""
    return f"""\
version: 1
source: {source}
{state}workflows:
  crm: {{url: "{url}/crm", shared_secret: s3cret}}
jobs:
  - name: J
{job}{computed or audience}"""
