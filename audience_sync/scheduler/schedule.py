"""Which job runs when.

APScheduler wakes at each job's instants. Whether a sync is due then is asked of state: it is, when an instant of its
schedule lies between its last sync's start and now. So a run missed while nothing was running is made up for, once
however many were missed; a job that another machine has just synced is left alone; and a restart knows all this too.
That two syncs of one job never overlap is not ours to ensure: their lock in state does it (DESIGN, rule 6).
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from apscheduler.events import EVENT_JOB_MAX_INSTANCES
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.schedulers.base import BaseScheduler
from apscheduler.triggers.base import BaseTrigger

from audience_sync import logs
from audience_sync.config import Config, Job
from audience_sync.config.schedule import first_after, trigger
from audience_sync.errors import AudienceSyncError, ConfigError
from audience_sync.scheduler.worker import Outcome
from audience_sync.state.reading import reading
from audience_sync.state.tables import syncs
from audience_sync.status import due_at

MOST_AT_ONCE = 16
"""Syncs of different jobs that run at the same time; further ones wait for their turn."""


class Scheduler:
    """Calls `run` for each job when it is due and `tell` with what came of it; `load` gives jobs.yaml as it is now.

    `clock` is the APScheduler that wakes it.
    """

    def __init__(
        self,
        load: Callable[[], Config],
        run: Callable[[Config, Job], Outcome],
        tell: Callable[[Config, Outcome], None],
        clock: BaseScheduler | None = None,
    ) -> None:
        self._load = load
        self._run = run
        self._tell = tell
        self._clock = clock or BackgroundScheduler(
            timezone=UTC, executors={"default": ThreadPoolExecutor(MOST_AT_ONCE, {"thread_name_prefix": "run"})}
        )
        self._clock.add_listener(
            lambda event: logs.warning("still running; its next turn is left out", job=event.job_id),
            EVENT_JOB_MAX_INSTANCES,
        )
        logging.getLogger("apscheduler").setLevel(logging.ERROR)  # the same, in its words
        self._lock = threading.Lock()
        self.config = load()
        self.config_error: ConfigError | None = None
        """Why the file as it stands is not used; None when it is."""
        self.running: dict[str, datetime] = {}
        """The jobs that this process runs at the moment, and since when."""

    def start(self) -> None:
        """Begin; what was missed while nothing was running is due at once."""
        for job in self.config.jobs:
            self._schedule(job)
        self._clock.start()

    def stop(self) -> None:
        """Start nothing more. What runs is not waited for."""
        if self._clock.running:
            self._clock.shutdown(wait=False)

    def wait(self) -> None:
        """Return when nothing runs any more; `stop` first."""
        for executor in list(getattr(self._clock, "_executors", {}).values()):
            executor.shutdown(wait=True)

    def reload(self) -> bool:
        """Read jobs.yaml again; a file that is wrong changes nothing but `config_error`. Returns whether it is used."""
        try:
            config = self._load()
        except ConfigError as error:
            self.config_error = error
            logs.error("jobs.yaml is wrong; the old one stays in use", problems=[str(p) for p in error.problems()])
            return False
        with self._lock:
            before = {job.key: job for job in self.config.jobs}
            self.config, self.config_error = config, None
        now = {job.key: job for job in config.jobs}
        for key in before.keys() - now.keys():
            if self._clock.get_job(key):
                self._clock.remove_job(key)
        for key, job in now.items():
            old = before.get(key)
            timing = (job.schedule, job.timezone, job.jitter)
            if old is None or (old.schedule, old.timezone, old.jitter) != timing:
                self._schedule(job)
        logs.info("jobs.yaml is read anew", jobs=len(now))
        return True

    def next_runs(self) -> dict[str, datetime]:
        """When each scheduled job runs next."""
        return {job.id: job.next_run_time for job in self._clock.get_jobs() if getattr(job, "next_run_time", None)}

    def due(self) -> dict[str, datetime | None]:
        """When each scheduled job's next sync is due by what state knows, in the past if it is overdue; None while it
        runs here."""
        now = datetime.now(UTC)
        return {
            job.key: None if job.key in self.running else due_at(job, self._last_started(job), now)
            for job in self.config.jobs
            if job.schedule is not None
        }

    def run_now(self, key: str) -> bool:
        """Start a sync of a job out of its turn; False when there is none of this key, or it runs already."""
        job = self._job(key)
        if job is None or key in self.running:
            return False
        self._clock.add_job(self._sync, args=[key], id=f"now {key}", replace_existing=True, misfire_grace_time=None)
        return True

    def call_soon(self, work: Callable[[Config], None]) -> None:
        """Do something else with the configuration in use, off the caller's thread."""
        self._clock.add_job(lambda: work(self.config), misfire_grace_time=None)

    def _job(self, key: str) -> Job | None:
        return next((job for job in self.config.jobs if job.key == key), None)

    def _schedule(self, job: Job) -> None:
        if job.schedule is None:
            if self._clock.get_job(job.key):
                self._clock.remove_job(job.key)
            return
        now = datetime.now(UTC)
        when = _Instants(trigger(job.schedule, job.timezone), job.jitter or 0.0)
        due = due_at(job, self._last_started(job), now)
        options: dict[str, Any] = {"next_run_time": now} if due is not None and due <= now else {}
        self._clock.add_job(
            self._fire,
            when,
            args=[job.key],
            id=job.key,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
            replace_existing=True,
            **options,
        )

    def _last_started(self, job: Job) -> datetime | None:
        """When the job's last sync started, here or elsewhere; None for never, and when state cannot be asked."""
        try:
            with reading(self.config.state) as connection:
                if connection is None:
                    return None
                last = connection.execute(sa.select(sa.func.max(syncs.c.started_at)).where(syncs.c.job == job.key))
                found: datetime | None = last.scalar()
        except AudienceSyncError:
            return None
        return found.replace(tzinfo=UTC) if found else None

    def _fire(self, key: str) -> None:
        job = self._job(key)
        if job is None:
            return
        last = self._last_started(job)
        due = due_at(job, last, datetime.now(UTC))
        if last is not None and due is not None and due > datetime.now(UTC):
            logs.info("already synced elsewhere", job=key)
            return
        self._sync(key)

    def _sync(self, key: str) -> None:
        with self._lock:
            config, job = self.config, self._job(key)
            if job is None or key in self.running:
                return
            self.running[key] = datetime.now(UTC)
        try:
            outcome = self._run(config, job)
        finally:
            with self._lock:
                del self.running[key]
        self._tell(config, outcome)


class _Instants(BaseTrigger):  # type: ignore[misc]
    """The instants of another trigger, each up to `jitter` seconds later."""

    def __init__(self, when: BaseTrigger, jitter: float) -> None:
        self.when = when
        self.jitter = jitter

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
        found = first_after(self.when, now if previous is None else previous)
        return None if found is None else found + timedelta(seconds=random.uniform(0, self.jitter))
