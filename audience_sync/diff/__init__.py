"""Snapshot against synced: who entered, who exited, whose value changed. Set SQL, inside the database.

Both sides are read in the order of the ids' bytes and merged, once, with no table of the whole snapshot between
where source and state are one: that is the cheapest way there is on PostgreSQL (one FULL OUTER JOIN) and on
SQLite (EXCEPT of two ordered arms, which it merges; FULL OUTER JOIN and NOT EXISTS look up each row). The figures
are in docs/diff.md.
"""

from audience_sync.diff.candidates import candidates, compare_candidates, missed
from audience_sync.diff.changed import compare_changed, missed_rows
from audience_sync.diff.changes import (
    CHANGED,
    COLUMNS,
    ENTERED,
    EXITED,
    NULL,
    Difference,
    changes,
    count,
    found,
    must_hold,
    sample,
    weigh,
)
from audience_sync.diff.everyone import compare, joined
from audience_sync.snapshot import snapshot

TEMPORARY = (snapshot, changes, candidates)

__all__ = [
    "CHANGED",
    "COLUMNS",
    "ENTERED",
    "EXITED",
    "NULL",
    "TEMPORARY",
    "Difference",
    "changes",
    "compare",
    "compare_candidates",
    "compare_changed",
    "count",
    "found",
    "joined",
    "missed",
    "missed_rows",
    "must_hold",
    "sample",
    "weigh",
]
