"""Security without cryptography on the wire: certificates are exchanged in the clear, under the same ``judge``.

The order is that of TLS 1.3 as tls.py uses it: the listener's certificate comes first, the dialler judges it before its
own leaves, and has no answer yet when ``dial`` returns. A certificate here proves nothing about its key; who plays an
impostor in a simulation must not be given the other one's certificate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from protocol.errors import LinkLost, NotTrusted
from protocol.limits import ALPN, ALPN_JOIN, CERTIFICATE_BYTES_MAX, HANDSHAKE_SECONDS_MAX
from runtime.identity import Credentials, Peer
from runtime.seam import Buffer, ByteStream, Line, SecureStream
from runtime.tls import Expected

_MAGIC = b"PLAIN"


class PlainStream:
    """A stream whose ends told each other who they are."""

    def __init__(self, stream: ByteStream, alpn: str, certificate: bytes | None) -> None:
        self._stream = stream
        self.alpn = alpn
        self.certificate = certificate

    @property
    def remote(self) -> str:
        return self._stream.remote

    @property
    def line(self) -> Line | None:
        return self._stream.line

    async def send_all(self, data: Buffer) -> None:
        await self._stream.send_all(data)

    async def send_parts(self, parts: Sequence[Buffer]) -> None:
        for part in parts:
            await self._stream.send_all(part)

    async def receive_into(self, target: memoryview) -> int:
        return await self._stream.receive_into(target)

    def close(self) -> None:
        self._stream.close()


class PlainSecurity:
    """``Security`` for fast tests and simulations."""

    async def dial(self, stream: ByteStream, own: Credentials, expected: Expected) -> tuple[SecureStream, Peer]:
        with _handshake(stream):
            await _send(stream, ALPN.encode())
            theirs = await _receive(stream)
            peer = own.judge(theirs)
            expected.check(peer)
            await _send(stream, own.certificate)
        return PlainStream(stream, ALPN, theirs), peer

    async def accept(self, stream: ByteStream, own: Credentials, *, door: bool) -> tuple[SecureStream, Peer | None]:
        with _handshake(stream):
            alpn = (await _receive(stream)).decode("ascii", "replace")
            if alpn != ALPN and not (door and alpn == ALPN_JOIN):
                raise NotTrusted(f"not our protocol: {alpn!r}")
            await _send(stream, own.certificate)
            theirs = await _receive(stream)
            if theirs and alpn != ALPN:
                raise NotTrusted(f"not our protocol: {alpn!r}")
            if not theirs and alpn != ALPN_JOIN:
                raise NotTrusted("no certificate")
            peer = own.judge(theirs) if theirs else None
        return PlainStream(stream, alpn, theirs or None), peer

    async def dial_door(self, stream: ByteStream) -> SecureStream:
        with _handshake(stream):
            await _send(stream, ALPN_JOIN.encode())
            theirs = await _receive(stream)
            await _send(stream, b"")
        return PlainStream(stream, ALPN_JOIN, theirs)


@contextmanager
def _handshake(stream: ByteStream) -> Iterator[None]:
    """Bound a handshake in time; close ``stream`` when it fails."""
    try:
        with trio.fail_after(HANDSHAKE_SECONDS_MAX):
            yield
    except trio.TooSlowError as error:
        stream.close()
        raise LinkLost(f"{stream.remote}: the handshake took longer than {HANDSHAKE_SECONDS_MAX:.0f} s") from error
    except BaseException:
        stream.close()
        raise


async def _send(stream: ByteStream, data: bytes) -> None:
    await stream.send_all(_MAGIC + len(data).to_bytes(4, "big") + data)


async def _receive(stream: ByteStream) -> bytes:
    header = await _exactly(stream, len(_MAGIC) + 4)
    size = int.from_bytes(header[len(_MAGIC) :], "big")
    if header[: len(_MAGIC)] != _MAGIC or size > CERTIFICATE_BYTES_MAX:
        raise NotTrusted(f"{stream.remote}: not a handshake")
    return await _exactly(stream, size)


async def _exactly(stream: ByteStream, size: int) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = await stream.receive_into(view)
        if count == 0:
            raise LinkLost(f"{stream.remote}: hung up during the handshake")
        view = view[count:]
    return bytes(data)
