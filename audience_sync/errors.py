"""Every error a user may see, with the exit code it ends the command with.

AudienceSyncError
├── ConfigError       exit 2: jobs.yaml, usage, or something it names is wrong; nothing was done
└── DatabaseError     exit 1: a database failed or went away; what was recorded is kept
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake: where it is (1-based line and column, when known), what it is, and what to write instead."""

    message: str
    hint: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    where: str = ""
    of_environment: bool = False
    """Whether another environment, with other variables set, would not have it."""

    def __str__(self) -> str:
        place = self.file + (f":{self.line}:{self.column}" if self.line else "")
        head = ": ".join(part for part in (place, self.where, self.message) if part)
        return f"{head}\n    {self.hint}" if self.hint else head

    def as_json(self) -> dict[str, object]:
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "where": self.where,
            "message": self.message,
            "hint": self.hint,
        }


class AudienceSyncError(Exception):
    """Something went wrong."""

    exit_code = 1

    def problems(self) -> list[Problem]:
        return [Problem(str(self))]


class ConfigError(AudienceSyncError):
    """The configuration cannot be used."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem] | str, hint: str = "") -> None:
        self._problems = [Problem(problems, hint)] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(str(problem) for problem in self._problems))

    def problems(self) -> list[Problem]:
        return self._problems


class DatabaseError(AudienceSyncError):
    """A database failed; nothing that was recorded is lost."""
