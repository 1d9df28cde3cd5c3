"""libcurl's multi interface under httpx's transport seam.

httpx's own pool scans all its connections for each request, which at tens of calls in flight costs more than the
calls. curl keeps connections itself and reports on sockets that asyncio watches (libcurl, `curl_multi_socket_action`).
Any other `httpx.AsyncBaseTransport` can stand in its place.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pycurl

KEPT_BYTES = 2048
"""How much of an answer is kept; a workflow's answer says whether it took the call, not more."""

_ERRORS: dict[int, type[httpx.TransportError]] = {
    pycurl.E_COULDNT_RESOLVE_HOST: httpx.ConnectError,
    pycurl.E_COULDNT_CONNECT: httpx.ConnectError,
    pycurl.E_SSL_CONNECT_ERROR: httpx.ConnectError,
    pycurl.E_PEER_FAILED_VERIFICATION: httpx.ConnectError,
    pycurl.E_SSL_CACERT_BADFILE: httpx.ConnectError,
    pycurl.E_OPERATION_TIMEDOUT: httpx.ReadTimeout,
    pycurl.E_SEND_ERROR: httpx.WriteError,
    pycurl.E_RECV_ERROR: httpx.ReadError,
    pycurl.E_GOT_NOTHING: httpx.RemoteProtocolError,
}


class _Call:
    __slots__ = ("body", "future", "headers")

    def __init__(self, future: asyncio.Future[int]) -> None:
        self.future = future
        self.headers: list[bytes] = []
        self.body = bytearray()

    def write(self, data: bytes) -> int:
        room = KEPT_BYTES - len(self.body)
        if room > 0:
            self.body += data[:room]
        return len(data)


class CurlTransport(httpx.AsyncBaseTransport):
    """Redirects are not followed and proxies come from the usual environment variables (curl's own rules)."""

    def __init__(self, ca_file: str | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, 1200)
        self._ca_file = ca_file
        self._timer: asyncio.TimerHandle | None = None
        self._idle: list[Any] = []
        self._calls: dict[Any, _Call] = {}
        self._watched: dict[int, int] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        curl = self._idle.pop() if self._idle else self._new_handle()
        call = _Call(self._loop.create_future())
        timeout = request.extensions.get("timeout", {})
        curl.setopt(pycurl.URL, str(request.url))
        curl.setopt(pycurl.POSTFIELDS, request.content)
        curl.setopt(
            pycurl.HTTPHEADER,
            [
                b"%s: %s" % header
                for header in request.headers.raw
                if header[0].lower() not in (b"host", b"content-length")
            ]
            + [b"Expect:"],
        )
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, int((timeout.get("connect") or 5.0) * 1000))
        curl.setopt(pycurl.TIMEOUT_MS, int((timeout.get("read") or 15.0) * 1000))
        curl.setopt(pycurl.WRITEFUNCTION, call.write)
        curl.setopt(pycurl.HEADERFUNCTION, call.headers.append)
        self._calls[curl] = call
        self._multi.add_handle(curl)
        try:
            status = await call.future
        except pycurl.error as error:
            number, said = error.args
            raise _ERRORS.get(number, httpx.NetworkError)(
                said or pycurl.Curl().errstr() or f"curl error {number}"
            ) from None
        finally:
            if curl in self._calls:  # cancelled: curl must let go of it before it can serve another call
                self._finish(curl)
            self._idle.append(curl)
        lines = [line.partition(b":") for line in call.headers if b":" in line]
        headers = [(name.strip(), value.strip()) for name, _, value in lines]
        skipped = (b"content-length", b"content-encoding", b"transfer-encoding")
        return httpx.Response(
            status,
            headers=[header for header in headers if header[0].lower() not in skipped],
            content=bytes(call.body),
            request=request,
        )

    async def aclose(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for curl in list(self._calls):
            self._calls[curl].future.cancel()
            self._finish(curl)
        for descriptor in list(self._watched):
            self._unwatch(descriptor)
        self._multi.close()
        for curl in self._idle:
            curl.close()
        self._idle.clear()

    def _new_handle(self) -> Any:
        curl = pycurl.Curl()
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.POST, 1)
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        curl.setopt(pycurl.TCP_NODELAY, 1)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        if self._ca_file:
            curl.setopt(pycurl.CAINFO, self._ca_file)
        else:
            import certifi

            curl.setopt(pycurl.CAINFO, certifi.where())
        return curl

    def _watch(self, event: int, descriptor: int, _multi: Any, _data: Any) -> None:
        self._unwatch(descriptor)
        if event == pycurl.POLL_REMOVE:
            return
        self._watched[descriptor] = event
        if event in (pycurl.POLL_IN, pycurl.POLL_INOUT):
            self._loop.add_reader(descriptor, self._act, descriptor, pycurl.CSELECT_IN)
        if event in (pycurl.POLL_OUT, pycurl.POLL_INOUT):
            self._loop.add_writer(descriptor, self._act, descriptor, pycurl.CSELECT_OUT)

    def _unwatch(self, descriptor: int) -> None:
        event = self._watched.pop(descriptor, None)
        if event in (pycurl.POLL_IN, pycurl.POLL_INOUT):
            self._loop.remove_reader(descriptor)
        if event in (pycurl.POLL_OUT, pycurl.POLL_INOUT):
            self._loop.remove_writer(descriptor)

    def _set_timer(self, milliseconds: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if milliseconds >= 0:
            self._timer = self._loop.call_later(milliseconds / 1000, self._act, pycurl.SOCKET_TIMEOUT, 0)

    def _act(self, descriptor: int, what: int) -> None:
        self._multi.socket_action(descriptor, what)
        while True:
            waiting, done, failed = self._multi.info_read()
            for curl in done:
                future = self._finish(curl).future
                if not future.done():
                    future.set_result(curl.getinfo(pycurl.RESPONSE_CODE))
            for curl, number, said in failed:
                future = self._finish(curl).future
                if not future.done():
                    future.set_exception(pycurl.error(number, said))
            if not waiting:
                return

    def _finish(self, curl: Any) -> _Call:
        self._multi.remove_handle(curl)
        return self._calls.pop(curl)
