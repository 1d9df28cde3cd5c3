"""What a trait by `sql:` tells of a value, as JSON text made by the database."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from audience_sync.computations import compile_computation
from audience_sync.computations.catalog import Catalog
from audience_sync.config import Config


def told_of(engine: sa.Engine, expression: str) -> str | None:
    """None where nothing is told."""
    trait = {"name": "T", "sql": f"select 'u' as user_id, {expression} as value"}
    config = Config.model_validate(
        {
            "version": 1,
            "source": "sqlite:///shop.db",
            "workflows": {"w": {"url": "http://127.0.0.1:1/"}},
            "jobs": [{"name": "J", "traits": [trait]}],
        }
    )
    rows = compile_computation(config, Catalog(engine), config.jobs[0].traits[0], datetime(2026, 1, 1, tzinfo=UTC)).rows
    with engine.connect() as connection:
        found = connection.execute(rows).first()
    return None if found is None else str(found.value)
