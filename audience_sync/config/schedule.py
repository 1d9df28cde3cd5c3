"""When a job runs: `every 2 hours`, `every day at 06:30`, `every monday at 9:00`, or cron with a timezone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger
from tzlocal import get_localzone

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


def trigger(schedule: str, timezone: str | None = None) -> BaseTrigger:
    """APScheduler's trigger for a schedule; ValueError says what was expected."""
    zone = local_zone(timezone)
    words = " ".join(schedule.lower().split())
    if match := re.fullmatch(r"every (\d+ )?(second|minute|hour|day|week)s?", words):
        count = int(match[1] or 1)
        if count:
            return IntervalTrigger(**{match[2] + "s": count}, timezone=zone)
    if match := re.fullmatch(r"every (day|weekday|" + "|".join(_DAYS) + r") at (\d{1,2}):(\d{2})", words):
        days = {"day": "*", "weekday": "mon-fri"}.get(match[1], match[1][:3])
        if int(match[2]) < 24 and int(match[3]) < 60:
            return CronTrigger(day_of_week=days, hour=int(match[2]), minute=int(match[3]), timezone=zone)
    if len(words.split()) == 5:
        try:
            return CronTrigger.from_crontab(_sunday_is_zero(words), timezone=zone)
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
    previous: datetime | None = None
    now = after
    for _ in range(count):
        instant = found.get_next_fire_time(previous, now)
        if instant is None:
            return
        yield instant
        previous = now = instant
