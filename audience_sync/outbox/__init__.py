"""Changes recorded but not yet acknowledged by every workflow. The promises kept here, and why:

**One transaction.** A change enters the outbox in the transaction that moves `synced` forward (`record`). Were it
two, a crash between them would lose changes or repeat them. It is set SQL: no row passes through Python.

**One row a change, cursors a workflow.** Ten workflows share the rows; each has its own place in them (`lanes.cursor`,
one for each share of the users), moved once a batch together with what the batch left behind
(`checkpoints.checkpoint`). A commit for each delivery would cost more than the delivery.

**Sequence in commit order.** Writers of the outbox take turns (`record.take_turn`): were sequence numbers taken in
one order and committed in another, a cursor could pass a row that is not visible yet, and lose it.

**Leftovers are kept apart.** A delivery that failed must not stop those behind it, so the cursor passes it and it is
kept in `leftovers`, one row for each (workflow, computation, user): a unique index is the proof that no older
value waits there beside a newer one.

**Superseded, never overtaken.** A workflow reads the outbox in windows (`windows`). When a window opens, nothing is
in flight; then, of several undelivered changes of one (computation, user), only the newest is kept, a leftover
takes over the newest value, and changes that cancel each other out are dropped. So within a window each
(computation, user) occurs once, and its deliveries need no order among themselves.

**One user, one sender.** Where several processes deliver, each leases lanes, and a user is always in one (`lanes`).

**A repeat looks the same.** messageId is made from the sync's random token, the workflow and the sequence number
(`message_prefix`), all of them in state before the first attempt. The token keeps a state restored from a backup,
whose sequence numbers start again lower, from giving an old id to a new change.

**Given up on, not gone.** A dead letter is a leftover that is not tried again by itself (`dead_letters`). A newer value
of its (computation, user) takes its place and is delivered; so a retry never brings back an older value.

**Pruned.** A row that every workflow's cursor has passed is kept for as long as `retention:` says, then deleted
(`pruning`).
"""

from audience_sync.outbox.batches import Batch, Delivery, chained, next_batch, next_due
from audience_sync.outbox.checkpoints import Attempt, Done, Failure, checkpoint
from audience_sync.outbox.lanes import RENEW_SECONDS, Held, release, renew, sender_name
from audience_sync.outbox.pruning import prune
from audience_sync.outbox.record import record, record_removal, somebody_hears_first
from audience_sync.outbox.slots import take_slots
from audience_sync.outbox.windows import coalescing, open_window
from audience_sync.outbox.workflows import message_prefix, pending, register_workflows

__all__ = [
    "RENEW_SECONDS",
    "Attempt",
    "Batch",
    "Delivery",
    "Done",
    "Failure",
    "Held",
    "chained",
    "checkpoint",
    "coalescing",
    "message_prefix",
    "next_batch",
    "next_due",
    "open_window",
    "pending",
    "prune",
    "record",
    "record_removal",
    "register_workflows",
    "release",
    "renew",
    "sender_name",
    "somebody_hears_first",
    "take_slots",
]
