"""An ASGI application on a thread of its own."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import uvicorn

from audience_sync.errors import ConfigError
from audience_sync.receiver import listening

STOP_SECONDS = 5


class Web:
    """`with Web(app, host, port) as url`; ConfigError when the port is taken."""

    def __init__(self, app: Any, host: str, port: int) -> None:
        try:
            self._socket = listening(host, port)
        except (OSError, socket.gaierror) as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", "choose another --port") from None
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True, name="web")

    def __enter__(self) -> str:
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.url

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(STOP_SECONDS + 2)
        self._socket.close()
