"""A source database with orders, and the jobs.yaml that goes with it."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import pytest
import sqlalchemy as sa

CDNOW = Path(__file__).resolve().parents[3] / "shared" / "data" / "cdnow_orders.csv"

metadata = sa.MetaData()
orders = sa.Table(
    "orders",
    metadata,
    sa.Column("customer_id", sa.Text),
    sa.Column("ordered_on", sa.Date),
    sa.Column("units", sa.Integer),
    sa.Column("revenue", sa.Numeric(10, 2)),
)


def engine(url: str) -> sa.Engine:
    return sa.create_engine(url, poolclass=sa.pool.NullPool)


def cdnow() -> list[dict[str, object]]:
    if not CDNOW.exists():
        pytest.skip("the CDNOW orders are not here: they stand outside the project, in ../shared/data")
    from datetime import date
    from decimal import Decimal

    with CDNOW.open() as file:
        return [
            {
                "customer_id": row["customer_id"],
                "ordered_on": date.fromisoformat(row["ordered_on"]),
                "units": int(row["units"]),
                "revenue": Decimal(row["revenue"]),
            }
            for row in csv.DictReader(file)
        ]


def load(url: str, rows: Iterable[dict[str, object]]) -> None:
    made = engine(url)
    metadata.create_all(made)
    with made.begin() as connection:
        connection.execute(sa.insert(orders), list(rows))


def jobs_yaml(source: str, state: str, url: str, *, workflows: int = 1, extra: str = "") -> str:
    listed = "\n".join(f"  w{n}: {{url: '{url}/w{n}', shared_secret: s3cret}}" for n in range(1, workflows + 1))
    return f"""\
version: 1
source: {source}
state: {state}
events:
  Order Completed: {{table: orders, user_id: customer_id, at: ordered_on}}
workflows:
{listed}
jobs:
  - name: Lifecycle
    audiences:
      - name: Order Completed Last 30days
        who: {{did: Order Completed, within: 30 days}}
{extra}"""
