"""The servers that the tracker is held against: a bare TLS echo on trio, the same on our own TLS, and opentracker.

The echo answers each frame whose body begins with 0x97 (a heartbeat's array of seven) with a frame of as many bytes as
a HeartbeatAnswer has, and says nothing to others. It knows no message, no node and no clock: what any program on this
stack can reach at most.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import ssl
import struct
import tempfile
from functools import partial
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.swarm import SwarmCa

from protocol.errors import LinkLost
from protocol.ids import Role
from protocol.limits import ALPN
from runtime.real import real_runtime
from runtime.seam import ByteStream, SecureStream

BEAT_HEADER = 0x97


def context_of(ca: SwarmCa) -> ssl.SSLContext:
    """Return a server's, which wants a certificate of the swarm as ours does."""
    own = ca.credentials("echo", Role.TRACKER)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=b"".join(own.authorities))
    context.set_alpn_protocols([ALPN])
    context.num_tickets = 0
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        chain = x509.load_der_x509_certificate(own.certificate).public_bytes(Encoding.PEM)
        Path(file.name).write_bytes(own.private_pem() + chain)
        context.load_cert_chain(file.name)
    return context


async def echo_trio(answer: bytes, stream: trio.SSLStream[trio.SocketStream]) -> None:
    """One connection of trio's own TLS."""
    received = bytearray()
    try:
        while data := await stream.receive_some(16384):
            received += data
            while len(received) >= 4 and len(received) >= (end := 4 + struct.unpack_from(">I", received)[0]):
                is_beat = received[4] == BEAT_HEADER
                del received[:end]
                if is_beat:
                    await stream.send_all(answer)
    except (trio.BrokenResourceError, ssl.SSLError):
        return


async def echo_own(answer: bytes, stream: SecureStream) -> None:
    """One connection of runtime/tls.py."""
    received = bytearray()
    target = memoryview(bytearray(16384))
    while count := await stream.receive_into(target):
        received += target[:count]
        while len(received) >= 4 and len(received) >= (end := 4 + struct.unpack_from(">I", received)[0]):
            is_beat = received[4] == BEAT_HEADER
            del received[:end]
            if is_beat:
                await stream.send_all(answer)


async def serve(kind: str, answer_bytes: int) -> None:
    """Serve until killed."""
    ca = SwarmCa()
    answer = struct.pack(">I", answer_bytes - 4) + b"\x94\x11" + bytes(answer_bytes - 6)
    if kind == "trio":
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(
                partial(
                    trio.serve_ssl_over_tcp,
                    partial(echo_trio, answer),
                    0,
                    context_of(ca),
                    host="127.0.0.1",
                    https_compatible=True,
                )
            )
            port = listeners[0].transport_listener.socket.getsockname()[1]
            print(f"127.0.0.1:{port}", flush=True)
    else:
        runtime = real_runtime()
        own = ca.credentials("echo", Role.TRACKER)
        listener = await runtime.network.listen("127.0.0.1", 0)
        print(listener.address, flush=True)

        async def welcome(raw: ByteStream) -> None:
            stream, _ = await runtime.security.accept(raw, own, door=False)
            with contextlib.suppress(LinkLost):
                await echo_own(answer, stream)

        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(welcome, await listener.accept())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("trio", "own"))
    parser.add_argument("--answer-bytes", type=int, required=True)
    parser.add_argument("--core", type=int)
    given = parser.parse_args()
    if given.core is not None:
        os.sched_setaffinity(0, {given.core})
    trio.run(serve, given.kind, given.answer_bytes)


if __name__ == "__main__":
    main()
