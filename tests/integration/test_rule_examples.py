"""The documents' examples are run: each rule of docs/rules.md gives what stands under it, on SQLite and by the oracle;
each audience of docs/cookbook.md is what the oracle says of a shop made up for it, on every database."""

from __future__ import annotations

import csv
import json
import random
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from sqlalchemy.dialects import mysql
from support.oracle import Oracle, Row

from audience_sync.computations import compile_computation, in_words
from audience_sync.computations.catalog import Catalog
from audience_sync.config import Config

DOCS = Path(__file__).resolve().parents[2] / "docs"
T = datetime(2026, 3, 31, tzinfo=UTC)

Text = sa.Text().with_variant(sa.String(100), "mysql", "mariadb")
Moment = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
TYPES: dict[str, Any] = dict.fromkeys(("at", "ordered_at", "sent_at", "created_at"), Moment)
TYPES |= {"age": sa.Integer(), "born": sa.Date(), "birthday": sa.Date(), "revenue": sa.Numeric(10, 2)}


def read(name: str, text: str) -> Any:
    """A cell of the tables in rules.md as the value that its column holds."""
    if text == "":
        return None
    if name == "age":
        return int(text)
    if name == "born":
        return date.fromisoformat(text)
    if name == "at":
        return datetime.fromisoformat(text)
    return Decimal(text) if name == "revenue" else text


def fill(engine: sa.Engine, tables: dict[str, list[Row]]) -> None:
    metadata = sa.MetaData()
    with engine.begin() as connection:
        for name, rows in tables.items():
            columns = [sa.Column(column, TYPES.get(column, Text)) for column in rows[0]]
            table = sa.Table(name, metadata, *columns)
            table.create(connection)
            connection.execute(sa.insert(table), rows)


def configured(events: dict[str, Any], people: str, **computed: list[dict[str, Any]]) -> Config:
    return Config.model_validate(
        {
            "version": 1,
            "source": "sqlite:///shop.db",
            "events": events,
            "people": {"table": people, "user_id": "id"},
            "workflows": {"w": {"url": "http://127.0.0.1:1/"}},
            "jobs": [{"name": "J", **computed}],
        }
    )


def rows_of(connection: sa.Connection, catalog: Catalog, config: Config, computed: Any) -> dict[str, Any]:
    found = connection.execute(compile_computation(config, catalog, computed, T).rows).all()
    return {row.user_id: None if row.value is None else json.loads(row.value) for row in found}


RULES = (DOCS / "rules.md").read_text(encoding="utf-8") if DOCS.exists() else ""
EXAMPLES = re.findall(r"```yaml( trait)?\n(.*?)```\n\n→ ([^\n]*)", RULES, re.DOTALL)


def test_every_example_of_the_rules_says_what_it_gives(tmp_path: Path) -> None:
    tables = {
        name: [
            {column: read(column, cell) for column, cell in row.items()} for row in csv.DictReader(text.splitlines())
        ]
        for name, text in re.findall(r"```csv (\w+)\n(.*?)```", RULES, re.DOTALL)
    }
    events = {
        "Order Completed": {"table": "orders", "user_id": "customer_id", "at": "at"},
        "*": {"table": "tracks", "user_id": "user_id", "name": "event", "at": "at"},
    }
    assert RULES.count("```yaml") == len(EXAMPLES) > 25
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    fill(engine, tables)
    with engine.connect() as connection:
        for trait, text, said in EXAMPLES:
            given = yaml.load(text, yaml.BaseLoader) if "since" in text else yaml.safe_load(text)
            if trait:
                config = configured(events, "customers", traits=[{"name": "Example", **given}])
                computed: Any = config.jobs[0].traits[0]
                expected = Oracle(config, tables, T).values(computed)
                shown = ", ".join(f"{user}: {json.dumps(value)}" for user, value in sorted(expected.items()))
            else:
                recent = {"name": "Recent", "who": {"did": "Order Completed", "within": "30 days"}}
                config = configured(events, "customers", audiences=[{"name": "Example", "who": given}, recent])
                computed = config.jobs[0].audiences[0]
                expected = dict.fromkeys(Oracle(config, tables, T).members("Example"))
                shown = ", ".join(sorted(expected)) or "nobody"
            assert rows_of(connection, Catalog(engine), config, computed) == expected, text
            assert shown == said, text


# -- the cookbook -----------------------------------------------------------------------------------------------------

