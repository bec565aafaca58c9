"""A store on a bad day: an HTTP proxy in front of a real S3 server, that answers in its place, dawdles, or cuts off.

``faults`` are asked about each request in turn; the first that returns something decides.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    """A request. ``part``: its part number, 0 when it is none."""

    method: str
    path: str
    part: int


@dataclass(frozen=True)
class Fault:
    """What happens instead: a status with S3's word for it; or first so many seconds of silence (status 0: then the
    request is carried out); or the connection is cut (status -1)."""

    status: int = 0
    code: str = ""
    seconds: float = 0.0


class FaultProxy:
    """Runs from the moment it is made until ``close``."""

    def __init__(self, endpoint: str) -> None:
        self.faults: list[Callable[[Asked], Fault | None]] = []
        self.asked: list[Asked] = []
        upstream = urlsplit(endpoint).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                query = parse_qs(urlsplit(self.path).query)
                asked = Asked(self.command, self.path, int(query.get("partNumber", ["0"])[0]))
                proxy.asked.append(asked)
                fault = proxy.fault_for(asked)
                if fault is not None:
                    time.sleep(fault.seconds)
                    if fault.status < 0:
                        self.close_connection = True
                        return
                    if fault.status > 0:
                        text = f"<Error><Code>{fault.code}</Code><Message>a bad day</Message></Error>".encode()
                        self._answer(fault.status, {"content-type": "application/xml"}, text)
                        return
                connection = http.client.HTTPConnection(upstream, timeout=60)
                try:
                    connection.request(self.command, self.path, body, dict(self.headers))
                    answer = connection.getresponse()
                    headers = {
                        name: value
                        for name, value in answer.getheaders()
                        if name.lower() not in ("transfer-encoding", "connection", "date", "server")
                    }
                    self._answer(answer.status, headers, answer.read())
                except OSError:
                    self.close_connection = True
                finally:
                    connection.close()

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() != "content-length" or self.command == "HEAD":
                        self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("content-length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # the names are http.server's

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that is killed hangs up; that is the point."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def fault_for(self, asked: Asked) -> Fault | None:
        """What happens to this request."""
        return next((fault for one in list(self.faults) if (fault := one(asked)) is not None), None)

    def next_times(self, times: int, matches: Callable[[Asked], bool], fault: Fault) -> None:
        """Let ``fault`` happen to the next ``times`` requests that match."""
        left = [times]
        lock = threading.Lock()

        def decide(asked: Asked) -> Fault | None:
            with lock:
                if left[0] and matches(asked):
                    left[0] -= 1
                    return fault
            return None

        self.faults.append(decide)

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def fault_proxy(endpoint: str) -> Iterator[FaultProxy]:
    """A proxy while the block lasts."""
    proxy = FaultProxy(endpoint)
    try:
        yield proxy
    finally:
        proxy.close()
