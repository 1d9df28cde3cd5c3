"""An asset for each job of jobs.yaml; what entered and exited is its metadata, and so has a chart in Dagster.

AUDIENCE_SYNC and AUDIENCE_SYNC_CONFIG say where the command and the file are.
"""

import json
import os
import subprocess

import dagster as dg

COMMAND = os.environ.get("AUDIENCE_SYNC", "/opt/audience-sync/bin/audience-sync")
CONFIG = os.environ.get("AUDIENCE_SYNC_CONFIG", "/etc/audience-sync/jobs.yaml")
JOBS = os.environ.get("AUDIENCE_SYNC_JOBS", "Lifecycle").split(",")


def asset_of(job: str) -> dg.AssetsDefinition:
    @dg.asset(
        name=job.lower().replace(" ", "_"),
        group_name="audiences",
        retry_policy=dg.RetryPolicy(max_retries=3, delay=300),
    )
    def audiences(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        done = subprocess.run(
            [COMMAND, "--config", CONFIG, "run", job, "--json"], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode in (2, 3):
            raise dg.Failure("jobs.yaml is wrong" if done.returncode == 2 else "held by the guard", allow_retries=False)
        if done.returncode:
            raise dg.Failure(f"ended with {done.returncode}; what was recorded is kept")
        (found,) = json.loads(done.stdout)["jobs"]
        metadata = {
            f"{item['key']} {word}": item[word]
            for item in found["computations"]
            for word in ("size", "entered", "exited")
        }
        return dg.MaterializeResult(metadata=metadata)

    return audiences


assets = [asset_of(job) for job in JOBS]
defs = dg.Definitions(
    assets=assets,
    schedules=[
        dg.ScheduleDefinition(
            name="audiences_every_2_hours", target=dg.AssetSelection.groups("audiences"), cron_schedule="0 */2 * * *"
        )
    ],
)
