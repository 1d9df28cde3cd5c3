"""What each warehouse calls the few things that keeping snapshots in it asks for: a row a database, and no branches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Executable
from sqlalchemy.types import TypeEngine


@dataclass(frozen=True)
class Capabilities:
    """What one database can do, and how it says so."""

    sha256_hex: Callable[[ColumnElement[str]], ColumnElement[str]]
    """The SHA-256 of a text's UTF-8 bytes, as lower-case hexadecimal digits."""
    text: TypeEngine[str] = field(default_factory=sa.Text)
    """A text of any length that is compared to the letter."""
    storage: Mapping[str, Any] = field(default_factory=dict)
    """What its CREATE TABLE says beside the columns, as SQLAlchemy's dialect has it."""
    analyze: bool = False
    """A table just filled is unknown to its planner until it is told."""
    impatient: Executable | None = None
    """Has a transaction's DROP TABLE fail, not wait for whoever reads the table."""
    one_instant: bool = False
    """Transactions hold several statements, CREATE TABLE among them, see one instant of all tables, and have
    savepoints: all computations of a job are read at one instant."""


CAPABILITIES = {
    "duckdb": Capabilities(sha256_hex=sa.func.sha256),
    "postgresql": Capabilities(
        sha256_hex=lambda text: sa.func.encode(sa.func.sha256(sa.func.convert_to(text, "UTF8")), "hex"),
        text=sa.Text(collation="C"),
        analyze=True,
        impatient=sa.select(sa.func.set_config("lock_timeout", "5s", True)),
        one_instant=True,
    ),
    "spark": Capabilities(sha256_hex=lambda text: sa.func.sha2(text, 256)),
}
"""By the name of SQLAlchemy's dialect."""