COOKBOOK = (DOCS / "cookbook.md").read_text(encoding="utf-8") if DOCS.exists() else ""
RECIPES = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", COOKBOOK, re.DOTALL)]
for recipe in RECIPES:  # dates stay text, as they do in jobs.yaml
    for part in recipe["who"].get("all", []):
        part.update({word: str(part[word]) for word in ("since", "until") if word in part})
        if "not" in part and "since" in part["not"]:
            part["not"]["since"] = str(part["not"]["since"])


def shop() -> dict[str, list[Row]]:
    """Half a year of a shop in which each recipe has somebody in it and somebody out of it."""
    draw = random.Random(5)

    def ago(most: float) -> datetime:
        return T.replace(tzinfo=None) - timedelta(seconds=draw.randint(0, int(most * 86400)))

    tables: dict[str, list[Row]] = {"customers": [], "orders": [], "tracks": []}
    for number in range(300):
        user = f"{number:03}"
        tables["customers"].append(
            {
                "id": user,
                "email": f"{user}@{draw.choice(['example.com', 'example.org'])}",
                "country": draw.choice(["DE", "AT", "FR", None]),
                "birthday": draw.choice([None, date(1990, 1, 1) + timedelta(days=draw.randint(0, 365))]),
                "created_at": ago(900),
                "plan": draw.choice(["free", "pro", "team", None]),
            }
        )
        last, keen = draw.choice([20, 100, 400]), draw.choice([0, 0, 1, 1, 2, 4, 6])
        orders = [ago(last) - timedelta(days=draw.choice([0, 60, 230])) for _ in range(keen)]
        for at in orders:
            revenue = Decimal(draw.randint(500, 20000)) / 100
            category, coupon = draw.choice(["shoes", "shoes", "socks", "hats", None]), draw.choice([None, "X5"])
            tables["orders"].append(
                {"customer_id": user, "ordered_at": at, "revenue": revenue, "category": category, "coupon": coupon}
            )
        events = [("Signed Up", None, ago(90))] if draw.random() < 0.3 else []
        for _ in range(draw.choice([0, 0, 3, 8])):
            name = draw.choice(["Product Viewed", "Product Viewed", "Cart Updated", "Email Opened", "Page Viewed"])
            page = draw.choice(["/pricing", "/pricing?x=%", "/", "/about/pricing"]) if name == "Page Viewed" else None
            events.append((name, page, ago(draw.choice([2, 7, 40, 200]))))
        for at in orders[:2]:
            events += [("Product Viewed", None, at - timedelta(hours=draw.randint(1, 30))),
                       ("Cart Updated", None, at - timedelta(hours=draw.randint(0, 20)))]  # fmt: skip
        tables["tracks"] += [{"user_id": user, "event": name, "page": page, "sent_at": at} for name, page, at in events]
    return tables


@pytest.fixture(scope="module")
def cooked() -> tuple[Config, dict[str, list[Row]], dict[str, set[str]]]:
    events = yaml.safe_load(re.findall(r"```yaml tables\n(.*?)```", COOKBOOK, re.DOTALL)[0])["events"]
    for recipe in RECIPES:
        recipe["who"] = json.loads(json.dumps(recipe["who"], default=str))
    config, tables = configured(events, "customers", audiences=RECIPES), shop()
    oracle = Oracle(config, tables, T)
    return config, tables, {audience.name: oracle.members(audience.name) for audience in config.jobs[0].audiences}


@pytest.mark.parametrize(
    "kind",
    ["sqlite", *[pytest.param(kind, marks=pytest.mark.slow) for kind in ("postgresql", "duckdb", "mariadb")]],
)
def test_every_recipe_is_what_the_oracle_says(
    kind: str, cooked: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config, tables, expected = cooked
    fixture = {"postgresql": "new_database", "mariadb": "new_mariadb"}.get(kind)
    url = request.getfixturevalue(fixture)() if fixture else f"{kind}:///{tmp_path}/shop.db"
    engine = sa.create_engine(url)
    fill(engine, tables)
    assert len(RECIPES) >= 20
    with engine.connect() as connection:
        for audience in config.jobs[0].audiences:
            found = set(rows_of(connection, Catalog(engine), config, audience))
            assert found == expected[audience.name], audience.name
            assert 0 < len(found) < len(tables["customers"]), (audience.name, len(found))
            assert in_words(audience).startswith("everyone ")
    engine.dispose()
