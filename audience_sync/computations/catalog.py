"""The source's tables as they are, and clear words for those that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from audience_sync.computations.properties import Property
from audience_sync.config.strict import did_you_mean
from audience_sync.errors import ConfigError
from audience_sync.state.tables import RELAY_EVENTS, RELAY_PEOPLE


class Catalog:
    """Reflects each table once. `where` in its methods is what in jobs.yaml named the table or column."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.dialect = engine.dialect.name
        if self.dialect == "mysql":
            with engine.connect() as connection:  # a mysql:// URL may lead to a MariaDB, as is known when it answers
                self.dialect = "mariadb" if getattr(connection.dialect, "is_mariadb", False) else "mysql"
        self._tables: dict[str, sa.Table] = {}
        self._connection: Connection | None = None

    @contextmanager
    def through(self, connection: Connection) -> Iterator[Self]:
        """Ask through this connection meanwhile: each of its own costs a warehouse a second."""
        self._connection = connection
        try:
            yield self
        finally:
            self._connection = None

    def _connect(self) -> AbstractContextManager[Connection]:
        return self.engine.connect() if self._connection is None else nullcontext(self._connection)

    def table(self, name: str, where: str) -> sa.Table:
        if name not in self._tables:
            schema, _, bare = name.rpartition(".")
            try:
                with self._connect() as connection:  # of its columns alone: the rest costs seven queries more
                    columns = sa.inspect(connection).get_columns(bare, schema or None)
                if not columns:  # not every dialect raises it itself
                    raise sa.exc.NoSuchTableError(name)
                self._tables[name] = sa.Table(
                    bare,
                    sa.MetaData(),
                    *[sa.Column(column["name"], column["type"], nullable=column["nullable"]) for column in columns],
                    schema=schema or None,
                )
            except sa.exc.NoSuchTableError:
                with self._connect() as connection:
                    inspector = sa.inspect(connection)
                    known = [
                        *inspector.get_table_names(schema or None),
                        *inspector.get_view_names(schema or None),
                    ]
                hint = did_you_mean(name, [n for n in known if n])
                if name in (RELAY_EVENTS, RELAY_PEOPLE):
                    hint = "run `audience-sync migrate` once"
                raise ConfigError(f"{where}: the source has no table {name!r}", hint) from None
        return self._tables[name]

    def column(self, table: sa.Table, name: str, where: str) -> sa.Column[object]:
        if name in table.c:
            return table.c[name]
        raise ConfigError(
            f"{where}: the table {table.name} has no column {name!r}",
            did_you_mean(name, [c.name for c in table.c]),
        )

    def selected(self, query: sa.FromClause) -> dict[str, str]:
        """The columns that a query gives, each with the driver's word for its type (SQLite has none)."""
        nothing: sa.Select[Any] = sa.select(sa.literal_column("*")).select_from(query).where(sa.false())
        with self._connect() as connection, connection.execute(nothing) as result:
            return {column[0]: str(column[1]) for column in result.cursor.description}

    def property(self, table: sa.Table, name: str, json: str | None, where: str) -> sa.Column[object] | Property:
        """The column of this name or, where there is none, the property of this name in the column `json`."""
        if json is None or name in table.c:
            return self.column(table, name, where)
        return Property(self.column(table, json, where), name, self.dialect)
