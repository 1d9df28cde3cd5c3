"""Times written as text, as SQLite's spelling reads them."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.computations.spellings import ROWS

SPELLING = ROWS["sqlite"]
ENGINE = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)


def read(text: str) -> str | None:
    with ENGINE.connect() as connection:
        found: str | None = connection.execute(sa.select(SPELLING.moment_of(sa.literal(text, sa.Text)))).scalar()
        return found


def is_counted(text: str, operator: str, instant: datetime) -> bool:
    with ENGINE.connect() as connection:
        found = SPELLING.compared(sa.literal(text, sa.Text), operator, instant)
        return bool(connection.execute(sa.select(found)).scalar())


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)))
def test_a_moment_is_read_as_it_stands(moment: datetime) -> None:
    text = moment.isoformat(" ", "microseconds")
    assert read(text) == text
    assert read(moment.isoformat("T", "microseconds")) == text


@pytest.mark.parametrize(
    "text",
    [
        *("2026-00-10", "2026-13-10", "2026-01-00", "2026-01-32", "2026-02-28"),
        *("2026-02-30", "2026-02-31", "2026-04-31", "2024-02-29", "2026-12-29"),
    ],
)
@pytest.mark.parametrize("time", ["00:00:00", "23:59:59", "25:00:00"])
def test_what_only_looks_like_a_moment_is_what_sqlite_makes_of_it(text: str, time: str) -> None:
    with sqlite3.connect(":memory:") as connection:
        (wanted,) = connection.execute("SELECT strftime('%Y-%m-%d %H:%M:%S', ?)", (f"{text} {time}",)).fetchone()
    assert read(f"{text} {time}.123456") == (wanted and f"{wanted}.123456")


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2026, 1, 8)),
    st.integers(-14 * 60, 14 * 60),
    st.timedeltas(-timedelta(days=2), timedelta(days=2)),
    st.sampled_from(["__gt__", "__ge__", "__lt__", "__le__"]),
)
def test_no_zone_hides_a_time_from_the_comparison(utc: datetime, minutes: int, apart: timedelta, operator: str) -> None:
    moment = utc.replace(tzinfo=UTC)
    written = moment.astimezone(timezone(timedelta(minutes=minutes)))
    instant = moment + apart
    assert is_counted(written.isoformat(" "), operator, instant) == getattr(moment, operator)(instant)
