"""One sync of one audience, in this process."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from audience_sync.config import load_config
from audience_sync.database import open_state
from audience_sync.receiver import Receiver, Serving
from audience_sync.state import schema
from audience_sync.sync import RunReport, run


def synced_once(folder: Path, source: str, state: str, sql: str) -> RunReport:
    """A sync of an audience that this SQL gives."""
    path = folder / "jobs.yaml"
    with Serving(Receiver()) as url:
        path.write_text(
            f"version: 1\nsource: {source}\nstate: {state}\nworkflows: {{w: {{url: '{url}/w'}}}}\n"
            f"jobs:\n  - name: J\n    audiences:\n      - name: A\n        sql: |\n          {sql}\n"
        )
        config = load_config(path)
        engine = open_state(config.state)
        schema.migrate(engine)
        engine.dispose()
        return run(config, [], datetime(2026, 1, 1, tzinfo=UTC))
