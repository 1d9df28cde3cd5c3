"""A receiver that misbehaves below HTTP: what it does with each connection is said by a function."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

Behaviour = Callable[[socket.socket, dict[str, Any]], bool]
"""Answers one call; returns whether the connection goes on."""


class Misbehaving:
    """`with Misbehaving(behaviour) as url`. `bodies` are the calls as they came; `taken` those answered with 200."""

    def __init__(self, behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        self.behaviour = behaviour
        self.tls = tls
        self.bodies: list[dict[str, Any]] = []
        self.taken: list[dict[str, Any]] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._closing = False
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        return self.url

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self._listener.close()

    def ok(self, connection: socket.socket, body: dict[str, Any]) -> bool:
        connection.sendall(OK)
        self.taken.append(body)
        return True

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        with contextlib.suppress(OSError), contextlib.closing(connection):
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            rest = b""
            while not self._closing:
                while b"\r\n\r\n" not in rest:
                    rest += _more(connection)
                head, _, rest = rest.partition(b"\r\n\r\n")
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
                length = int(fields[b"content-length"])
                while len(rest) < length:
                    rest += _more(connection)
                body = json.loads(rest[:length])
                rest = rest[length:]
                self.bodies.append(body)
                if not self.behaviour(connection, body):
                    return


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionResetError
    return data


def reset(connection: socket.socket, _body: dict[str, Any]) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def stall(connection: socket.socket, _body: dict[str, Any]) -> bool:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{")
    time.sleep(3)
    return False


def garbage(connection: socket.socket, _body: dict[str, Any]) -> bool:
    connection.sendall(b"\x00\xff\x13 this is not HTTP\n\n")
    return False


def half_close(connection: socket.socket, _body: dict[str, Any]) -> bool:
    connection.shutdown(socket.SHUT_WR)
    return False


def drip(connection: socket.socket, _body: dict[str, Any]) -> bool:
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n":
        connection.sendall(bytes([byte]))
        time.sleep(0.1)
    return False


def endless(connection: socket.socket, _body: dict[str, Any]) -> bool:
    """A refusal whose text never ends: two kilobytes of it are enough to know."""
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 900000000\r\n\r\nno: s3cret-token ")
    with contextlib.suppress(OSError):
        for _ in range(200):
            connection.sendall(b"x" * 65536)
    return False


def answer(status: str, *headers: str) -> Behaviour:
    def behave(connection: socket.socket, _body: dict[str, Any]) -> bool:
        lines = [f"HTTP/1.1 {status}", "Content-Length: 0", *headers]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        return True

    return behave
