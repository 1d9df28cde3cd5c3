"""A TCP wire between the project and a database, which can be made slow, or cut after so many bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

BLOCK = 16 * 1024


class WireBetween:
    """`with WireBetween(host, port) as port`. `cut_after` bytes from the database, all connections break at once;
    `block_seconds` is what each block of 16 KB takes."""

    def __init__(self, host: str, port: int) -> None:
        self.to = (host, port)
        self.cut_after: int | None = None
        self.block_seconds = 0.0
        self.carried = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []

    def __enter__(self) -> int:
        threading.Thread(target=self._accept, daemon=True).start()
        return int(self._listener.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        while self._open:
            with contextlib.suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.create_connection(self.to)
                self._open += [here, there]
                threading.Thread(target=self._carry, args=(here, there, False), daemon=True).start()
                threading.Thread(target=self._carry, args=(there, here, True), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(BLOCK):
                if counts:
                    self.carried += len(block)
                    if self.cut_after is not None and self.carried > self.cut_after:
                        self.cut()
                        return
                    time.sleep(self.block_seconds)
                target.sendall(block)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
