"""Properties in a JSON column: the same answers on SQLite and PostgreSQL, whatever the clients put into them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from audience_sync.computations import compile_computation
from audience_sync.computations.catalog import Catalog
from audience_sync.config import load_config

AT = datetime(2026, 1, 1)
PROPERTIES: dict[str, Any] = {
    "number": {"revenue": 60, "when": "2025-12-31T10:00:00Z", "first": True},
    "small": {"revenue": 5.5, "when": "2025-02-30", "plan": "pro"},
    "text": {"revenue": "60", "when": "soon", "plan": "Pro+"},
    "words": {"revenue": "sixty", "when": "2024-02-29", "a \"quoted'": 1},
    "null": {"revenue": None, "when": 17, "first": False},
    "nested": {"revenue": [60], "when": "2025-13-01T99:99"},
    "none": {},
}
CASES: list[tuple[str, set[str]]] = [
    ("where: {revenue: {gte: 50}}", {"number"}),
    ("where: {revenue: {lt: 50}}", {"small"}),
    ("where: {revenue: 60}", {"number", "text"}),
    ("where: {revenue: [60, 5.5]}", {"number", "text", "small"}),
    ("where: {revenue: {ne: 60}}", {"small", "words", "nested"}),
    ("where: {revenue: {not_in: [60, sixty]}}", {"small", "nested"}),
    ("where: {revenue: {exists: true}}", {"number", "small", "text", "words", "nested"}),
    ("where: {revenue: {exists: false}}", {"null", "none"}),
    ("where: {plan: pro}", {"small"}),
    ("where: {plan: {ends_with: +}}", {"text"}),
    ("where: {first: true}", {"number"}),
    ("where: {first: {ne: true}}", {"null"}),
    ("where: {when: {within: 2 days}}", {"number"}),
    ("where: {when: {before: 2025-01-01}}", {"words"}),
    ("sum: {revenue: {gte: 50}}", {"number"}),
    ("max: {revenue: {lt: 6}}", {"small"}),
]


@pytest.mark.parametrize("kind", ["sqlite text", "postgresql text", "postgresql jsonb"])
def test_where_and_totals_over_json(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path}/source.db"
    if kind != "sqlite text":
        new_database: Callable[[], str] = request.getfixturevalue("new_database")
        url = new_database()
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    column_type = "jsonb" if kind == "postgresql jsonb" else "text"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE events (who text, at timestamp, name text, props {column_type})")
        for user, properties in PROPERTIES.items():
            connection.execute(
                sa.text(f"INSERT INTO events VALUES (:who, :at, 'Did', cast(:props AS {column_type}))"),
                {"who": user, "at": AT, "props": json.dumps(properties)},
            )
    for rule, expected in CASES:
        path = tmp_path / "jobs.yaml"
        path.write_text(
            f"""\
version: 1
source: {url}
events: {{"*": {{table: events, user_id: who, at: at, name: name, properties: props}}}}
people: {{table: events, user_id: who, traits: props}}
workflows: {{crm: {{url: "http://127.0.0.1:1"}}}}
jobs: [{{name: J, audiences: [{{name: A, who: {{did: Did, {rule}}}}}, {{name: B, who: {{has: {{plan: pro}}}}}}]}}]
"""
        )
        config = load_config(path)
        catalog = Catalog(engine)
        of_rule, of_traits = (
            compile_computation(config, catalog, audience, datetime(2026, 1, 1, 12, tzinfo=UTC))
            for audience in config.jobs[0].audiences
        )
        with engine.connect() as connection:
            assert {row.user_id for row in connection.execute(of_rule.rows)} == expected, rule
            assert {row.user_id for row in connection.execute(of_traits.rows)} == {"small"}
