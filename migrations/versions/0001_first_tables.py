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
    op.bulk_insert(meta, [{"name": "state_id", "value": secrets.token_hex(10)}])
    op.create_table(
        P + "computations",
        sa.Column("id", Id, primary_key=True, autoincrement=True),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("class", sa.Text, nullable=False),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("first_sync_id", Id),
        sa.Column("last_as_of", Instant),
        sa.Column("size", sa.BigInteger, nullable=False, server_default="0"),
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
        sa.Column("cursor", Id, nullable=False),
        sa.Column("window_end", Id, nullable=False),
        sa.Column("last_ack_at", Instant),
        sa.Column("last_error_at", Instant),
        sa.Column("last_error", sa.Text),
        sa.Column("removed_at", Instant),
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
        sa.Column("computation_id", Id, nullable=False),
        sa.Column("sync_id", Id, nullable=False),
        sa.Column("workflow_id", Id),
        sa.Column("user_id", UserId, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("previous", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_table(
        P + "passed_over",
        sa.Column("workflow_id", Id, primary_key=True, autoincrement=False),
        sa.Column("seq", Id, primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        P + "leftovers",
        sa.Column("workflow_id", Id, primary_key=True, autoincrement=False),
        sa.Column("computation_id", Id, primary_key=True, autoincrement=False),
        sa.Column("user_id", UserId, primary_key=True),
        sa.Column("seq", Id, nullable=False),
        sa.Column("sync_id", Id, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("first_attempt_at", Instant, nullable=False),
        sa.Column("next_attempt_at", Instant, nullable=False),
        sa.Column("status_code", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("dead_at", Instant),
    )
    op.create_index(P + "leftovers_due", P + "leftovers", ["workflow_id", "next_attempt_at"])
