"""The computation's result at one instant, where the state's connection can read it, so that there is one diff.

Where source and state are one database, or two SQLite files, nothing travels: the diff reads the source's tables
themselves. Between different databases, rows travel in chunks of bounded size and are staged.
"""

from audience_sync.snapshot.databases import Databases
from audience_sync.snapshot.instant import Instant
from audience_sync.snapshot.stage import analyze, empty, refuse_two_values, snapshot, stage, travel

__all__ = ["Databases", "Instant", "analyze", "empty", "refuse_two_values", "snapshot", "stage", "travel"]
