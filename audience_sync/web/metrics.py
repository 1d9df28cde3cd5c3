"""What Prometheus reads (prometheus.io/docs/practices/naming): counters of this process, gauges from state."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from audience_sync import __version__
from audience_sync.scheduler import Outcome
from audience_sync.web.source import Source

P = "audience_sync_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600)


class Metrics:
    def __init__(self, source: Source) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._syncs = Counter(P + "syncs", "Syncs that ended.", ["job", "status"], registry=self._registry)
        self._seconds = Histogram(
            P + "sync_duration_seconds", "How long syncs took.", ["job"], buckets=BUCKETS, registry=self._registry
        )
        self._changes = Counter(
            P + "changes", "Users who entered, exited or changed.", ["key", "kind"], registry=self._registry
        )
        self._deliveries = Counter(
            P + "deliveries", "Deliveries acknowledged or superseded.", ["workflow", "result"], registry=self._registry
        )
        self._registry.register(_State(source))

    def ended(self, outcome: Outcome) -> None:
        """Count a sync that this process ran."""
        self._syncs.labels(outcome.job, outcome.status).inc()
        self._seconds.labels(outcome.job).observe(outcome.seconds)
        if outcome.report is None:
            return
        for found in outcome.report.computations:
            if not found.held:
                for kind in ("entered", "exited", "changed"):
                    self._changes.labels(found.key, kind).inc(getattr(found, kind))
        for told in outcome.report.deliveries:
            self._deliveries.labels(told["workflow"], "acknowledged").inc(told["delivered"])
            self._deliveries.labels(told["workflow"], "superseded").inc(told["superseded"])

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _State:
    """Read anew at each scrape."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily(P + "build", "This program.", {"version": __version__})
        stands, error = self._source.look_or_error()
        yield _gauge("state_up", "Whether state can be read.", [((), float(error is None))])
        yield _gauge(
            "config_valid",
            "Whether jobs.yaml as it stands is in use.",
            [((), float(self._source.config_error is None))],
        )
        if stands is None:
            return
        jobs = [job for job in stands["jobs"] if job["in_config"]]
        last = [(job, job["last_sync"]) for job in jobs if job["last_sync"]]
        yield _gauge("job_late", "Whether a sync is overdue.", [((j["job"],), float(j["late"])) for j in jobs], "job")
        yield _gauge(
            "job_running",
            "Whether a sync runs now.",
            [((job["job"],), float(sync["status"] == "running")) for job, sync in last],
            "job",
        )
        yield _gauge(
            "next_run_timestamp_seconds",
            "When the next sync is due.",
            [((job["job"],), _unix(job["next_run"])) for job in jobs if job["next_run"]],
            "job",
        )
        yield _gauge(
            "last_sync_timestamp_seconds",
            "When the last sync started.",
            [((job["job"],), _unix(sync["started_at"])) for job, sync in last],
            "job",
        )
        yield _gauge(
            "last_success_timestamp_seconds",
            "When a sync last ended with all of it acknowledged.",
            [((job["job"],), _unix(job["last_success_at"])) for job in jobs if job["last_success_at"]],
            "job",
        )
        found = [(job["job"], item) for job in jobs for item in job["computations"]]
        yield _gauge(
            "size_users",
            "Users in an audience, or with a trait.",
            [((job, item["key"]), item["size"]) for job, item in found],
            "job",
            "key",
        )
        yield _gauge(
            "held",
            "Whether the guard holds changes.",
            [((job, i["key"]), float(i["held"])) for job, i in found],
            "job",
            "key",
        )
        workflows = stands["workflows"]
        for name, field, what in (
            ("pending_deliveries", "pending", "Changes not yet acknowledged."),
            ("dead_letters", "dead", "Deliveries given up on."),
        ):
            yield _gauge(name, what, [((w["workflow"],), w[field]) for w in workflows], "workflow")
        for name, field, what in (
            ("workflow_paused", "paused_since", "Whether it takes no call at all: its address or secret is wrong."),
            ("breaker_open", "breaker_open_since", "Whether it fails steadily and is only asked once in a while."),
        ):
            yield _gauge(name, what, [((w["workflow"],), float(w[field] is not None)) for w in workflows], "workflow")
        yield _gauge(
            "last_acknowledged_timestamp_seconds",
            "When a workflow last took a call.",
            [((w["workflow"],), _unix(w["last_acknowledged_at"])) for w in workflows if w["last_acknowledged_at"]],
            "workflow",
        )
        if stands["relay"] is not None:
            yield _gauge(
                "relay_running", "Whether a relay takes calls.", [((), float(stands["relay"]["status"] == "running"))]
            )
            yield _relayed(stands["relay"]["messages"])


def _relayed(messages: Iterable[dict[str, Any]]) -> CounterMetricFamily:
    family = CounterMetricFamily(
        P + "relay_messages", "Messages that came in, and what became of them.", labels=["type", "outcome", "workflow"]
    )
    for item in messages:
        family.add_metric([item["type"], item["outcome"].replace(" ", "_"), item["workflow"] or ""], item["count"])
    return family


def _gauge(name: str, what: str, samples: Iterable[tuple[tuple[str, ...], Any]], *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(P + name, what, labels=labels)
    for values, number in samples:
        family.add_metric(list(values), float(number))
    return family


def _unix(shown: str) -> float:
    return datetime.fromisoformat(shown).timestamp()
