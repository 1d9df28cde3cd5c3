"""Schedules name their instants by themselves, through both nights on which clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from audience_sync.config.schedule import first_after, next_runs, trigger

BERLIN = "Europe/Berlin"


def instants(schedule: str, zone: str, start: datetime, count: int) -> list[datetime]:
    return list(next_runs(schedule, zone, start, count))


def test_every_two_hours_is_the_same_instants_whenever_it_is_asked() -> None:
    start = datetime(2026, 1, 5, 13, 37, 11, tzinfo=UTC)
    assert instants("every 2 hours", "UTC", start, 2) == [
        datetime(2026, 1, 5, 14, tzinfo=UTC),
        datetime(2026, 1, 5, 16, tzinfo=UTC),
    ]
    assert instants("every 2 hours", "UTC", start + timedelta(minutes=20), 1)[0].hour == 14
    assert instants("every 2 hours", "UTC", datetime(2026, 1, 5, 14, tzinfo=UTC), 1)[0].hour == 16


def test_elapsed_time_stays_even_when_the_clock_changes() -> None:
    start = datetime(2026, 3, 28, 20, tzinfo=ZoneInfo(BERLIN))
    steps = instants("every 2 hours", BERLIN, start, 12)
    assert {(b - a) for a, b in pairwise(i.astimezone(UTC) for i in steps)} == {timedelta(hours=2)}


@pytest.mark.parametrize(("year", "month", "day"), [(2026, 3, 27), (2026, 10, 23)])
def test_a_time_of_day_is_that_of_the_clock_once_a_day(year: int, month: int, day: int) -> None:
    start = datetime(year, month, day, tzinfo=ZoneInfo(BERLIN))
    steps = instants("every day at 06:30", BERLIN, start, 5)
    assert [(i.hour, i.minute) for i in steps] == [(6, 30)] * 5
    assert len({i.date() for i in steps}) == 5


def test_a_time_that_a_clock_change_skips_or_repeats() -> None:
    """02:30 does not exist on 29 March 2026 in Berlin, and exists twice on 25 October."""
    spring = instants("every day at 02:30", BERLIN, datetime(2026, 3, 28, 12, tzinfo=ZoneInfo(BERLIN)), 2)
    autumn = instants("every day at 02:30", BERLIN, datetime(2026, 10, 24, 12, tzinfo=ZoneInfo(BERLIN)), 3)
    assert [i.astimezone(UTC).date().day for i in spring] == [29, 30]
    assert len({i.date() for i in autumn}) == 3


def test_a_pattern_of_hours_goes_on_through_both_hours() -> None:
    start = datetime(2026, 10, 25, 1, 15, tzinfo=ZoneInfo(BERLIN))
    steps = [i.astimezone(UTC) for i in instants("30 * * * *", BERLIN, start, 5)]
    assert {b - a for a, b in pairwise(steps)} == {timedelta(hours=1)}


def test_mondays_and_cron() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert [i.isoformat() for i in instants("every monday at 9:00", "UTC", start, 2)] == [
        "2026-01-05T09:00:00+00:00",
        "2026-01-12T09:00:00+00:00",
    ]
    assert instants("30 6 * * 0", "UTC", start, 1)[0].strftime("%a %H:%M") == "Sun 06:30"
    assert first_after(trigger("0 0 30 2 *", "UTC"), start) is None
