"""A source database with orders, and the jobs.yaml that goes with it."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterable
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa


def cdnow_file() -> Path | None:
    """The CDNOW orders stand outside the project: in `shared/data` beside it or above, or where CDNOW_ORDERS says."""
    if given := os.environ.get("CDNOW_ORDERS"):
        return Path(given)
    above = (folder / "shared" / "data" / "cdnow_orders.csv" for folder in Path(__file__).resolve().parents[3:])
    return next((path for path in above if path.exists()), None)


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


@cache
def cdnow() -> list[dict[str, object]]:
    file = cdnow_file()
    if file is None:
        pytest.skip("the CDNOW orders are not here: put them in ../shared/data or name them in CDNOW_ORDERS")
    with file.open() as lines:
        return [
            {
                "customer_id": row["customer_id"],
                "ordered_on": date.fromisoformat(row["ordered_on"]),
                "units": int(row["units"]),
                "revenue": Decimal(row["revenue"]),
            }
            for row in csv.DictReader(lines)
        ]


def load(url: str, rows: Iterable[dict[str, object]]) -> None:
    made = engine(url)
    metadata.create_all(made)
    if made.dialect.name == "sqlite":
        with made.begin() as connection:
            connection.execute(sa.insert(orders), list(rows))
        return
    if made.dialect.name == "duckdb":
        frame = pd.DataFrame(list(rows)).astype({"revenue": float})
        with made.begin() as connection:
            connection.connection.driver_connection.register("given", frame)  # which has no fast way for rows
            connection.exec_driver_sql("INSERT INTO orders SELECT * FROM given")
        return
    with made.begin() as connection, connection.connection.cursor() as cursor:
        names = [column.name for column in orders.c]
        with cursor.copy(f"COPY orders ({', '.join(names)}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row([row[name] for name in names])


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


def copy_of(url: str, folder: Path, new_database: Callable[[str], str]) -> str:
    """A database of its own with what the loaded one at `url` holds."""
    for kind in ("sqlite", "duckdb"):
        if url.startswith(kind):
            shutil.copy(url.removeprefix(f"{kind}:///"), folder / "shop.db")
            return f"{kind}:///{folder}/shop.db"
    return new_database(str(sa.make_url(url).database))
