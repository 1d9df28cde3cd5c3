"""Lengths of time and instants, as people write them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from audience_sync.config.durations import UNITS, Duration, parse_duration, parse_moment
from audience_sync.delivery.body import timestamp

T = datetime(2026, 3, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "before"),
    [
        ("30 days", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("1 month", datetime(2026, 2, 28, 12, tzinfo=UTC)),
        ("13 months", datetime(2025, 2, 28, 12, tzinfo=UTC)),
        ("1 year", datetime(2025, 3, 31, 12, tzinfo=UTC)),
        ("2 weeks", datetime(2026, 3, 17, 12, tzinfo=UTC)),
        ("90 Minutes", datetime(2026, 3, 31, 10, 30, tzinfo=UTC)),
        ("0 seconds", T),
        ("  24hours ", datetime(2026, 3, 30, 12, tzinfo=UTC)),
    ],
)
def test_a_length_before_an_instant(written: str, before: datetime) -> None:
    assert parse_duration(written).before(T) == before


@pytest.mark.parametrize(
    "written", ["30", "days", "30 dayz", "-1 day", "1.5 days", "", "1 day 2 hours", None, 30, "1 dayss"]
)
def test_what_is_no_length(written: object) -> None:
    with pytest.raises(PydanticCustomError):
        parse_duration(written)


@given(st.integers(0, 999_999), st.sampled_from(UNITS))
def test_a_length_reads_back(number: int, unit: str) -> None:
    assert parse_duration(str(Duration(number, unit))) == Duration(number, unit)


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("1997-04-01", datetime(1997, 4, 1, tzinfo=UTC)),
        (date(1997, 4, 1), datetime(1997, 4, 1, tzinfo=UTC)),
        ("1997-04-01T06:30", datetime(1997, 4, 1, 6, 30, tzinfo=UTC)),
        ("1997-04-01 06:30:15.250", datetime(1997, 4, 1, 6, 30, 15, 250000, tzinfo=UTC)),
        ("1997-04-01T06:30:00Z", datetime(1997, 4, 1, 6, 30, tzinfo=UTC)),
        ("1997-04-01T06:30:00+02:00", datetime(1997, 4, 1, 4, 30, tzinfo=UTC)),
    ],
)
def test_moments_are_utc_unless_they_say(written: object, moment: datetime) -> None:
    found = parse_moment(written)
    assert found == moment
    assert found.utcoffset() == timedelta(0)


@pytest.mark.parametrize("written", ["yesterday", "2026-02-30", "2026-13-01", "", "1.5", "2026-01-01T25:00"])
def test_what_is_no_moment(written: str) -> None:
    with pytest.raises(PydanticCustomError):
        parse_moment(written)


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)))
def test_timestamps_are_milliseconds_cut_off(instant: datetime) -> None:
    text = timestamp(instant).decode()
    cut = instant.replace(microsecond=instant.microsecond // 1000 * 1000)
    assert datetime.fromisoformat(text).replace(tzinfo=None) == cut
    assert len(text) == 24
