"""One sync in a child process.

A process, not a thread: one that is stuck can be ended, its memory goes back when it is done, what is broken in a
driver takes nothing else down, and the page stays quick while calls go out. Nothing is lost when one is killed
(DESIGN, rule 4). Children are forked from a server that has loaded everything and runs nothing, so that one starts
within milliseconds and inherits no thread and no connection. The configuration goes to it by a pipe, with its secrets,
as it was when the run began, whatever becomes of the file.
"""

from __future__ import annotations

import multiprocessing
import secrets
import signal
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Any

from audience_sync import logs, outbox
from audience_sync.clock import utcnow
from audience_sync.config import Config, Job
from audience_sync.database import told, writing
from audience_sync.delivery import deliver
from audience_sync.delivery.stopping import stop_on_signals
from audience_sync.errors import AudienceSyncError
from audience_sync.snapshot import Databases
from audience_sync.sync import ComputationReport, JobReport, run

GRACE_SECONDS = 25.0
"""How long a child that was asked to stop may finish the calls in flight; Kubernetes kills after 30."""


@dataclass(frozen=True)
class Outcome:
    """How one run of a job ended. `status` is a sync's, or `timed out` or `killed`."""

    job: str
    name: str
    status: str
    error: str | None
    started_at: datetime
    seconds: float
    run: str
    report: JobReport | None = None

    @property
    def is_good(self) -> bool:
        return self.status in ("succeeded", "skipped")


class Worker:
    """Runs syncs in children; `run` may be called from several threads at once."""

    def __init__(self, *, log_as_json: bool | None = None) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["audience_sync.scheduler.worker", "uvloop"])
        self._log_as_json = log_as_json
        self._children: set[Any] = set()
        self._lock = threading.Lock()
        self._stopping = False

    def run(self, config: Config, job: Job) -> Outcome:
        """One sync of a job; returns when it has ended, one way or the other."""
        id_ = secrets.token_hex(4)
        token = logs.run_id.set(id_)
        started_at, began = datetime.now(UTC), time.monotonic()
        ours, theirs = self._context.Pipe(duplex=False)
        child = self._context.Process(
            target=_sync, args=(theirs, config, job.key, id_, self._log_as_json), name=f"sync {job.key}"
        )
        try:
            with self._lock:
                if self._stopping:
                    return Outcome(job.key, job.name, "skipped", "the scheduler is stopping", started_at, 0.0, id_)
                child.start()
                self._children.add(child)
            theirs.close()
            logs.info("sync started", job=job.key, pid=child.pid)
            timed_out = self._wait(ours, child, job.timeout)
            status, error, report = self._result(ours, child)
            if timed_out:
                status, error = "timed out", f"took longer than {job.timeout:g} s (timeout: of the job); it was ended"
            return Outcome(job.key, job.name, status, error, started_at, time.monotonic() - began, id_, report)
        finally:
            with self._lock:
                self._children.discard(child)
            ours.close()
            logs.run_id.reset(token)

    def deliver(self, config: Config) -> None:
        """Deliver what is undelivered, without a sync."""
        child = self._context.Process(target=_deliver, args=(config, self._log_as_json), name="deliver")
        with self._lock:
            if self._stopping:
                return
            child.start()
            self._children.add(child)
        child.join()
        with self._lock:
            self._children.discard(child)

    def _wait(self, pipe: Connection, child: Any, timeout: float) -> bool:
        """Wait for the child's word or its end; returns whether it had to be ended."""
        deadline = time.monotonic() + timeout
        while not pipe.poll(0.1):
            if not child.is_alive() and not pipe.poll(0):
                return False
            if time.monotonic() > deadline:
                _end(child)
                return True
        child.join(GRACE_SECONDS)
        if child.is_alive():
            child.kill()
        return False

    def _result(self, pipe: Connection, child: Any) -> tuple[str, str | None, JobReport | None]:
        try:
            found = pipe.recv() if pipe.poll(0) else None
        except (EOFError, OSError):
            found = None
        child.join(GRACE_SECONDS)
        if isinstance(found, JobReport):
            return found.status, found.error, found
        if isinstance(found, str):
            return "failed", found, None
        if self._stopping:
            return "killed", "stopped before anything was recorded", None
        return "killed", f"its process ended with {_cause(child.exitcode)}; what was recorded is kept", None

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Ask every child to stop, let it finish what is in flight, and end those that do not."""
        with self._lock:
            self._stopping = True
            children = list(self._children)
        for child in children:
            child.terminate()
        deadline = time.monotonic() + grace
        for child in children:
            child.join(max(0.0, deadline - time.monotonic()))
            if child.is_alive():
                child.kill()

    def kill(self) -> None:
        with self._lock:
            self._stopping = True
            for child in self._children:
                child.kill()


def _end(child: Any) -> None:
    child.terminate()
    child.join(GRACE_SECONDS)
    if child.is_alive():
        child.kill()
        child.join(GRACE_SECONDS)


def _cause(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"


def _deliver(config: Config, log_as_json: bool | None) -> None:
    """The child that only delivers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure(as_json=log_as_json)
    databases = Databases.open(config.source, config.state)
    try:
        with told("state", config.state), databases.state.connect() as connection, writing(connection):
            ids = outbox.register_workflows(connection, config.workflows, utcnow())
        with stop_on_signals() as stopping:
            reports = deliver(config, databases, ids, stopping=stopping)
    except AudienceSyncError as error:
        logs.error("delivering failed", error=str(error))
        return
    finally:
        databases.dispose()
    for report in reports:
        pending = sum(waiting for waiting, _ in report.pending.values())
        logs.info("delivered", workflow=report.workflow, delivered=report.tally.delivered.total(), pending=pending)


def _sync(pipe: Connection, config: Config, job: str, id_: str, log_as_json: bool | None) -> None:
    """The child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent passes on what it means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logs.configure(as_json=log_as_json)
    logs.run_id.set(id_)

    def recorded(found: ComputationReport) -> None:
        logs.info(
            "recorded",
            job=job,
            key=found.key,
            size=found.size,
            entered=found.entered,
            exited=found.exited,
            changed=found.changed,
            held=found.held_because if found.held else None,
            seconds=round(found.seconds, 3),
        )

    try:
        with stop_on_signals() as stopping:
            report = run(config, [job], datetime.now(UTC), on_computation=recorded, stopping=stopping)
    except AudienceSyncError as error:
        pipe.send("; ".join(str(problem) for problem in error.problems()))
        return
    except Exception as error:
        logs.LOGGER.exception("a sync broke", extra={"fields": {"job": job}, "run": id_})
        pipe.send(f"{type(error).__name__} (see the logs)")
        return
    pipe.send(report.jobs[0])
