"""What the warehouse mode asks of each database, as its dialect writes it: each has a row, and another's parser reads
every statement."""

from __future__ import annotations

import re
from typing import Any
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
import sqlglot
from sqlalchemy.dialects import registry

from audience_sync.config.model import WAREHOUSES
from audience_sync.diff import joined
from audience_sync.warehouse.engines import CAPABILITIES
from audience_sync.warehouse.snapshots import Warehouse, filled

READERS = {"postgresql": "postgres", "clickhousedb": "clickhouse"}


def test_every_warehouse_has_a_row() -> None:
    assert set(CAPABILITIES) == set(WAREHOUSES)


@pytest.mark.parametrize("name", WAREHOUSES)
def test_another_parser_reads_every_statement(name: str) -> None:
    try:
        dialect: Any = registry.load(name)()
    except sa.exc.NoSuchModuleError:
        pytest.skip(f"the dialect of {name} is not installed: pip install 'audience-sync[{name}]'")
    dialect.cte_follows_insert = True
    warehouse = Warehouse(Mock(spec=sa.Engine), "", "kept", CAPABILITIES[name], "0123456789abcdef0123")
    snapshot = warehouse.snapshot(warehouse.place(warehouse.name("feedfacefeedface", 0)))
    before = warehouse.snapshot(warehouse.place(warehouse.name("cafebabecafebabe", 0)))
    forgotten = warehouse.forgotten("feedfacefeedface", "")
    rows = sa.select(sa.column("user_id", sa.Text), sa.column("value", sa.Text), sa.column("other", sa.Text))
    cte = rows.select_from(sa.table("found")).cte("set_1")
    statements: list[Any] = [
        sa.schema.CreateTable(snapshot),
        sa.schema.CreateTable(forgotten),
        sa.insert(forgotten).values([{"hash": "00"}, {"hash": "ff"}]),
        filled(warehouse, snapshot, sa.select(cte.c.user_id, cte.c.value, cte.c.other), "salt", forgotten),
        filled(warehouse, snapshot, sa.select(cte.c.user_id, cte.c.value, cte.c.other), "salt", None),
        joined(0, snapshot, before, of_traits=False),
        joined(0, snapshot, before, of_traits=True),
        sa.select(sa.func.count()).select_from(snapshot),
        sa.select(snapshot.c.user_id).where(snapshot.c.user_id > "u").order_by(snapshot.c.user_id).limit(500),
        sa.schema.DropTable(snapshot),
    ]
    for statement in statements:
        text = re.sub(r"%\(\w+\)s", "1", str(statement.compile(dialect=dialect)))
        assert "NULL AS " not in text.replace("CAST(NULL AS", ""), text  # a NULL of no type is refused by some
        for found in sqlglot.parse(text, read=READERS.get(name, name), error_level=sqlglot.ErrorLevel.RAISE):
            assert found is not None and not isinstance(found, sqlglot.exp.Command), text


def test_names_are_short_enough_for_each() -> None:
    warehouse = Warehouse(Mock(spec=sa.Engine), "", None, CAPABILITIES["duckdb"], "0123456789abcdef0123")
    longest = warehouse.forgotten("f" * 16, "again99999").name
    assert len(longest) <= 63, longest  # PostgreSQL's limit, the lowest
    assert warehouse.token_of(longest) == "f" * 16
