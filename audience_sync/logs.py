"""Structured logs on stderr: one JSON document a line where a machine reads them, one plain line on a terminal.

`run` is the id that all lines of one run of a job share, in whichever process they are written.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

LOGGER = logging.getLogger("audience_sync")
run_id: ContextVar[str | None] = ContextVar("run_id", default=None)


def configure(*, as_json: bool | None = None) -> None:
    """Send logs to stderr. `as_json` None chooses: plain lines on a terminal, JSON elsewhere."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if (not sys.stderr.isatty() if as_json is None else as_json) else _Plain())
    logging.root.handlers = [handler]  # what libraries have to say is told in the same form
    logging.root.setLevel(logging.WARNING)
    LOGGER.setLevel(logging.INFO)


def info(event: str, **fields: Any) -> None:
    _write(logging.INFO, event, fields)


def warning(event: str, **fields: Any) -> None:
    _write(logging.WARNING, event, fields)


def error(event: str, **fields: Any) -> None:
    _write(logging.ERROR, event, fields)


def _write(level: int, event: str, fields: dict[str, Any]) -> None:
    LOGGER.log(level, event, extra={"fields": {k: v for k, v in fields.items() if v is not None}, "run": run_id.get()})


def _parts(record: logging.LogRecord) -> tuple[datetime, str | None, dict[str, Any]]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return datetime.fromtimestamp(record.created, UTC), getattr(record, "run", None), fields


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at, run, fields = _parts(record)
        line = {
            "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **({"run": run} if run else {}),
            **fields,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at, run, fields = _parts(record)
        shown = "  ".join(f"{name}={value}" for name, value in fields.items())
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        line = f"{at.astimezone():%H:%M:%S} {run or '-':8} {mark}{record.getMessage()}  {shown}".rstrip()
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")
