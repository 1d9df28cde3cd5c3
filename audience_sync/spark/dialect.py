"""SQLAlchemy's dialect for Spark SQL: https://spark.apache.org/docs/latest/sql-ref.html"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, default, interfaces
from sqlalchemy.sql import compiler

PORT = 15002
SETTINGS = {
    "spark.sql.session.timeZone": "UTC",  # nothing depends on the server's
    "spark.sql.ansi.enabled": "true",  # arithmetic that overflows is an error, not a wrong number
    # Spark 4.3 makes an invalid plan of a running maximum that is compared over a UNION ALL with a side without rows.
    "spark.sql.optimizer.excludedRules": "org.apache.spark.sql.catalyst.optimizer.RemoveRedundantAliases",
}


class _Preparer(compiler.IdentifierPreparer):
    """Every name in backticks: which words are reserved depends on the server's release and settings."""

    def __init__(self, dialect: Any) -> None:
        super().__init__(dialect, initial_quote="`", escape_quote="`")

    def _requires_quotes(self, value: str) -> bool:
        return True

    def quote_schema(self, schema: str) -> str:
        return ".".join(map(self.quote, schema.split(".")))  # a catalog may stand before it


class _Compiler(compiler.SQLCompiler):
    def render_bind_cast(self, type_: Any, dbapi_type: Any, sqltext: str) -> str:
        return f"CAST({sqltext} AS {self.dialect.type_compiler_instance.process(dbapi_type)})"

    def visit_regexp_match_op_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        return f"{self.process(binary.left, **kw)} RLIKE {self.process(binary.right, **kw)}"

    def limit_clause(self, select: Any, **kw: Any) -> str:
        text = ""
        if select._limit_clause is not None:
            text += "\n LIMIT " + self.process(select._limit_clause, **kw)
        if select._offset_clause is not None:
            text += "\n OFFSET " + self.process(select._offset_clause, **kw)
        return text


class _TypeCompiler(compiler.GenericTypeCompiler):
    def visit_string(self, type_: Any, **kw: Any) -> str:
        return "STRING"

    visit_text = visit_unicode = visit_unicode_text = visit_enum = visit_string
    visit_TEXT = visit_VARCHAR = visit_CHAR = visit_NCHAR = visit_NVARCHAR = visit_CLOB = visit_string

    def visit_INTEGER(self, type_: Any, **kw: Any) -> str:
        return "INT"

    def visit_DOUBLE(self, type_: Any, **kw: Any) -> str:
        return "DOUBLE"

    visit_FLOAT = visit_REAL = visit_DOUBLE_PRECISION = visit_DOUBLE

    def visit_NUMERIC(self, type_: Any, **kw: Any) -> str:
        return f"DECIMAL({type_.precision or 38}, {type_.scale or 0})"

    visit_DECIMAL = visit_NUMERIC

    def visit_DATETIME(self, type_: Any, **kw: Any) -> str:
        return "TIMESTAMP" if type_.timezone else "TIMESTAMP_NTZ"

    visit_TIMESTAMP = visit_DATETIME

    def visit_BLOB(self, type_: Any, **kw: Any) -> str:
        return "BINARY"

    visit_large_binary = visit_BINARY = visit_VARBINARY = visit_BLOB


class _BigInteger(sa.BigInteger):
    render_bind_cast = True


class _Double(sa.Double[Any]):
    render_bind_cast = True


class _Date(sa.Date):
    render_bind_cast = True

    def bind_processor(self, dialect: Any) -> Callable[[date | None], str | None]:
        return lambda day: None if day is None else day.isoformat()

    def literal_processor(self, dialect: Any) -> Callable[[date], str]:
        return lambda day: f"DATE '{day.isoformat()}'"


class _DateTime(sa.DateTime):
    """A moment goes as text, so that neither side's zone is asked; one with a zone comes in UTC."""

    render_bind_cast = True

    def bind_processor(self, dialect: Any) -> Callable[[datetime | None], str | None]:
        return lambda moment: None if moment is None else moment.isoformat(" ")

    def literal_processor(self, dialect: Any) -> Callable[[datetime], str]:
        word = "TIMESTAMP" if self.timezone else "TIMESTAMP_NTZ"
        return lambda moment: f"{word} '{moment.isoformat(' ')}'"

    def result_processor(self, dialect: Any, coltype: Any) -> Callable[[datetime | None], datetime | None] | None:
        if not self.timezone:
            return None
        return lambda moment: None if moment is None else moment.astimezone(UTC)


