"""The first tables of state.

Written out, not taken from `audience_sync.state.tables`: a migration must go on doing what it did.
"""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

P = "audience_sync_"
Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
UserId = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Instant = sa.DateTime(timezone=False)


def upgrade() -> None:
    meta = op.create_table(
        P + "meta",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.bulk_insert(
        meta,
        [
            {"name": "state_id", "value": secrets.token_hex(10)},
            {"name": "salt", "value": secrets.token_hex(16)},
        ],
    )
    op.create_table(
        P + "computations",
        sa.Column("id", Id, primary_key=True, autoincrement=True),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("class", sa.Text, nullable=False),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("rule", sa.Text),
        sa.Column("first_sync_id", Id),
        sa.Column("last_as_of", Instant),
        sa.Column("size", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("coalesced", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("basis", sa.Text),
        sa.Column("snapshot", sa.Text),
        sa.Column("holds_forgotten", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("removed_at", Instant),
    )
    op.create_table(
        P + "synced",
        sa.Column("computation_id", Id, primary_key=True, autoincrement=False),
        sa.Column("user_id", UserId, primary_key=True),
        sa.Column("value", sa.Text),
        sqlite_with_rowid=False,
    )
    op.create_table(
        P + "former",
        sa.Column("computation_id", Id, primary_key=True, autoincrement=False),
        sa.Column("user_id", UserId, primary_key=True),
        sa.Column("sync_id", Id, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        P + "syncs",
        sa.Column("id", Id, primary_key=True, autoincrement=True),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("as_of", Instant, nullable=False),
        sa.Column("started_at", Instant, nullable=False),
        sa.Column("finished_at", Instant),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_index(P + "syncs_of_job", P + "syncs", ["job", "id"])
    op.create_table(
        P + "results",
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
    op.create_table(
        P + "handed_over",
        sa.Column("sync_id", Id, primary_key=True, autoincrement=False),
        sa.Column("workflow_id", Id, primary_key=True, autoincrement=False),
        sa.Column("delivered", sa.BigInteger, nullable=False),
        sa.Column("pending", sa.BigInteger, nullable=False),
        sa.Column("dead", sa.BigInteger, nullable=False),
        sa.Column("superseded", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
    )
    op.create_table(
        P + "workflows",
        sa.Column("id", Id, primary_key=True, autoincrement=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("last_ack_at", Instant),
        sa.Column("last_error_at", Instant),
        sa.Column("last_error", sa.Text),
        sa.Column("paused_at", Instant),
        sa.Column("breaker_opened_at", Instant),
        sa.Column("in_flight_limit", sa.Float),
        sa.Column("next_slot_at", sa.Float),
        sa.Column("removed_at", Instant),
    )
    op.create_table(
        P + "lanes",
        sa.Column("workflow_id", Id, primary_key=True, autoincrement=False),
        sa.Column("lane", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("cursor", Id, nullable=False),
        sa.Column("window_end", Id, nullable=False),
        sa.Column("leased_by", sa.Text),
        sa.Column("leased_until", Instant),
    )
    op.create_table(
        P + "senders",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("workflow_id", Id, primary_key=True, autoincrement=False),
        sa.Column("seen_until", Instant, nullable=False),
    )
    op.create_table(
        P + "routes",
        sa.Column("workflow_id", Id, primary_key=True, autoincrement=False),
        sa.Column("computation_id", Id, primary_key=True, autoincrement=False),
        sa.Column("since_seq", Id, nullable=False),
        sa.Column("ended", sa.Boolean, nullable=False),
    )
    op.create_table(
        P + "outbox",
        sa.Column("seq", Id, primary_key=True, autoincrement=True),
        sa.Column("lane", sa.SmallInteger, nullable=False),
        sa.Column("computation_id", Id, nullable=False),
        sa.Column("sync_id", Id, nullable=False),
        sa.Column("workflow_id", Id),
        sa.Column("user_id", UserId, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("previous", sa.Text),
        sqlite_autoincrement=True,
    )
    if op.get_bind().dialect.name == "postgresql":
        op.create_index(P + "outbox_lane", P + "outbox", ["lane", "seq"])
    op.create_table(
        P + "passed_over",
        sa.Column("workflow_id", Id, primary_key=True, autoincrement=False),
        sa.Column("seq", Id, primary_key=True, autoincrement=False),
        sa.Column("merged_into", Id),
        sqlite_with_rowid=False,
    )
    op.create_index(P + "passed_over_merged", P + "passed_over", ["workflow_id", "merged_into"])
    op.create_table(
        P + "leftovers",
        sa.Column("workflow_id", Id, primary_key=True, autoincrement=False),
        sa.Column("seq", Id, primary_key=True, autoincrement=False),
        sa.Column("lane", sa.SmallInteger, nullable=False),
        sa.Column("computation_id", Id, nullable=False),
        sa.Column("user_id", UserId, nullable=False),
        sa.Column("chained", sa.Boolean, nullable=False),
        sa.Column("sync_id", Id, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("merged_into", Id),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("first_attempt_at", Instant, nullable=False),
        sa.Column("next_attempt_at", Instant, nullable=False),
        sa.Column("status_code", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("dead_at", Instant),
        sqlite_with_rowid=False,
    )
    op.create_index(
        P + "leftovers_due",
        P + "leftovers",
        ["workflow_id", "lane", "next_attempt_at"],
        sqlite_where=sa.column("dead_at").is_(None),
        postgresql_where=sa.column("dead_at").is_(None),
    )
    op.create_index(
        P + "leftovers_newest",
        P + "leftovers",
        ["workflow_id", "computation_id", "user_id"],
        unique=True,
        sqlite_where=sa.column("chained").is_(False),
        postgresql_where=sa.column("chained").is_(False),
    )
    op.create_index(P + "leftovers_user", P + "leftovers", ["workflow_id", "user_id"])
    op.create_table(
        P + "attempts",
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
    )
    op.create_index(P + "attempts_delivery", P + "attempts", ["workflow_id", "seq"])
    op.create_index(P + "attempts_user", P + "attempts", ["user_id"])
    op.create_table(
        P + "checkpoints",
        sa.Column("id", Id, primary_key=True, autoincrement=True),
        sa.Column("workflow_id", Id, nullable=False),
        sa.Column("lane", sa.SmallInteger, nullable=False),
        sa.Column("at", Instant, nullable=False),
        sa.Column("from_seq", Id, nullable=False),
        sa.Column("to_seq", Id, nullable=False),
        sa.Column("acknowledged", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
    )
    op.create_index(P + "checkpoints_lane", P + "checkpoints", ["workflow_id", "lane", "to_seq"])
    op.create_table(
        P + "marks",
        sa.Column("at", Instant, primary_key=True),
        sa.Column("seq", Id, nullable=False),
    )
    op.create_table(
        P + "suppressed",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("forgotten_at", Instant, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        P + "backfills",
        sa.Column("id", Id, primary_key=True, autoincrement=True),
        sa.Column("workflow_id", Id, nullable=False),
        sa.Column("computation_id", Id, nullable=False),
        sa.Column("sync_id", Id, nullable=False),
        sa.Column("include_exited", sa.Boolean, nullable=False),
        sa.Column("at_exited", sa.Boolean, nullable=False),
        sa.Column("after_user", UserId),
        sa.Column("written", sa.BigInteger, nullable=False),
        sa.Column("started_at", Instant, nullable=False),
        sa.Column("finished_at", Instant),
    )
    op.create_index(P + "backfills_pair", P + "backfills", ["workflow_id", "computation_id"])
    op.create_table(
        P + "relay_seen",
        sa.Column("message_id", UserId, primary_key=True),
        sa.Column("received_at", Instant, nullable=False, index=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        P + "relay_messages",
        sa.Column("id", Id, primary_key=True, autoincrement=True),
        sa.Column("message_id", UserId, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("name", UserId, nullable=False),
        sa.Column("user_id", UserId),
        sa.Column("anonymous_id", UserId),
        sa.Column("at", Instant, nullable=False),
        sa.Column("received_at", Instant, nullable=False),
        sa.Column("properties", sa.Text, nullable=False),
    )
    op.create_index(P + "relay_messages_name", P + "relay_messages", ["name", "at"])
    op.create_index(P + "relay_messages_user", P + "relay_messages", ["user_id"])
    op.create_index(P + "relay_messages_anonymous", P + "relay_messages", ["anonymous_id"])
    op.create_table(
        P + "relay_links",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("id", UserId, primary_key=True),
        sa.Column("user_id", UserId, nullable=False, index=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        P + "relay_profiles",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("id", UserId, primary_key=True),
        sa.Column("traits", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        P + "relay_counts",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("outcome", sa.Text, primary_key=True),
        sa.Column("workflow", sa.Text, primary_key=True),
        sa.Column("count", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    # Whose a message is shows when it is read: an anonymous visitor's count for the user once they are linked.
    op.execute(
        """
        CREATE VIEW audience_sync_relay_events AS
        SELECT coalesce(renamed.user_id, told.user_id) AS user_id, told.name, told.at, told.properties, told.type,
               told.anonymous_id, told.message_id, told.received_at
        FROM (
            SELECT coalesce(message.user_id, link.user_id) AS user_id, message.name, message.at, message.properties,
                   message.type, message.anonymous_id, message.message_id, message.received_at
            FROM audience_sync_relay_messages message
            LEFT JOIN audience_sync_relay_links link
                ON message.user_id IS NULL AND link.kind = 'anonymous' AND link.id = message.anonymous_id
        ) told
        LEFT JOIN audience_sync_relay_links renamed ON renamed.kind = 'user' AND renamed.id = told.user_id
        WHERE told.user_id IS NOT NULL
        """
    )
    op.execute(
        """
        CREATE VIEW audience_sync_relay_people AS
        SELECT id AS user_id, traits FROM audience_sync_relay_profiles WHERE kind = 'user'
        """
    )
