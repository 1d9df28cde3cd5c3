"""`start`: each job at its schedule, in a process of its own, for months."""

from audience_sync.scheduler.schedule import Scheduler
from audience_sync.scheduler.worker import Outcome, Worker

__all__ = ["Outcome", "Scheduler", "Worker"]
