from __future__ import annotations

from pathlib import Path

import click

from audience_sync.config.schema import SHIPPED
from audience_sync.errors import ConfigError

SCHEMA = "jobs.schema.json"
SAMPLE = """\
# yaml-language-server: $schema=jobs.schema.json
# audience_sync: who is in an audience, and which Tray.io workflows are told when somebody enters or leaves.
# Check it with `audience-sync validate`, look with `audience-sync plan`, sync with `audience-sync run`.
version: 1

# The database with your people and what they did; it is only read. Any SQLAlchemy URL:
#   sqlite:///shop.db   or   postgresql://user:${SHOP_PASSWORD}@host/shop
source: ${SHOP_DB:-sqlite:///shop.db}

# Where audience_sync keeps what it has synced: by default a file beside this one.
state: ${SYNC_STATE:-sqlite:///audience_sync.db}

# What people did: one table an event, with the columns that say who and when.
events:
  Order Completed: {table: orders, user_id: customer_id, at: ordered_on}
  # "*": {table: tracks, user_id: user_id, name: event, at: sent_at}     # many events in one table

# Who people are: one row a person; its columns are what `has:` tests.
# people: {table: customers, user_id: id}

# Whom to tell: at most ten Tray workflows. `audience-sync listen` stands in for one while you try things out.
workflows:
  crm:
    url: ${TRAY_CRM_URL:-http://127.0.0.1:8080/crm}
    shared_secret: ${TRAY_SECRET:-}
    # rate: 200/s          # at most so many calls
    # concurrency: 32      # at most so many at once

jobs:
  - name: Lifecycle
    schedule: every 2 hours          # or: every day at 06:30, or cron: "0 */2 * * *"
    workflows: [crm]
    audiences:
      - name: Order Completed Last 30days          # told as order_completed_last_30days: true or false
        who: {did: Order Completed, within: 30 days}

      # - name: Big spenders
      #   who:
      #     all:
      #       - {did: Order Completed, at_least: 3, within: 90 days, where: {revenue: {gte: 50}}}
      #       - {has: {country: [DE, AT]}}
      #       - not: {in: Order Completed Last 30days}
    # traits:
    #   - name: Lifetime value
    #     sql: select customer_id as user_id, sum(revenue) as value from orders group by customer_id
"""


@click.command("init")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.pass_obj
def command(config: Path, force: bool) -> None:
    """Write a commented jobs.yaml to start from."""
    if config.exists() and not force:
        raise ConfigError(f"{config} is there already", "write over it with --force, or name another with --config")
    try:
        config.write_text(SAMPLE, encoding="utf-8")
        # beside it, so that every editor of the team finds it, whatever is installed where
        (config.parent / SCHEMA).write_text(SHIPPED.read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{config} cannot be written: {error.strerror}") from None
    click.echo(f"wrote {config}, and {SCHEMA} by which editors check it")
    click.echo("next: edit it, then `audience-sync validate --connect`")
