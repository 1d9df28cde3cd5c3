"""The table of databases: how each family spells what the rules ask. A new database is a new row."""

from __future__ import annotations

from audience_sync.computations.spellings.base import PLACES, Spelling, is_number, is_time, naive
from audience_sync.computations.spellings.mysql import MARIADB_COLLATION, MariaDB, MySQL
from audience_sync.computations.spellings.postgresql import DuckDB, PostgreSQL
from audience_sync.computations.spellings.sqlite import SQLite
from audience_sync.computations.spellings.warehouses import BigQuery, ClickHouse, Redshift, Snowflake, Spark, Trino

ROWS: dict[str, Spelling] = {
    "sqlite": SQLite(),
    "postgresql": PostgreSQL(),
    "duckdb": DuckDB(),
    "mysql": MySQL(),
    "mariadb": MariaDB(),
    "spark": Spark(),
    "databricks": Spark(),
    "snowflake": Snowflake(),
    "bigquery": BigQuery(),
    "redshift": Redshift(),
    "trino": Trino(),
    "clickhousedb": ClickHouse(),
}
"""By the names of SQLAlchemy's dialects."""

__all__ = ["MARIADB_COLLATION", "PLACES", "ROWS", "Spelling", "is_number", "is_time", "naive"]
