"""Telling people when they should look: a webhook, and a cron monitor's ping.

A sync that goes wrong every two hours is one piece of news, not twelve a day: what was told is told again only when it
changes, or when it is over. An alert that cannot be sent is logged and harms nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime

import httpx

from audience_sync import logs
from audience_sync.clock import rough
from audience_sync.config import Config
from audience_sync.redact import web_address

TIMEOUT_SECONDS = 5.0
ATTEMPTS = 3
FAILED = ("failed", "timed out", "killed")


class Alerter:
    """Remembers what it has told, for as long as the process lives."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def ended(self, config: Config, job: str, status: str, error: str | None, dead: Mapping[str, int]) -> None:
        """A sync of the job of this key ended; `dead` counts each workflow's dead letters."""
        title = self._title(config, job)
        kind = "failed" if status in FAILED else status
        if status != "skipped":
            bad = kind if kind in ("failed", "held", "undelivered") else ""
            what = {
                "held": "was held by the guard: look at `audience-sync plan`, then `run --allow-large-change`",
                "undelivered": f"has undelivered changes, which are kept: {error}",
            }.get(bad, f"{status}: {error}")
            self._change(config, ("job", job), bad, f"{title} {what}", f"{title} is well again")
            self._ping(config, job, is_good=status == "succeeded", said=error)
        for workflow, count in dead.items():
            self._change(
                config,
                ("dead letters", workflow),
                "dead letters" if count else "",
                f"{workflow} has {count:,} dead letters: see `audience-sync dead-letters list`",
                f"{workflow} has no dead letters any more",
                again=str(count),
            )

    def due(self, config: Config, job: str, due: datetime | None, now: datetime) -> None:
        """A look at a job that is not running: when it is or was due."""
        if config.alerts is None or due is None:
            return
        late = (now - due).total_seconds()
        title = self._title(config, job)
        self._change(
            config,
            ("late", job),
            "late" if late > config.alerts.late_after else "",
            f"{title} is late: it was due {rough(late)} ago",
            f"{title} is on time again",
        )

    def _title(self, config: Config, key: str) -> str:
        return next((job.name for job in config.jobs if job.key == key), key)

    def _change(self, config: Config, what: tuple[str, str], kind: str, bad: str, good: str, again: str = "") -> None:
        """Tell `bad` when `what` has become this kind of bad, and `good` when it was bad and is not any more."""
        with self._lock:
            before, now = self._told.get(what, ""), kind + again if kind else ""
            if before == now:
                return
            self._told[what] = now
        if config.alerts is None:
            return
        if kind in config.alerts.on:
            self._send(config.alerts.webhook, bad)
        elif not kind:
            self._send(config.alerts.webhook, good)

    def _send(self, url: str, text: str) -> None:
        _attempt("POST", url, "alert", json={"text": f"audience_sync: {text}"})

    def _ping(self, config: Config, key: str, *, is_good: bool, said: str | None) -> None:
        url = next((job.ping for job in config.jobs if job.key == key), None)
        if url is not None:
            # "Signal failures" of healthchecks.io: the address with /fail, what was wrong as the body.
            _attempt("POST", url if is_good else url.rstrip("/") + "/fail", "ping", content=(said or "").encode())


def _attempt(method: str, url: str, kind: str, **body: object) -> None:
    said = ""
    for _ in range(ATTEMPTS):
        try:
            answer = httpx.request(method, url, timeout=TIMEOUT_SECONDS, **body)  # type: ignore[arg-type]
            if answer.status_code < 300:
                return
            said = f"answered {answer.status_code}"
            if answer.status_code < 500:
                break
        except httpx.HTTPError as error:
            said = type(error).__name__
    logs.error(f"the {kind} could not be sent", to=web_address(url), said=said)
