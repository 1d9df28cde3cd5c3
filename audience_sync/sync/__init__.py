"""One sync of a job, and what it would do: the flow of DESIGN from left to right."""

from audience_sync.sync.checks import compile_jobs, open_databases, prepare
from audience_sync.sync.plan import plan
from audience_sync.sync.reports import ComputationReport, JobReport, RunReport, instant_text
from audience_sync.sync.run import run

__all__ = [
    "ComputationReport",
    "JobReport",
    "RunReport",
    "compile_jobs",
    "instant_text",
    "open_databases",
    "plan",
    "prepare",
    "run",
]
