"""What the two databases are told, and asked, about how they run the diff."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement, Executable


class _QueryPlan(Executable, ClauseElement):
    inherit_cache = False

    def __init__(self, statement: Any) -> None:
        self.statement = statement


@compiles(_QueryPlan)
def _explain(element: _QueryPlan, compiler: SQLCompiler, **kw: Any) -> str:
    return "EXPLAIN QUERY PLAN " + compiler.process(element.statement, **kw)


def is_ordered_scan(state: Connection, ids: sa.Select[Any]) -> bool:
    """Whether SQLite finds these ids in their order by running along one index that holds all it needs.

    The diff may then read them twice; whatever costs more is staged once. What EXPLAIN QUERY PLAN says:
    https://www.sqlite.org/eqp.html
    """
    steps = [row[-1] for row in state.execute(_QueryPlan(ids.order_by("user_id")))]
    if len(steps) != 1:
        return False
    return " USING " not in steps[0] or "COVERING INDEX" in steps[0] or "PRIMARY KEY" in steps[0]


def prefer_merging(state: Connection, rows: sa.Select[Any]) -> None:
    """Have PostgreSQL merge two ordered indexes, in this transaction, instead of hashing millions of rows.

    The setting holds for the whole statement, so not where the computation joins tables itself.
    https://www.postgresql.org/docs/current/runtime-config-query.html
    """
    setting = "on" if _joins(rows) else "off"
    state.execute(sa.select(sa.func.set_config("enable_hashjoin", setting, True)))


def _joins(rows: sa.Select[Any]) -> bool:
    return any(
        isinstance(part, (sa.TextClause, sa.Join, sa.Exists))
        or (isinstance(part, sa.Select) and len(part.get_final_froms()) > 1)
        for part in visitors.iterate(rows)
    )
