"""What a plan or a run found and did, and its JSON (DESIGN, "The command line")."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class ByRule:
    """Who is in by the new rule and not by the one before, asked at the same T, and the other way round."""

    entered: int
    exited: int
    some_entered: list[str]
    some_exited: list[str]


@dataclass
class ComputationReport:
    key: str
    name: str
    klass: str
    initial: bool = False
    held: bool = False
    size: int = 0
    entered: int = 0
    exited: int = 0
    changed: int = 0
    skipped_ids: int = 0
    seconds: float = 0.0
    held_because: str | None = None
    redefined: bool = False
    by_rule: ByRule | None = None
    """Of a changed definition, whose change is its doing; None where the earlier one cannot be asked again."""
    removed: bool = False
    definition: str = ""
    formerly: str | None = None
    """The key of a removed computation whose definition or name this new one has."""
    followed: bool = False
    """Only users with events that moved were looked at."""
    missed: int = 0
    """Changes found by comparing everyone that following the events had not found."""
    samples: dict[str, list[str]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "key": self.key,
            "class": self.klass,
            "initial": self.initial,
            "held": self.held,
            "size": self.size,
            "entered": self.entered,
            "exited": self.exited,
            "changed": self.changed,
            "skipped_ids": self.skipped_ids,
            "seconds": round(self.seconds, 3),
        }
        if self.removed:
            shown["removed"] = True
        if self.followed:
            shown["followed"] = True
        if self.missed:
            shown["missed"] = self.missed
        if self.redefined:
            shown["redefined"] = True
        if self.by_rule is not None:
            shown["by_rule"] = {
                "entered": self.by_rule.entered,
                "exited": self.by_rule.exited,
                "sample": {"entered": self.by_rule.some_entered, "exited": self.by_rule.some_exited},
            }
        if self.formerly is not None:
            shown["formerly"] = self.formerly
        if self.samples:
            shown["sample"] = self.samples
        return shown


@dataclass
class JobReport:
    job: str
    name: str
    status: str = "succeeded"
    error: str | None = None
    computations: list[ComputationReport] = field(default_factory=list)
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Of each workflow that does not take its calls, one sentence."""

    def as_json(self) -> dict[str, Any]:
        return {
            "job": self.job,
            "status": self.status,
            "error": self.error,
            "computations": [c.as_json() for c in self.computations],
            "deliveries": self.deliveries,
        }


@dataclass
class RunReport:
    as_of: datetime
    jobs: list[JobReport]

    def as_json(self) -> dict[str, Any]:
        return {"as_of": instant_text(self.as_of), "jobs": [job.as_json() for job in self.jobs]}

    @property
    def exit_code(self) -> int:
        statuses = {job.status for job in self.jobs}
        if statuses & {"failed", "undelivered", "skipped"}:
            return 1
        return 3 if "held" in statuses else 0


def instant_text(instant: datetime) -> str:
    text = instant.astimezone(UTC).isoformat(timespec="auto")
    return text.replace("+00:00", "Z")
