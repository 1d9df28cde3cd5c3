"""Alembic's entry: runs on the connection that `audience_sync.state.schema` hands over."""

from alembic import context

from audience_sync.state.schema import VERSION_TABLE
from audience_sync.state.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
