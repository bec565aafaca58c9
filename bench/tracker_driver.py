"""Drives a server of frames as fast as it answers, or at a given rate: raw sockets and TLS, and nothing of ours above.

One thread, epoll, blocking handshakes first. Each connection has one request unanswered at a time, each request is a
TLS record of its own, and answers are only looked at as far as counting them needs: so one core of driver is faster
than one core of any server it is held against, and all servers get the very same traffic.
"""

from __future__ import annotations

import select
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from protocol import messages as m
from protocol.codec import decode_untrusted, encode
from protocol.frames import frame
from protocol.limits import ALPN, PROTOCOL_VERSION
from runtime.identity import Credentials

READ_BYTES = 65536


def framed(message: m.Message) -> bytes:
    """Return a message as it goes over the wire."""
    return frame(encode(message))


@dataclass(slots=True)
class Client:
    """One connection. ``answer_types``: first bytes after the array header that count as the answer; None: any frame
    does. ``requests`` yields what to send, one or several records at a time."""

    socket: ssl.SSLSocket
    answer_type: int | None
    requests: Iterator[Sequence[bytes]] = field(default_factory=lambda: iter(()))
    received: bytearray = field(default_factory=bytearray)
    sent_at: float = 0.0
    waiting: bool = False

    def ask(self) -> bool:
        """Send the next request; False when there is none."""
        parts = next(self.requests, None)
        if parts is None:
            return False
        self.sent_at = time.perf_counter()
        self.waiting = True
        for part in parts:
            self.socket.sendall(part)
        return True

    def answered(self) -> bool:
        """Read what is there; whether the answer was among it."""
        found = False
        try:
            while True:
                data = self.socket.recv(READ_BYTES)
                if not data:
                    raise ConnectionError("the server hung up")
                self.received += data
                if len(data) < READ_BYTES and not self.socket.pending():
                    break
        except ssl.SSLWantReadError:
            pass
        received, position = self.received, 0
        while len(received) - position >= 4:
            end = position + 4 + int.from_bytes(received[position : position + 4], "big")
            if end > len(received):
                break
            if self.answer_type is None or received[position + 5] == self.answer_type:
                found = True
            position = end
        del received[:position]
        return found


def connect(address: str, own: Credentials, *, hello: bool, answer_type: int | None = None) -> Client:
    """Return a connection on which both sides have said Hello, when the server says it at all."""
    host, _, port = address.rpartition(":")
    raw = socket.create_connection((host, int(port)), timeout=60)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    secure = _context(own).wrap_socket(raw)
    client = Client(secure, answer_type)
    if hello:
        while len(client.received) < 4 or len(client.received) < 4 + int.from_bytes(client.received[:4], "big"):
            client.received += secure.recv(READ_BYTES)
        end = 4 + int.from_bytes(client.received[:4], "big")
        assert isinstance(decode_untrusted(client.received[4:end]), m.Hello)
        del client.received[:end]
        greeting = m.Hello(version=PROTOCOL_VERSION, features=(), name="n", agent="bench/0", addresses=("127.0.0.1:9",))
        secure.sendall(framed(greeting))
    return client


def _context(own: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=b"".join(own.authorities))
    context.set_alpn_protocols([ALPN])
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        chain = b"".join(
            x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
            for der in (own.certificate, own.authorities[0])
        )
        Path(file.name).write_bytes(own.private_pem() + chain)
        context.load_cert_chain(file.name)
    return context


@dataclass(frozen=True, slots=True)
class Result:
    """Answers a second, and the latencies in seconds, sorted."""

    answers: int
    seconds: float
    latencies: list[float] = field(repr=False)

    @property
    def rate(self) -> float:
        return self.answers / self.seconds

    def percentile(self, share: float) -> float:
        """Return the latency that so large a share stays below, in milliseconds."""
        return 1000 * self.latencies[min(len(self.latencies) - 1, int(share * len(self.latencies)))]


def drive(clients: list[Client], seconds: float, per_second: float | None = None) -> Result:
    """Ask and count until the time is over or there is nothing more to ask. ``per_second``: no more requests than so
    many, evenly, by whichever connection is free; latencies count from when each was due."""
    poll = select.epoll()
    by_number = {client.socket.fileno(): client for client in clients}
    for client in clients:
        client.socket.settimeout(0)
        poll.register(client.socket, select.EPOLLIN)
    latencies: list[float] = []
    begun = time.perf_counter()
    ended = begun + seconds
    idle: list[Client] = []
    active = 0
    if per_second is None:
        active = sum(client.ask() for client in clients)
    else:
        idle = list(clients)
    due, dry = begun, False
    while (now := time.perf_counter()) < ended and (active or per_second is not None):
        if per_second is not None:
            while idle and due <= now:
                client = idle.pop(0)
                if client.ask():
                    active += 1
                    client.sent_at = due
                    due += 1 / per_second
            wait = max(0.0, min(due, ended) - now) if idle else 0.05
        else:
            wait = 0.2
        for number, _ in poll.poll(wait):
            client = by_number[number]
            if client.answered() and client.waiting:
                latencies.append(time.perf_counter() - client.sent_at)
                client.waiting = False
                if per_second is not None:
                    active -= 1
                    idle.append(client)
                elif not client.ask():
                    active -= 1
                    dry = True
        if dry and not active:
            break
    took = time.perf_counter() - begun
    poll.close()
    latencies.sort()
    return Result(len(latencies), took, latencies)


def settle(clients: list[Client], make: Callable[[int], Sequence[bytes]]) -> None:
    """Let each connection say something once, and wait for its answer."""
    for number, client in enumerate(clients):
        client.requests = iter([make(number)])
    drive(clients, 120)
