"""Days of schedule in a moment: APScheduler itself, woken by hand, on a clock that freezegun turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from freezegun import freeze_time
from support.clockwork import ByHand, pass_time

from audience_sync.config import Config, Job, load_config
from audience_sync.errors import ConfigError
from audience_sync.scheduler import Outcome, Scheduler
from audience_sync.sync import run

BERLIN = ZoneInfo("Europe/Berlin")


@dataclass
class World:
    """A project in which each run is a real sync of this process."""

    folder: Path
    schedule: str
    ran: list[datetime] = field(default_factory=list)
    told: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        engine = sa.create_engine(f"sqlite:///{self.folder}/shop.db", poolclass=sa.pool.NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql("create table members (user_id text)")
        self.write(self.schedule)

    def write(self, schedule: str, job: str = "J") -> None:
        (self.folder / "jobs.yaml").write_text(f"""\
version: 1
source: sqlite:///shop.db
workflows:
  w1: {{url: "http://127.0.0.1:9/w1"}}
jobs:
  - name: {job}
    schedule: {schedule}
    timezone: Europe/Berlin
    audiences:
      - {{name: a, table: {{name: members, user_id: user_id}}}}
""")

    def sync(self, config: Config, job: Job) -> Outcome:
        now = datetime.now(UTC)
        self.ran.append(now)
        report = run(config, [job.key], now).jobs[0]
        return Outcome(job.key, job.name, report.status, report.error, now, 0.0, "run", report)

    def scheduler(self) -> tuple[Scheduler, ByHand]:
        clock = ByHand()
        made = Scheduler(
            lambda: load_config(self.folder / "jobs.yaml"), self.sync, lambda _, o: self.told.append(o), clock
        )
        return made, clock


@pytest.fixture
def frozen() -> Iterator[object]:
    with freeze_time("2026-03-28T10:00:00Z", real_asyncio=True) as clock:
        yield clock


def test_days_with_a_clock_change(tmp_path: Path, frozen: object) -> None:
    world = World(tmp_path, "every day at 06:30")
    scheduler, clock = world.scheduler()
    scheduler.start()
    pass_time(clock, frozen, timedelta(days=4))
    local = [instant.astimezone(BERLIN) for instant in world.ran]
    assert [f"{i:%d %H:%M}" for i in local] == ["29 06:30", "30 06:30", "31 06:30", "01 06:30"]
    assert world.ran[0].hour == 4  # summer time since that night
    assert {outcome.status for outcome in world.told} == {"succeeded"}


def test_a_restart_makes_up_for_what_was_missed_once(tmp_path: Path, frozen: object) -> None:
    world = World(tmp_path, "every 2 hours")
    scheduler, clock = world.scheduler()
    scheduler.start()
    pass_time(clock, frozen, timedelta(hours=5))
    scheduler.stop()
    before = len(world.ran)
    assert before == 4  # at once, for a job never synced; then 11:00, 13:00, 15:00 UTC
    frozen.tick(timedelta(days=3, minutes=7))  # type: ignore[attr-defined]
    scheduler, clock = world.scheduler()
    scheduler.start()
    pass_time(clock, frozen, timedelta(minutes=30))
    assert len(world.ran) == before + 1
    pass_time(clock, frozen, timedelta(hours=2))
    assert len(world.ran) == before + 2
    assert world.ran[-1].astimezone(UTC).minute == 0, "the schedule's own instants, not the restart's"


@pytest.mark.slow
def test_a_job_that_another_machine_has_just_synced_is_left_alone(tmp_path: Path, frozen: object) -> None:
    world = World(tmp_path, "every 2 hours")
    pair = [world.scheduler(), world.scheduler()]
    for scheduler, _ in pair:
        scheduler.start()
    for _ in range(48):
        for _, clock in pair:
            clock._process_jobs()
        frozen.tick(timedelta(minutes=30))  # type: ignore[attr-defined]
    assert len(world.ran) == 13


def test_jobs_yaml_is_read_again_and_a_wrong_one_is_not(tmp_path: Path, frozen: object) -> None:
    world = World(tmp_path, "every 2 hours")
    scheduler, clock = world.scheduler()
    scheduler.start()
    pass_time(clock, frozen, timedelta(hours=1, minutes=30))
    assert len(world.ran) == 2
    world.write("every blue moon")
    assert not scheduler.reload()
    assert isinstance(scheduler.config_error, ConfigError)
    pass_time(clock, frozen, timedelta(hours=2))
    assert len(world.ran) == 3, "the old one stays in use"
    world.write("every 10 minutes")
    assert scheduler.reload() and scheduler.config_error is None
    pass_time(clock, frozen, timedelta(hours=1))
    assert len(world.ran) in (9, 10)
    world.write("every 2 hours", job="Other")
    assert scheduler.reload()
    assert list(scheduler.next_runs()) == ["other"]


@pytest.mark.slow
def test_jitter_only_delays(tmp_path: Path, frozen: object) -> None:
    world = World(tmp_path, "every 2 hours\n    jitter: 60 s")
    scheduler, clock = world.scheduler()
    scheduler.start()
    pass_time(clock, frozen, timedelta(days=1))
    on_time = world.ran[1:]
    assert len(on_time) == 12
    assert all(i.minute == 0 and (i.hour % 2 == 1) for i in on_time)
    assert len({i.second for i in on_time}) > 3
