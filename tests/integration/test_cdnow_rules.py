"""The real orders of CDNOW under many rules: each database's answer is the oracle's, at five instants."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support import shop
from support.cdnow_rules import config
from support.oracle import Oracle

from audience_sync.computations import compile_computation
from audience_sync.computations.catalog import Catalog

INSTANTS = ["1997-02-01", "1997-04-01", "1997-07-15T12:30:00", "1998-01-31", "1998-06-30"]


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
@pytest.mark.xdist_group("cdnow rules")  # what is expected of them takes half a minute, once a process
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
