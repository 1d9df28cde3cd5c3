"""One task for each job of jobs.yaml, retried by Airflow where trying again can help.

AUDIENCE_SYNC and AUDIENCE_SYNC_CONFIG say where the command and the file are. The command has its own environment
(`python -m venv`), so that its libraries and Airflow's do not meet.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime, timedelta
from typing import Any

from airflow.exceptions import AirflowFailException
from airflow.sdk import dag, task

COMMAND = os.environ.get("AUDIENCE_SYNC", "/opt/audience-sync/bin/audience-sync")
CONFIG = os.environ.get("AUDIENCE_SYNC_CONFIG", "/etc/audience-sync/jobs.yaml")
JOBS = os.environ.get("AUDIENCE_SYNC_JOBS", "Lifecycle").split(",")
IN_VAIN = {2: "jobs.yaml is wrong", 3: "held by the guard: look at `audience-sync plan`"}


@dag(
    schedule="0 */2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
)
def audience_sync() -> None:
    @task
    def sync(job: str) -> dict[str, Any]:
        done = subprocess.run(
            [COMMAND, "--config", CONFIG, "run", job, "--json"], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode in IN_VAIN:
            raise AirflowFailException(IN_VAIN[done.returncode])
        if done.returncode:
            raise RuntimeError(f"audience-sync ended with {done.returncode}; what it recorded is kept")
        found: dict[str, Any] = json.loads(done.stdout)["jobs"][0]
        return found

    sync.expand(job=JOBS)


audience_sync()
