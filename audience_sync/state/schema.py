"""Bringing `state` to the current schema, and refusing one that is newer than this program."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from audience_sync.database import writing
from audience_sync.errors import ConfigError
from audience_sync.state.tables import PREFIX, meta

VERSION_TABLE = PREFIX + "version"
CURRENT = "0001"


def _migrations() -> Path:
    """The wheel carries `migrations/` inside the package; a source tree has it beside."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def version(connection: Connection) -> str | None:
    """The schema version of state, or None when it has no tables of ours."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    table = sa.table(VERSION_TABLE, sa.column("version_num"))
    found = connection.execute(sa.select(table.c.version_num)).scalar()
    return str(found) if found else None


def refuse_newer(found: str | None) -> None:
    if found is not None and found > CURRENT:
        raise ConfigError(
            f"state: its schema is version {found}; this audience-sync knows up to {CURRENT}",
            "install the newer audience-sync that wrote it",
        )


def migrate(engine: Engine) -> tuple[str | None, str]:
    """Bring state to the current schema, all of it or nothing; returns the version before and after."""
    with engine.connect() as connection:
        before = version(connection)
        connection.rollback()
        refuse_newer(before)
        if before == CURRENT:
            return before, CURRENT
        # Imported here: it costs a tenth of a second that a run on a current state need not pay.
        from alembic import command
        from alembic.config import Config as AlembicConfig

        config = AlembicConfig()
        config.set_main_option("script_location", str(_migrations()).replace("%", "%%"))
        with writing(connection):
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(VERSION_TABLE))))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    return before, CURRENT


def require_current(engine: Engine) -> None:
    """For databases that somebody else looks after: say what to do instead of altering them unasked."""
    with engine.connect() as connection:
        found = version(connection)
    refuse_newer(found)
    if found != CURRENT:
        raise ConfigError(
            "state: its tables are not there yet"
            if found is None
            else f"state: its schema is version {found}, not {CURRENT}",
            "run `audience-sync migrate` once",
        )


def state_id(connection: Connection) -> str:
    return str(connection.execute(sa.select(meta.c.value).where(meta.c.name == "state_id")).scalar_one())
