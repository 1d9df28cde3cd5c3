"""A Spark cluster as a source: syncs end to end, and what is said when it cannot be read."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from support import few_orders, shop
from support.cdnow import check_figures, in_process
from support.own_sql import told_of
from support.project import Project

from audience_sync.database import open_source, told
from audience_sync.errors import ConfigError, DatabaseError
from audience_sync.state.tables import computations, synced

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("spark")]

METADATA = sa.MetaData()
KINDS = sa.Table(
    "kinds",
    METADATA,
    sa.Column("id", sa.Text),
    sa.Column("at", sa.DateTime),
    sa.Column("zoned", sa.DateTime(timezone=True)),
    sa.Column("day", sa.Date),
    sa.Column("exact", sa.Numeric(10, 2)),
    sa.Column("yes", sa.Boolean),
    sa.Column("real", sa.Double),
    sa.Column("whole", sa.BigInteger),
)
NOON = datetime(2024, 2, 29, 12, 0, 0, 456789)
ROW = ("a'\\b`:x\n名", NOON, NOON.replace(tzinfo=UTC), date(2024, 2, 29), Decimal("12.50"), True, 0.1, 2**40)


@pytest.fixture(scope="module")
def engine(spark: str) -> sa.Engine:
    engine = open_source(spark)
    METADATA.create_all(engine)
    names = [column.name for column in KINDS.columns]
    with engine.begin() as connection:
        rows = [dict(zip(names, ROW, strict=True)), dict.fromkeys(names)]
        connection.execute(sa.insert(KINDS).values(rows))
    return engine


def test_values_of_every_type_come_back_as_they_went(engine: sa.Engine) -> None:
    found = sa.Table("kinds", sa.MetaData(), autoload_with=engine)
    with engine.connect() as connection:
        rows = connection.execute(sa.select(found).order_by(found.c.id.desc())).all()
        assert [tuple(row) for row in rows] == [ROW, (None,) * len(ROW)]
        for column, value in zip(found.columns, ROW, strict=True):
            assert connection.scalar(sa.select(found.c.id).where(column == value)) == ROW[0], column
    assert [type(column.type) for column in found.columns] == [type(column.type) for column in KINDS.columns]


def test_values_of_a_users_own_sql(engine: sa.Engine) -> None:
    told = {
        "9007199254740993": "9007199254740993",
        "1.50": "1.5",
        "2.0D": "2",
        "'a\"b'": '"a\\"b"',
        "'NaN'": '"NaN"',
        "true": "true",
        "date'2024-01-31'": '"2024-01-31"',
        "cast('NaN' as double)": None,
        "cast('-Infinity' as float)": None,
        "null": None,
    }
    assert {expression: told_of(engine, expression) for expression in told} == told


def test_rows_come_in_parts_and_the_rest_may_be_left(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        result = connection.exec_driver_sql("SELECT id FROM range(200000)")
        assert len(result.fetchmany(1000)) == 1000
        result.close()
        assert connection.exec_driver_sql("SELECT count(*) FROM range(7)").scalar_one() == 7


def test_what_is_wrong_is_said_in_one_line(engine: sa.Engine, spark: str) -> None:
    assert not sa.inspect(engine).has_table("nope")
    with engine.connect() as connection:
        with (
            pytest.raises(DatabaseError, match=r"source: spark://.*`nope` cannot be resolved") as failed,
            told("source", spark),
        ):
            connection.exec_driver_sql("SELECT nope FROM kinds").all()
        assert "\n" not in str(failed.value)
    with pytest.raises(DatabaseError, match="no Spark Connect server answers"), told("source", "spark://127.0.0.1:1"):
        open_source("spark://127.0.0.1:1").connect()
    elsewhere = sa.make_url(spark).set(database="nowhere").render_as_string(hide_password=False)
    with pytest.raises(ConfigError, match="SCHEMA_NOT_FOUND"), told("source", elsewhere):
        open_source(elsewhere).connect()


def test_syncs_end_to_end(engine: sa.Engine, spark: str, project: Project, tmp_path: Path) -> None:
    few_orders.orders.create(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(few_orders.orders).values(few_orders.ROWS))
    few_orders.first_sync(project, spark, on="`on`")
    again = few_orders.a_week_later(project)
    lately = again.json["jobs"][0]["computations"][0]
    assert (lately["entered"], lately["exited"], lately["size"]) == (0, 1, 0)


def test_the_figures_of_cdnow_with_the_snapshots_kept_there(
    engine: sa.Engine, spark: str, project: Project, tmp_path: Path
) -> None:
    """Two executors over Parquet files; rules, snapshots and diff run there, and only changes come out."""
    pd.DataFrame(shop.cdnow()).to_parquet(tmp_path / "orders.parquet")
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE cdnow USING parquet LOCATION '{tmp_path}/orders.parquet'")
    source = f"{{url: '{spark}', synced: warehouse}}"
    project.write(shop.jobs_yaml(source, "sqlite:///state.db", project.url).replace("table: orders", "table: cdnow"))
    check_figures(project, in_process(project), days=3)
    kept = [name for name in sa.inspect(engine).get_table_names() if name.startswith("audience_sync_")]
    assert len(kept) == 1
    state = sa.create_engine(f"sqlite:///{tmp_path}/state.db")
    with state.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(synced)).scalar_one() == 0
        assert list(connection.execute(sa.select(computations.c.snapshot)).scalars()) == kept
    state.dispose()
    # Forgotten: the snapshot is written again without the user, whom no later one holds.
    with engine.connect() as connection:
        snapshot = sa.table(kept[0], sa.column("user_id"))
        somebody = connection.execute(sa.select(sa.func.min(snapshot.c.user_id))).scalar_one()
    assert project.quick("forget", somebody).code == 0
    assert somebody not in members_kept(engine)
    assert project.quick("run", "--as-of", "1997-04-03").code == 0
    assert somebody not in members_kept(engine) and len(members_kept(engine)) == 8373
    assert project.quick("unforget", somebody).code == 0
    project.receiver.calls.clear()
    assert project.quick("run", "--as-of", "1997-04-03").code == 0
    assert [(call.body["userId"], list(call.body["traits"].values())) for call in project.receiver.calls] == [
        (somebody, [True])
    ]


def members_kept(engine: sa.Engine) -> set[str]:
    (kept,) = [name for name in sa.inspect(engine).get_table_names() if name.startswith("audience_sync_")]
    with engine.connect() as connection:
        return set(connection.execute(sa.select(sa.column("user_id")).select_from(sa.table(kept))).scalars())
