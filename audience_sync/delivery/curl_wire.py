"""libcurl's multi interface (https://curl.se/libcurl/c/libcurl-multi.html): the fastest HTTP client that Python has."""

from __future__ import annotations

import os
import time
from math import ceil
from typing import Any

import certifi
import pycurl

from audience_sync.config import Workflow
from audience_sync.delivery.wire import KEPT_BYTES, Answer

POLL_SECONDS = 0.02
"""The longest single wait: select() does not see descriptors past 1023, and those are served by looking again."""

_REACHED = frozenset({pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_CONNECT})
_TLS = frozenset({pycurl.E_SSL_CONNECT_ERROR, pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT_BADFILE})


class CurlWire:
    """Redirects are not followed; proxies come from the usual environment variables, which libcurl reads itself."""

    def __init__(self, workflow: Workflow, headers: dict[str, str]) -> None:
        self.in_flight = 0
        self._workflow = workflow
        self._headers = [f"{name}: {value}".encode() for name, value in headers.items()] + [b"Expect:"]
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, workflow.concurrency + 8)
        self._idle: list[Any] = []
        self._busy: dict[Any, Any] = {}
        self._bodies: dict[Any, bytearray] = {}

    def send(self, token: Any, body: bytes, signature: str | None) -> None:
        curl = self._idle.pop() if self._idle else self._handle()
        curl.setopt(pycurl.POSTFIELDS, body)
        if signature is not None:
            curl.setopt(pycurl.HTTPHEADER, [*self._headers, b"X-Signature: " + signature.encode()])
        self._busy[curl] = token
        self.in_flight += 1
        self._multi.add_handle(curl)

    def wait(self, timeout: float) -> list[tuple[Any, Answer]]:
        if not self.in_flight:
            time.sleep(timeout)
            return []
        self._multi.perform()
        found = self._finished()
        if not found and timeout > 0:
            if self._multi.select(min(timeout, POLL_SECONDS)) < 0:  # no descriptor yet: a name is being resolved
                time.sleep(0.001)
            self._multi.perform()
            found = self._finished()
        return found

    def close(self) -> None:
        for curl in self._busy:
            self._multi.remove_handle(curl)
            curl.close()
        for curl in self._idle:
            curl.close()
        self._busy.clear()
        self._idle.clear()
        self.in_flight = 0
        self._multi.close()

    def _finished(self) -> list[tuple[Any, Answer]]:
        found = []
        while True:
            waiting, done, failed = self._multi.info_read(1000)
            for curl in done:
                found.append((self._busy[curl], self._answer(curl)))
                self._free(curl)
            for curl, number, said in failed:
                found.append((self._busy[curl], self._failure(curl, number, said)))
                self._free(curl)
            if not waiting:
                return found

    def _free(self, curl: Any) -> None:
        self._multi.remove_handle(curl)
        del self._busy[curl]
        self._bodies[curl].clear()
        self._idle.append(curl)
        self.in_flight -= 1

    def _answer(self, curl: Any) -> Answer:
        status = curl.getinfo(pycurl.RESPONSE_CODE)
        seconds = curl.getinfo(pycurl.TOTAL_TIME)
        if 200 <= status < 300:
            return Answer(status, seconds)
        asked = curl.getinfo(pycurl.RETRY_AFTER)  # libcurl reads both of its forms, seconds and dates
        return Answer(status, seconds, "", float(asked) if asked else None, bytes(self._bodies[curl]))

    def _failure(self, curl: Any, number: int, said: str) -> Answer:
        if number == pycurl.E_WRITE_ERROR:  # more of an answer than is kept
            return self._answer(curl)
        if number in _REACHED:
            kind = "could not be reached"
        elif number == pycurl.E_OPERATION_TIMEDOUT:
            kind = "did not answer in time"
        elif number in _TLS:
            kind = "its certificate or TLS is not accepted"
        else:
            kind = "broke the connection or answered no HTTP"
        return Answer(None, curl.getinfo(pycurl.TOTAL_TIME), f"{kind}: {said or f'curl error {number}'}")

    def _handle(self) -> Any:
        workflow = self._workflow
        curl = pycurl.Curl()
        kept = self._bodies[curl] = bytearray()

        def keep(data: bytes) -> int:
            if len(kept) >= KEPT_BYTES:
                return 0
            kept.extend(data[: KEPT_BYTES - len(kept)])
            return len(data)

        curl.setopt(pycurl.URL, workflow.url)
        curl.setopt(pycurl.POST, 1)
        curl.setopt(pycurl.HTTPHEADER, self._headers)
        curl.setopt(pycurl.WRITEFUNCTION, keep)
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        curl.setopt(pycurl.TCP_NODELAY, 1)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, ceil(workflow.connect_timeout * 1000))
        curl.setopt(pycurl.TIMEOUT_MS, ceil(workflow.timeout * 1000))
        curl.setopt(pycurl.LOW_SPEED_LIMIT, 1)
        curl.setopt(pycurl.LOW_SPEED_TIME, ceil(workflow.read_timeout))
        curl.setopt(pycurl.CAINFO, workflow.ca_file or os.environ.get("SSL_CERT_FILE") or certifi.where())
        return curl
