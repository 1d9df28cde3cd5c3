"""A sample shop: some thousand customers and weeks of orders, the same every time."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import sqlalchemy as sa

CUSTOMERS = 3000
DAYS = 75
OPENED = date(2026, 1, 1)

JOBS_YAML = """\
version: 1
source: sqlite:///shop.db
events:
  Order Completed: {table: orders, user_id: customer_id, at: ordered_at}
people: {table: customers, user_id: id}
workflows:
  crm: {url: "${TRAY_URL:-http://127.0.0.1:8080}/crm", shared_secret: demo-secret}
  ads: {url: "${TRAY_URL:-http://127.0.0.1:8080}/ads", shared_secret: demo-secret}
jobs:
  - name: Lifecycle
    schedule: every 2 hours
    audiences:
      - name: Order Completed Last 30days
        who: {did: Order Completed, within: 30 days}
      - name: Big spenders
        who: {did: Order Completed, within: 60 days, sum: {revenue: {gte: 250}}}
      - name: Gone quiet in Germany
        who:
          all:
            - {did: Order Completed, at_least: 2}
            - {has: {country: DE}}
            - not: {in: Order Completed Last 30days}
"""


def fill(url: str) -> None:
    """Create the shop's tables `customers` and `orders` at a database URL."""
    draw = np.random.default_rng(7)
    ids = np.array([f"c{n:05d}" for n in range(1, CUSTOMERS + 1)])
    customers = pd.DataFrame({"id": ids, "country": draw.choice(["DE", "AT", "CH", "FR", "NL"], CUSTOMERS)})
    appetite = draw.gamma(0.6, 3.0, CUSTOMERS)  # a few customers order often, most hardly ever
    count = draw.poisson(appetite)
    buyer = np.repeat(np.arange(CUSTOMERS), count)
    minute = draw.integers(0, DAYS * 24 * 60, len(buyer))
    orders = pd.DataFrame(
        {
            "customer_id": ids[buyer],
            "ordered_at": pd.Timestamp(OPENED) + pd.to_timedelta(minute, unit="min"),
            "revenue": draw.gamma(2.0, 30.0, len(buyer)).round(2),
        }
    ).sort_values("ordered_at")
    orders["ordered_at"] = orders["ordered_at"].dt.strftime("%Y-%m-%d %H:%M:%S")
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    customers.to_sql("customers", engine, index=False, chunksize=1000)
    orders.to_sql("orders", engine, index=False, chunksize=1000)
