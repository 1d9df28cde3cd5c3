"""When a job runs: `every 2 hours`, `every day at 06:30`, `every monday at 9:00`, or cron with a timezone.

Every schedule names instants by itself, without a memory of when something was started: `every 2 hours` counts from
one fixed midnight. So a restart does not shift it, and all machines, `status` and the page mean the same instants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger
from tzlocal import get_localzone

_ANCHOR = datetime(1970, 1, 5)
"""A Monday's midnight, in the job's zone, from which `every N units` counts in elapsed time."""

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
EXPECTED = "expected every 2 hours, every day at 06:30, every monday at 9:00, or cron such as 0 */2 * * *"


def local_zone(name: str | None) -> tzinfo:
    """The named zone, or the machine's; ValueError when there is none of that name."""
    if name is None:
        return get_localzone()
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("expected a time zone such as Europe/Berlin or UTC") from None


class ClockTrigger(BaseTrigger):  # type: ignore[misc]
    """Cron by the clock on the wall, as cron(8) has it when the clock changes: an hour that is skipped is made up for
    at once, and a time of day in the hour that comes twice is met once. A pattern of hours is met in both."""

    def __init__(self, cron: CronTrigger, zone: tzinfo) -> None:
        self.cron = cron
        self.zone = zone
        (hour,) = (field for field in cron.fields if field.name == "hour")
        self.at_a_time_of_day = not str(hour).startswith("*")

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
        after = now.astimezone(UTC) if previous is None else previous.astimezone(UTC) + timedelta(microseconds=1)
        while True:
            found = self.cron.get_next_fire_time(None, after)
            if found is None:
                return None
            after = found.astimezone(UTC)
            instant: datetime = after.astimezone(self.zone)
            twice = instant.utcoffset() != instant.replace(fold=0).utcoffset()
            if not (twice and self.at_a_time_of_day):
                return instant
            after += timedelta(microseconds=1)


def trigger(schedule: str, timezone: str | None = None) -> BaseTrigger:
    """APScheduler's trigger for a schedule; ValueError says what was expected."""
    zone = local_zone(timezone)
    words = " ".join(schedule.lower().split())
    if match := re.fullmatch(r"every (\d+ )?(second|minute|hour|day|week)s?", words):
        count = int(match[1] or 1)
        if count:
            return IntervalTrigger(**{match[2] + "s": count}, timezone=zone, start_date=_ANCHOR.replace(tzinfo=zone))
    if match := re.fullmatch(r"every (day|weekday|" + "|".join(_DAYS) + r") at (\d{1,2}):(\d{2})", words):
        days = {"day": "*", "weekday": "mon-fri"}.get(match[1], match[1][:3])
        if int(match[2]) < 24 and int(match[3]) < 60:
            cron = CronTrigger(day_of_week=days, hour=int(match[2]), minute=int(match[3]), timezone=zone)
            return ClockTrigger(cron, zone)
    if len(words.split()) == 5:
        try:
            return ClockTrigger(CronTrigger.from_crontab(_sunday_is_zero(words), timezone=zone), zone)
        except ValueError:
            raise ValueError(EXPECTED) from None
    raise ValueError(EXPECTED)


def _sunday_is_zero(cron: str) -> str:
    """APScheduler counts days of the week from Monday; crontab counts from Sunday. Names mean one thing to both."""
    *rest, days = cron.split()
    names = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
    if "/" in days:
        return cron
    ranges = []
    for part in days.split(","):
        low, dash, high = part.partition("-")
        if dash and low.isdigit() and high.isdigit():
            ranges += [names[day] for day in range(int(low), int(high) + 1) if day < 8]
        elif part.isdigit() and int(part) < 8:
            ranges.append(names[int(part)])
        else:
            return cron
    return " ".join([*rest, ",".join(ranges)])


def next_runs(schedule: str, timezone: str | None, after: datetime, count: int = 3) -> Iterator[datetime]:
    """The next instants, in local time, at which a job with this schedule runs."""
    found = trigger(schedule, timezone)
    for _ in range(count):
        instant = first_after(found, after)
        if instant is None:
            return
        yield instant
        after = instant


def first_after(when: BaseTrigger, instant: datetime) -> datetime | None:
    """The first instant of a trigger that is later than the given one; None for a date that never comes."""
    found: datetime | None = when.get_next_fire_time(None, instant.astimezone(UTC) + timedelta(microseconds=1))
    return found
