"""A source that keeps each audience's last snapshot itself (`synced: warehouse`): nothing travels but changes.

The rules, the snapshot and the diff run on the warehouse's own engine. What was synced last is then no rows of the
state's table `synced` but a table of the warehouse, and state keeps its name (`pointers`).
"""

from audience_sync.warehouse.cleansing import cleanse, holding_forgotten
from audience_sync.warehouse.compare import Keeping, compare
from audience_sync.warehouse.members import away, bring_home, count_members, memberships, stage_members
from audience_sync.warehouse.pointers import keeping, sweep, warehouse_of
from audience_sync.warehouse.snapshots import Warehouse

__all__ = [
    "Keeping",
    "Warehouse",
    "away",
    "bring_home",
    "cleanse",
    "compare",
    "count_members",
    "holding_forgotten",
    "keeping",
    "memberships",
    "stage_members",
    "sweep",
    "warehouse_of",
]
