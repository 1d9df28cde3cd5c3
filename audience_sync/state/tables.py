"""The tables of `state`. All carry one prefix, so that state may live in the source's own database.

User ids are compared to the letter: `COLLATE "C"` on PostgreSQL, BINARY (its default) on SQLite. It is also
the order in which indexes are merged, so that no sort by locale stands between two of them.
Values are JSON texts, spliced into the identify call as they stand.
"""

from __future__ import annotations

import sqlalchemy as sa

PREFIX = "audience_sync_"
metadata = sa.MetaData()

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
UserId = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Instant = sa.DateTime(timezone=False)
"""UTC, naive: SQLite has no zones, and a column that means two things is a trap."""

meta = sa.Table(
    PREFIX + "meta",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

computations = sa.Table(
    PREFIX + "computations",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("class", sa.Text, nullable=False),
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("definition", sa.Text, nullable=False),
    sa.Column("rule", sa.Text),  # the rule that was synced, to be asked again when it changes
    sa.Column("first_sync_id", Id),
    sa.Column("last_as_of", Instant),
    sa.Column("size", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("coalesced", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("basis", sa.Text),  # JSON: see computations.incremental.Basis
    sa.Column("snapshot", sa.Text),  # the warehouse's table that takes the place of `synced`
    sa.Column("holds_forgotten", sa.Boolean, nullable=False, server_default=sa.false()),  # users not yet out of it
    sa.Column("removed_at", Instant),
)

synced = sa.Table(
    PREFIX + "synced",
    metadata,
    sa.Column("computation_id", Id, primary_key=True, autoincrement=False),
    sa.Column("user_id", UserId, primary_key=True),
    sa.Column("value", sa.Text),  # NULL for a member of an audience
    sqlite_with_rowid=False,
)

former = sa.Table(  # who was in and is not any more, with the sync that told so
    PREFIX + "former",
    metadata,
    sa.Column("computation_id", Id, primary_key=True, autoincrement=False),
    sa.Column("user_id", UserId, primary_key=True),
    sa.Column("sync_id", Id, nullable=False),
    sqlite_with_rowid=False,
)

syncs = sa.Table(
    PREFIX + "syncs",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("token", sa.Text, nullable=False),  # random: see outbox.message_id
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("as_of", Instant, nullable=False),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("finished_at", Instant),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("error", sa.Text),
    sa.Index(PREFIX + "syncs_of_job", "job", "id"),
    sqlite_autoincrement=True,
)

results = sa.Table(
    PREFIX + "results",
    metadata,
    sa.Column("sync_id", Id, primary_key=True, autoincrement=False),
    sa.Column("computation_id", Id, primary_key=True, autoincrement=False),
    sa.Column("initial", sa.Boolean, nullable=False),
    sa.Column("held", sa.Boolean, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("entered", sa.BigInteger, nullable=False),
    sa.Column("exited", sa.BigInteger, nullable=False),
    sa.Column("changed", sa.BigInteger, nullable=False),
    sa.Column("skipped_ids", sa.BigInteger, nullable=False),
    sa.Column("held_because", sa.Text),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("last_seq", Id, nullable=False),
)

handed_over = sa.Table(  # what a sync's delivery to each of its workflows came to
    PREFIX + "handed_over",
    metadata,
    sa.Column("sync_id", Id, primary_key=True, autoincrement=False),
    sa.Column("workflow_id", Id, primary_key=True, autoincrement=False),
    sa.Column("delivered", sa.BigInteger, nullable=False),
    sa.Column("pending", sa.BigInteger, nullable=False),
    sa.Column("dead", sa.BigInteger, nullable=False),
    sa.Column("superseded", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)

workflows = sa.Table(
    PREFIX + "workflows",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("last_ack_at", Instant),
    sa.Column("last_error_at", Instant),
    sa.Column("last_error", sa.Text),
    sa.Column("paused_at", Instant),  # set: no call was taken for a reason that holds for all calls
    sa.Column("breaker_opened_at", Instant),  # set: it fails steadily and is probed
    sa.Column("in_flight_limit", sa.Float),  # what adaptive concurrency had come to
    sa.Column("next_slot_at", sa.Float),  # the rate's bucket: seconds since 1970 at which the next call is due
    sa.Column("removed_at", Instant),
)

lanes = sa.Table(  # a workflow's place in the outbox, for each share of the users
    PREFIX + "lanes",
    metadata,
    sa.Column("workflow_id", Id, primary_key=True, autoincrement=False),
    sa.Column("lane", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("cursor", Id, nullable=False),
    sa.Column("window_end", Id, nullable=False),
    sa.Column("leased_by", sa.Text),
    sa.Column("leased_until", Instant),
)

senders = sa.Table(  # who delivers to a workflow just now; so many share its lanes
    PREFIX + "senders",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("workflow_id", Id, primary_key=True, autoincrement=False),
    sa.Column("seen_until", Instant, nullable=False),
)

routes = sa.Table(
    PREFIX + "routes",
    metadata,
    sa.Column("workflow_id", Id, primary_key=True, autoincrement=False),
    sa.Column("computation_id", Id, primary_key=True, autoincrement=False),
    sa.Column("since_seq", Id, nullable=False),
    sa.Column("ended", sa.Boolean, nullable=False),
)

outbox = sa.Table(
    PREFIX + "outbox",
    metadata,
    sa.Column("seq", Id, primary_key=True, autoincrement=True),
    sa.Column("lane", sa.SmallInteger, nullable=False),
    sa.Column("computation_id", Id, nullable=False),
    sa.Column("sync_id", Id, nullable=False),
    sa.Column("workflow_id", Id),  # NULL: for every workflow that has a route
    sa.Column("user_id", UserId, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("previous", sa.Text),  # of traits; an audience's is the other of true and false
    sqlite_autoincrement=True,
)
# On SQLite there is one lane, and the primary key is all that reading it needs.
sa.Index(PREFIX + "outbox_lane", outbox.c.lane, outbox.c.seq).ddl_if(dialect="postgresql")

passed_over = sa.Table(  # rows that a workflow is not sent by themselves
    PREFIX + "passed_over",
    metadata,
    sa.Column("workflow_id", Id, primary_key=True, autoincrement=False),
    sa.Column("seq", Id, primary_key=True, autoincrement=False),
    sa.Column("merged_into", Id),  # the row in whose call this one is told; NULL: superseded
    sa.Index(PREFIX + "passed_over_merged", "workflow_id", "merged_into"),
    sqlite_with_rowid=False,
)

leftovers = sa.Table(
    PREFIX + "leftovers",
    metadata,
    sa.Column("workflow_id", Id, primary_key=True, autoincrement=False),
    sa.Column("seq", Id, primary_key=True, autoincrement=False),
    sa.Column("lane", sa.SmallInteger, nullable=False),
    sa.Column("computation_id", Id, nullable=False),
    sa.Column("user_id", UserId, nullable=False),
    sa.Column("chained", sa.Boolean, nullable=False),
    sa.Column("sync_id", Id, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("merged_into", Id),  # told in that leftover's call, as in passed_over
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("first_attempt_at", Instant, nullable=False),
    sa.Column("next_attempt_at", Instant, nullable=False),
    sa.Column("status_code", sa.Integer),
    sa.Column("error", sa.Text),
    sa.Column("dead_at", Instant),
    sqlite_with_rowid=False,
)
sa.Index(  # without dead letters: there may be many, and each batch looks for what is due
    PREFIX + "leftovers_due",
    leftovers.c.workflow_id,
    leftovers.c.lane,
    leftovers.c.next_attempt_at,
    sqlite_where=leftovers.c.dead_at.is_(None),
    postgresql_where=leftovers.c.dead_at.is_(None),
)
# The proof that no older value waits beside a newer one. Chained rows wait behind each other instead.
sa.Index(
    PREFIX + "leftovers_newest",
    leftovers.c.workflow_id,
    leftovers.c.computation_id,
    leftovers.c.user_id,
    unique=True,
    sqlite_where=leftovers.c.chained.is_(False),
    postgresql_where=leftovers.c.chained.is_(False),
)
sa.Index(PREFIX + "leftovers_user", leftovers.c.workflow_id, leftovers.c.user_id)

attempts = sa.Table(  # those that failed; what was acknowledged at once is in checkpoints
    PREFIX + "attempts",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("workflow_id", Id, nullable=False),
    sa.Column("seq", Id, nullable=False),
    sa.Column("computation_id", Id, nullable=False),
    sa.Column("user_id", UserId, nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("status_code", sa.Integer),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("answer", sa.Text),
    sa.Index(PREFIX + "attempts_delivery", "workflow_id", "seq"),
    sa.Index(PREFIX + "attempts_user", "user_id"),
)

checkpoints = sa.Table(  # a row a commit: how far a lane came, when, and how it went
    PREFIX + "checkpoints",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("workflow_id", Id, nullable=False),
    sa.Column("lane", sa.SmallInteger, nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("from_seq", Id, nullable=False),
    sa.Column("to_seq", Id, nullable=False),
    sa.Column("acknowledged", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),  # the answers' latencies, added up
    sa.Index(PREFIX + "checkpoints_lane", "workflow_id", "lane", "to_seq"),
)

marks = sa.Table(  # how long the outbox was at an instant: its rows carry no time of their own
    PREFIX + "marks",
    metadata,
    sa.Column("at", Instant, primary_key=True),
    sa.Column("seq", Id, nullable=False),
)

suppressed = sa.Table(  # who is forgotten: no sync may bring them back, and their ids are not kept
    PREFIX + "suppressed",
    metadata,
    sa.Column("hash", sa.Text, primary_key=True),  # see state.suppression
    sa.Column("forgotten_at", Instant, nullable=False),
    sqlite_with_rowid=False,
)

backfills = sa.Table(  # how far a backfill of one computation to one workflow has come
    PREFIX + "backfills",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("workflow_id", Id, nullable=False),
    sa.Column("computation_id", Id, nullable=False),
    sa.Column("sync_id", Id, nullable=False),
    sa.Column("include_exited", sa.Boolean, nullable=False),
    sa.Column("at_exited", sa.Boolean, nullable=False),  # all members are written; who left is next
    sa.Column("after_user", UserId),  # the last user written; NULL: none yet
    sa.Column("written", sa.BigInteger, nullable=False),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("finished_at", Instant),
    sa.Index(PREFIX + "backfills_pair", "workflow_id", "computation_id"),
)

relay_seen = sa.Table(  # messageIds that came in within the window in which a repeat is dropped
    PREFIX + "relay_seen",
    metadata,
    sa.Column("message_id", UserId, primary_key=True),
    sa.Column("received_at", Instant, nullable=False, index=True),
    sqlite_with_rowid=False,
)

relay_messages = sa.Table(  # what people did, as it came in
    PREFIX + "relay_messages",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("message_id", UserId, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("name", UserId, nullable=False),
    sa.Column("user_id", UserId),
    sa.Column("anonymous_id", UserId),
    sa.Column("at", Instant, nullable=False),
    sa.Column("received_at", Instant, nullable=False),
    sa.Column("properties", sa.Text, nullable=False),  # JSON
    sa.Index(PREFIX + "relay_messages_name", "name", "at"),
    sa.Index(PREFIX + "relay_messages_user", "user_id"),
    sa.Index(PREFIX + "relay_messages_anonymous", "anonymous_id"),
)

relay_links = sa.Table(  # whose an anonymous id is, and who a renamed user is now: never a chain of them
    PREFIX + "relay_links",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),  # anonymous | user
    sa.Column("id", UserId, primary_key=True),
    sa.Column("user_id", UserId, nullable=False, index=True),
    sqlite_with_rowid=False,
)

relay_profiles = sa.Table(
    PREFIX + "relay_profiles",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),  # anonymous | user
    sa.Column("id", UserId, primary_key=True),
    sa.Column("traits", sa.Text, nullable=False),  # JSON
    sqlite_with_rowid=False,
)

relay_counts = sa.Table(
    PREFIX + "relay_counts",
    metadata,
    sa.Column("type", sa.Text, primary_key=True),
    sa.Column("outcome", sa.Text, primary_key=True),
    sa.Column("workflow", sa.Text, primary_key=True),  # empty where it is the same for all
    sa.Column("count", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Views over the relay's tables, for rules and for SQL of one's own: what each known user did, and who they are.
RELAY_EVENTS = PREFIX + "relay_events"
RELAY_PEOPLE = PREFIX + "relay_people"