class _String(sa.String):
    def literal_processor(self, dialect: Any) -> Callable[[str], str]:
        return lambda text: "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_TYPES: dict[str, Callable[[], Any]] = {
    "boolean": sa.Boolean,
    "tinyint": sa.SmallInteger,
    "smallint": sa.SmallInteger,
    "int": sa.Integer,
    "bigint": sa.BigInteger,
    "float": sa.Double,
    "double": sa.Double,
    "string": sa.Text,
    "date": sa.Date,
    "timestamp": lambda: sa.DateTime(timezone=True),
    "timestamp_ntz": sa.DateTime,
    "binary": sa.LargeBinary,
}


def type_of(spelled: str) -> Any:
    """SQLAlchemy's type for a type as Spark writes it; NullType for what no rule can ask about (arrays, maps)."""
    decimal = re.fullmatch(r"decimal\((\d+),(\d+)\)", spelled)
    if decimal:
        return sa.Numeric(int(decimal[1]), int(decimal[2]))
    return _TYPES.get(re.sub(r"^string .*$", "string", spelled), sa.types.NullType)()


class SparkDialect(default.DefaultDialect):
    name = "spark"
    driver = "connect"
    preparer: type[compiler.IdentifierPreparer] = _Preparer
    statement_compiler = _Compiler
    type_compiler_cls = _TypeCompiler
    bind_typing = interfaces.BindTyping.RENDER_CASTS
    colspecs = {  # noqa: RUF012
        sa.BigInteger: _BigInteger,
        sa.Double: _Double,
        sa.Date: _Date,
        sa.DateTime: _DateTime,
        sa.String: _String,
    }
    default_paramstyle = "named"
    supports_statement_cache = True
    supports_native_boolean = True
    supports_native_decimal = True
    supports_multivalues_insert = True
    supports_default_values = False
    supports_sane_rowcount = False
    supports_sane_multi_rowcount = False
    postfetch_lastrowid = False
    insert_null_pk_autoincrement = True
    max_identifier_length = 255

    @classmethod
    def import_dbapi(cls) -> Any:
        from audience_sync.spark import dbapi

        return dbapi

    def create_connect_args(self, url: URL) -> tuple[list[Any], dict[str, Any]]:
        parameters = {name: value for name, value in url.query.items() if isinstance(value, str)}
        if url.username:
            parameters["user_id"] = url.username
        if url.password:
            parameters["token"] = str(url.password)
        self._schema = url.database
        return [], {
            "host": url.host or "localhost",
            "port": url.port or PORT,
            "parameters": parameters,
            "settings": SETTINGS,
        }

    def on_connect(self) -> Callable[[Any], None] | None:
        if not self._schema:
            return None
        name = self.identifier_preparer.quote_schema(self._schema)
        return lambda connection: connection.cursor().execute(f"USE {name}")

    def do_ping(self, dbapi_connection: Any) -> bool:
        dbapi_connection.cursor().execute("SELECT 1")
        return True

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        return isinstance(e, self.loaded_dbapi.OperationalError)

    def _get_default_schema_name(self, connection: Connection) -> str:
        return str(connection.execute(sa.select(sa.func.current_schema())).scalar_one())

    def _names(self, connection: Connection, what: str, schema: str | None, column: int) -> list[str]:
        where = f" IN {self.identifier_preparer.quote_schema(schema)}" if schema else ""
        return [row[column] for row in connection.exec_driver_sql(f"SHOW {what}{where}")]

    def get_schema_names(self, connection: Connection, **kw: Any) -> list[str]:
        return self._names(connection, "SCHEMAS", None, 0)

    def get_table_names(self, connection: Connection, schema: str | None = None, **kw: Any) -> list[str]:
        views = set(self.get_view_names(connection, schema))
        return [name for name in self._names(connection, "TABLES", schema, 1) if name not in views]

    def get_view_names(self, connection: Connection, schema: str | None = None, **kw: Any) -> list[str]:
        return self._names(connection, "VIEWS", schema, 1)

    def has_table(self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any) -> bool:
        try:
            self.get_columns(connection, table_name, schema)
        except sa.exc.NoSuchTableError:
            return False
        return True

    def get_columns(self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any) -> Any:
        rows = sa.select(sa.text("*")).select_from(sa.table(table_name, schema=schema)).limit(0)
        try:
            result = connection.execute(rows)
        except sa.exc.ProgrammingError as error:
            if "NOT_FOUND" in str(error.orig):
                raise sa.exc.NoSuchTableError(table_name) from None
            raise
        columns: Any = result.cursor.description if result.cursor is not None else []
        result.close()
        return [
            {"name": column[0], "type": type_of(column[1]), "nullable": column[6], "default": None}
            for column in columns
        ]

    def get_pk_constraint(self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any) -> Any:
        return {"constrained_columns": [], "name": None}

    def _nothing(self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any) -> list[Any]:
        return []

    get_foreign_keys = get_indexes = get_unique_constraints = get_check_constraints = _nothing

    def get_table_comment(self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any) -> Any:
        return {"text": None}
