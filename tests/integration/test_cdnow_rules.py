"""The real orders of CDNOW under many rules: each database's answer is the oracle's, at five instants."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support import shop
from support.oracle import Oracle

from audience_sync.computations import compile_computation
from audience_sync.computations.catalog import Catalog
from audience_sync.config import Config

INSTANTS = ["1997-02-01", "1997-04-01", "1997-07-15T12:30:00", "1998-01-31", "1998-06-30"]
ORDER = "Order Completed"
RULES: list[dict[str, Any]] = [
    {"did": ORDER},
    {"did": ORDER, "within": "30 days"},
    {"did": ORDER, "within": "1 month"},
    {"did": ORDER, "between": ["30 days", "60 days"]},
    {"did": ORDER, "since": "1997-03-01", "until": "1997-06-30"},
    {"did": ORDER, "at_least": 3, "within": "90 days"},
    {"did": ORDER, "exactly": 1},
    {"did": ORDER, "exactly": 2, "within": "1 year"},
    {"did": ORDER, "at_most": 1, "within": "60 days"},
    {"did": ORDER, "exactly": 0, "within": "30 days"},
    {"did": ORDER, "at_least": 2, "at_most": 4},
    {"did": ORDER, "where": {"revenue": {"gte": 50}}},
    {"did": ORDER, "where": {"units": [2, 3], "revenue": {"lt": 30.5}}},
    {"did": ORDER, "sum": {"revenue": {"gte": 100}}, "within": "90 days"},
    {"did": ORDER, "sum": {"revenue": {"eq": 59.07}}},
    {"did": ORDER, "avg": {"revenue": {"gt": 33.333333}}},
    {"did": ORDER, "min": {"revenue": {"gt": 25}}, "max": {"units": {"lte": 3}}},
    {"first": {"did": ORDER, "within": "60 days"}},
    {"last": {"did": ORDER, "between": ["60 days", "120 days"]}},
    {"last": {"did": ORDER, "until": "1997-02-01", "where": {"units": {"gte": 2}}}},
    {"then": [{"did": ORDER}, {"did": ORDER, "within": "30 days"}]},
    {"then": [{"did": ORDER, "within": "6 months"}, *[{"did": ORDER, "within": "1 month"}] * 2]},
    {"then": [{"did": ORDER, "where": {"revenue": {"lt": 15}}}, {"did": ORDER, "where": {"revenue": {"gt": 40}}}]},
    {"not": {"did": ORDER, "within": "60 days"}},
    {"all": [{"did": ORDER, "at_least": 2}, {"not": {"did": ORDER, "within": "45 days"}}]},
    {"any": [{"did": ORDER, "at_least": 5}, {"did": ORDER, "sum": {"revenue": {"gt": 300}}}]},
    {"all": [{"did": ORDER, "at_least": 3}, {"did": ORDER, "within": "30 days", "where": {"units": 1}}]},
    {"all": [{"in": "R5"}, {"not": {"in": "R13"}}]},
    {"not": {"any": [{"in": "R6"}, {"all": [{"in": "R1"}, {"not": {"in": "R5"}}]}]}},
]  # fmt: skip
TRAITS: list[dict[str, Any]] = [
    {"count": ORDER, "within": "90 days"},
    {"sum": {"event": ORDER, "property": "revenue"}},
    {"avg": {"event": ORDER, "property": "revenue"}, "within": "1 year"},
    {"most_frequent": {"event": ORDER, "property": "units"}},
    {"last": {"event": ORDER, "property": "revenue"}},
    {"unique_list": {"event": ORDER, "property": "units"}},
]


def config() -> Config:
    return Config.model_validate(
        {
            "version": 1,
            "source": "sqlite:///shop.db",
            "events": {ORDER: {"table": "orders", "user_id": "customer_id", "at": "ordered_on"}},
            "workflows": {"w": {"url": "http://127.0.0.1:1/"}},
            "jobs": [
                {
                    "name": "J",
                    "audiences": [{"name": f"R{n}", "who": rule} for n, rule in enumerate(RULES)],
                    "traits": [{"name": f"T{n}", **trait} for n, trait in enumerate(TRAITS)],
                }
            ],
        }
    )


@pytest.fixture(scope="module")
def expected() -> dict[str, list[Any]]:
    tables = {"orders": shop.cdnow()}
    found: dict[str, list[Any]] = {}
    for text in INSTANTS:
        oracle = Oracle(config(), tables, datetime.fromisoformat(text).replace(tzinfo=UTC))
        job = oracle.config.jobs[0]
        found[text] = [oracle.members(audience.name) for audience in job.audiences]
        if text in INSTANTS[-2:]:
            found[text] += [oracle.values(trait) for trait in job.traits]
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "duckdb", "mariadb"])
def test_every_rule_at_every_instant(
    kind: str, expected: dict[str, list[Any]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    fixture = {"postgresql": "new_database", "mariadb": "new_mariadb"}.get(kind)
    url = request.getfixturevalue(fixture)() if fixture else f"{kind}:///{tmp_path}/shop.db"
    engine = sa.create_engine(url)
    if kind == "duckdb":
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE TABLE orders AS SELECT * FROM read_csv(?, types = {'customer_id': 'VARCHAR', "
                "'ordered_on': 'DATE', 'units': 'INTEGER', 'revenue': 'DECIMAL(10, 2)'})",
                (str(shop.cdnow_file()),),
            )
    elif kind == "mariadb":
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE TABLE orders (customer_id varchar(20), ordered_on date, units int, revenue decimal(10, 2))"
            )
            connection.execute(sa.insert(shop.orders), shop.cdnow())
    else:
        shop.load(url, shop.cdnow())
    catalog, wanted = Catalog(engine), config()
    with engine.connect() as connection:
        for text, answers in expected.items():
            as_of = datetime.fromisoformat(text).replace(tzinfo=UTC)
            computations = wanted.jobs[0].computed if text in INSTANTS[-2:] else wanted.jobs[0].audiences
            for computed, answer in zip(computations, answers, strict=True):
                rows = connection.execute(compile_computation(wanted, catalog, computed, as_of).rows).all()
                found = {row.user_id: row.value for row in rows}
                if computed in wanted.jobs[0].audiences:
                    assert set(found) == answer, (text, computed)
                else:
                    assert {user: json.loads(value) for user, value in found.items()} == answer, (text, computed)
    engine.dispose()
