"""What is checked before a sync does anything: the jobs asked for, state's tables, every SELECT."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from audience_sync.computations import Computation, compile_computation, share
from audience_sync.computations.catalog import Catalog
from audience_sync.config import Audience, Config, Job, Trait
from audience_sync.config.strict import did_you_mean
from audience_sync.database import is_sqlite, one_line, open_state, told
from audience_sync.errors import ConfigError, Problem
from audience_sync.snapshot import Databases
from audience_sync.state import schema


def chosen_jobs(config: Config, names: Sequence[str]) -> list[Job]:
    """The jobs of these names or keys, or all; ConfigError for one that is not there."""
    if not names:
        return config.jobs
    chosen = []
    for name in names:
        found = [job for job in config.jobs if name in (job.name, job.key)]
        if not found:
            raise ConfigError(f"there is no job {name!r}", did_you_mean(name, [job.name for job in config.jobs]))
        chosen += [job for job in found if job not in chosen]
    return chosen


def open_databases(config: Config, *, writing: bool = False) -> Databases:
    """Both engines, a warehouse's such that snapshots can be kept if `writing`.

    Where rules read the relay's tables, those must be there before anything can be compiled.
    """
    if config.reads_relay:
        with told("state", config.state):
            engine = open_state(config.state)
            try:
                _bring_up_to_date(config, engine)
            finally:
                engine.dispose()
    return Databases.open(config.source, config.state, writing=writing)


def prepare(config: Config, databases: Databases) -> None:
    """Make sure that state has today's tables: SQLite is brought there, another database's owner is asked to."""
    with told("state", config.state):
        _bring_up_to_date(config, databases.state)


def _bring_up_to_date(config: Config, state: Engine) -> None:
    if is_sqlite(config.state):
        schema.migrate(state)
    else:
        schema.require_current(state)


def compile_jobs(
    config: Config, databases: Databases, jobs: Sequence[Job], as_of: datetime
) -> dict[str, list[Computation]]:
    """Compile every computation of the jobs, and have the source check each SELECT, before anything is done.

    All that is wrong is told at once, as ConfigError.
    """
    compiled: dict[str, list[Computation]] = {}
    problems = []
    with told("source", config.source.url):
        catalog = Catalog(databases.source)
        with databases.source.connect() as connection, catalog.through(connection):
            if databases.schema is not None:
                _require_schema(config, connection, databases.schema)
            for job in jobs:
                compiled[job.key] = []
                for computed in job.computed:
                    try:
                        computation = compile_computation(config, catalog, computed, as_of)
                        nothing = computation.rows.subquery()
                        connection.execute(sa.select(nothing.c.user_id).where(sa.false())).close()
                        compiled[job.key].append(computation)
                    except ConfigError as error:
                        problems += [_placed(config, job, computed, problem) for problem in error.problems()]
                    except (sa.exc.ProgrammingError, sa.exc.OperationalError, sa.exc.DataError) as error:
                        if getattr(error, "connection_invalidated", False):
                            raise
                        hint = "its sql: must select user_id" + ("" if computed in job.audiences else " and value")
                        given = getattr(computed, "sql", None) is not None
                        said = f"{job.name} › {computed.name}: the source says: {one_line(error)}"
                        problems.append(_placed(config, job, computed, Problem(said, hint if given else "")))
                        connection.rollback()
    if problems:
        # Audiences that read the same wrong event all say so; once is enough.
        raise ConfigError(list({str(problem): problem for problem in problems}.values()))
    for job in jobs:
        share(config, catalog, job, as_of, compiled[job.key])
    return compiled


def _require_schema(config: Config, connection: Connection, name: str) -> None:
    there = [str(schema) for schema in sa.inspect(connection).get_schema_names()]
    # Some name a schema with its catalog before it.
    if name.rpartition(".")[2].lower() not in {schema.rpartition(".")[2].lower().strip('"') for schema in there}:
        problem = Problem(f"the warehouse has no schema {name!r} to keep snapshots in", "create it, or name another")
        raise ConfigError([config.placed(problem, "source", "schema")])


def _placed(config: Config, job: Job, computed: Audience | Trait, problem: Problem) -> Problem:
    """With the place in jobs.yaml of the entry that names what the source lacks."""
    for name in config.events:
        if problem.message.startswith(f"events: {name}: "):
            return config.placed(problem, "events", name)
    if problem.message.startswith("people: "):
        return config.placed(problem, "people")
    group, among = ("audiences", job.audiences) if isinstance(computed, Audience) else ("traits", job.traits)
    entry = ("jobs", config.jobs.index(job), group, among.index(computed))  # type: ignore[arg-type]
    return config.placed(problem, *entry, *(["sql"] if getattr(computed, "sql", None) else []))
