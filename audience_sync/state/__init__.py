"""The state database: what was synced, the outbox, and the history. Everything here survives the process."""
