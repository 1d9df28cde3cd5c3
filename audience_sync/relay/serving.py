"""The relay as a server: what comes in is kept and then delivered, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager

import uvicorn
from sqlalchemy.engine import Connection
from starlette.applications import Starlette

from audience_sync import logs
from audience_sync.clock import utcnow
from audience_sync.config import Config
from audience_sync.config.model import Relay
from audience_sync.database import told, writing
from audience_sync.relay import opening
from audience_sync.relay.couriers import Couriers
from audience_sync.relay.http import application
from audience_sync.relay.inbox import Inbox
from audience_sync.relay.messages import Message
from audience_sync.relay.store import drop_old_ids, store
from audience_sync.snapshot import Databases
from audience_sync.state.locks import try_lock

GRACE_SECONDS = 10.0
"""For calls in flight, both ways, when the relay is told to stop."""
DROP_SECONDS = 300.0
HEALTH_SECONDS = 60.0


class RelayServer:
    """`run` serves until `stop`, or until SIGTERM or Ctrl-C when called in the main thread."""

    def __init__(self, config: Config, databases: Databases, bound: socket.socket) -> None:
        assert config.relay is not None, "the caller looks"
        self._config = config
        self._relay: Relay = config.relay
        self._databases = databases
        self._socket = bound
        self._inbox = Inbox(self._commit)
        self._failing_since: float | None = None
        self._dropped_at = 0.0
        self._connection: Connection | None = None
        with told("state", config.state), databases.state.connect() as connection, writing(connection):
            self.routes, workflow_ids = opening.open_routes(connection, config, utcnow())
        self._couriers = Couriers(config, databases, workflow_ids)
        self._server = uvicorn.Server(
            uvicorn.Config(
                application(self._relay, self._inbox, healthy=self._healthy, lifespan=self._lifespan),
                http="httptools",
                ws="none",
                lifespan="on",
                log_level="error",
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=int(GRACE_SECONDS),
                backlog=2048,
            )
        )

    def run(self) -> None:
        logging.getLogger("uvicorn").handlers.clear()
        with ExitStack() as stack:
            # Shows in `history` that it runs. Another relay on this state may have it: both are welcome.
            stack.enter_context(try_lock(self._databases.state, self._config.state, f"job {opening.JOB}"))
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        self._server.should_exit = True

    @property
    def started(self) -> bool:
        return self._server.started

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        writing_down = asyncio.create_task(self._inbox.run())
        self._couriers.start()
        yield
        self._inbox.close()
        await writing_down
        await asyncio.to_thread(self._couriers.stop, GRACE_SECONDS)
        await asyncio.to_thread(self._close)

    def _commit(self, messages: Sequence[Message]) -> None:
        """One transaction; on the inbox's thread, the only one that uses this connection."""
        now = utcnow()
        began = time.monotonic()
        try:
            self._connection = self._connection or self._databases.state.connect()
            with writing(self._connection) as connection:
                sent = store(connection, messages, self.routes, now)
                if began - self._dropped_at > DROP_SECONDS:
                    self._dropped_at = began
                    drop_old_ids(connection, now)
        except Exception:
            self._failing_since = self._failing_since or began
            self._disconnect()
            raise
        self._failing_since = None
        if sent:
            self._couriers.wake()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _healthy(self) -> bool:
        return self._failing_since is None or time.monotonic() - self._failing_since < HEALTH_SECONDS

    def _close(self) -> None:
        self._disconnect()
        with told("state", self._config.state), self._databases.state.connect() as connection, writing(connection):
            opening.close(connection, self.routes, utcnow())
        logs.info("stopped")
