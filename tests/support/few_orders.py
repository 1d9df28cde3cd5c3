"""A few orders, and the three ways to make an audience of them: what every warehouse must tell alike."""

from __future__ import annotations

from datetime import date

import sqlalchemy as sa

from support.project import Project, Ran

orders = sa.Table("orders", sa.MetaData(), sa.Column("customer", sa.Text), sa.Column("on", sa.Date))
BOUGHT = [("ann", date(2026, 1, 20)), ("bob", date(2026, 1, 2)), ("", date(2026, 1, 20)), (None, date(2026, 1, 20))]
ROWS = [{"customer": who, "on": on} for who, on in BOUGHT]


def first_sync(project: Project, source: str, on: str = "on") -> None:
    """The first sync of these orders, with its figures; `on` is how the source's SQL writes that name."""
    project.write(
        f"""\
version: 1
source: {source}
events: {{Order Completed: {{table: orders, user_id: customer, at: "on"}}}}
workflows: {{crm: {{url: {project.url}/crm, shared_secret: s3cret}}}}
jobs:
  - name: J
    audiences:
      - {{name: Lately, who: {{did: Order Completed, within: 7 days}}}}
      - {{name: By SQL, sql: "select customer as user_id from orders where {on} < '2026-01-10'"}}
      - {{name: By table, table: {{name: orders, user_id: customer}}}}
    traits:
      - {{name: Orders, sql: "select customer as user_id, count(*) as value from orders group by customer"}}
"""
    )
    ran = project.quick("run", "--json", "--as-of", "2026-01-22")
    assert ran.code == 0, ran.err
    computed = {one["key"]: (one["size"], one["skipped_ids"]) for one in ran.json["jobs"][0]["computations"]}
    assert computed == {"lately": (1, 2), "by_sql": (1, 0), "by_table": (2, 2), "orders": (2, 2)}


def a_week_later(project: Project) -> Ran:
    again = project.quick("run", "--json", "--as-of", "2026-01-28", "--allow-large-change")
    assert again.code == 0, again.err
    return again
