#!/bin/sh
# dbt, then the sync of the jobs named; their exit code is this one's. Usage: run-then-sync.sh JOB...
set -eu
dbt build --select tag:audiences
exec audience-sync --config "${AUDIENCE_SYNC_CONFIG:-jobs.yaml}" run "$@"
