"""TLS 1.3 on both sides, over our own memory BIOs: large socket reads and writes, bytes straight into the buffer.

Decides nothing about who may come in: OpenSSL checks chain and dates, identity.judge the rest. On the dialling side
the judgement falls after their flight and before ours leaves, so that a wrong node learns nothing, not even our
certificate.

Considered: trio.SSLStream. Measured at half the rate, because each 16 KiB record costs it a fresh receive buffer.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast
from weakref import WeakKeyDictionary

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from protocol.errors import LinkLost, NotTrusted
from protocol.ids import NodeId, Role
from protocol.limits import ALPN, ALPN_JOIN, HANDSHAKE_SECONDS_MAX
from runtime.identity import Credentials, Peer
from runtime.seam import Buffer, ByteStream, Line, SecureStream

# What a quiet link gets by with, and what a socket delivers at once to a busy one.
_RECEIVE_BYTES_MIN = 16 * 1024
_RECEIVE_BYTES_MAX = 512 * 1024
_SEND_BYTES = 512 * 1024
# RFC 8446 §5.2: header, text, and what wraps it.
_RECORD_BYTES_MAX = 5 + 16 * 1024 + 256


@dataclass(frozen=True, slots=True)
class Expected:
    """Whom a dialler wants to meet. ``node`` None: any of that role; ``role`` None: any."""

    role: Role | None = None
    node: NodeId | None = None

    def check(self, peer: Peer) -> None:
        """Raise ``NotTrusted`` when ``peer`` is somebody else."""
        if self.node is not None and peer.node != self.node:
            raise NotTrusted(f"node {peer.node[:8]} answers where {self.node[:8]} was expected")
        if self.role is not None and peer.role is not self.role:
            raise NotTrusted(f"a {peer.role} answers where a {self.role} was expected")


class Security(Protocol):
    """How a raw stream becomes one whose other end is known. TLS in production; a plain exchange of certificates,
    under the same ``judge``, in simulations."""

    async def dial(self, stream: ByteStream, own: Credentials, expected: Expected) -> tuple[SecureStream, Peer]:
        """Raise ``NotTrusted`` or ``LinkLost``; the stream is closed then."""
        ...

    async def accept(self, stream: ByteStream, own: Credentials, *, door: bool) -> tuple[SecureStream, Peer | None]:
        """As ``dial``. With ``door`` a node without certificate comes in as None, to the join door's protocol only."""
        ...

    async def dial_door(self, stream: ByteStream) -> SecureStream:
        """Reach a tracker's join door without a certificate. The caller judges theirs before it says anything."""
        ...


class TlsStream:
    """A stream inside TLS."""

    def __init__(self, stream: ByteStream, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._stream = stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        # With a buffer, read() returns a count; typeshed only knows the other form.
        self._read = cast(Callable[[int, memoryview], int], self._tls.read)
        # A stream that fills it and returns in one go needs it for that moment only: all such share one.
        self._fills_at_once: bool = getattr(stream, "fills_at_once", False)
        self._received = _shared_buffer() if self._fills_at_once else memoryview(bytearray(_RECEIVE_BYTES_MIN))
        self._sending = trio.Lock()
        self._rest = memoryview(b"")  # left the BIO, and not us yet
        self._send_raw: Callable[[Buffer], int] | None = getattr(stream, "send_now", None)
        self._gather_raw: Callable[..., None] | None = getattr(stream, "gather", None)
        self._enough_bytes = 1
        self._sure_bytes = 0
        self.certificate: bytes | None = None

    @property
    def remote(self) -> str:
        """See ``seam.ByteStream``."""
        return self._stream.remote

    @property
    def line(self) -> Line | None:
        """See ``seam.ByteStream``."""
        return self._stream.line

    @property
    def alpn(self) -> str:
        """See ``seam.SecureStream``."""
        return self._tls.selected_alpn_protocol() or ""

    async def handshake(self, judge: Callable[[TlsStream], None]) -> None:
        """Shake hands; ``judge`` is called when the other side is known and before our last flight leaves.

        Raises:
            NotTrusted: they, we or ``judge`` refused.
            LinkLost: the connection broke, or took too long.
        """
        try:
            with trio.fail_after(HANDSHAKE_SECONDS_MAX):
                while True:
                    try:
                        self._tls.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        await self._flush()
                        await self._fill()
                self.certificate = self._tls.getpeercert(binary_form=True)
                judge(self)
                await self._flush()
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            raise LinkLost(f"{self.remote} hung up during the handshake") from error
        except ssl.SSLError as error:
            # The alert that tells them why lies in the outgoing BIO.
            # When they are gone already: the alert was a courtesy.
            with contextlib.suppress(LinkLost), trio.move_on_after(1, shield=True):
                await self._flush()
            raise NotTrusted(f"{self.remote}: {_reason(error)}") from error
        except trio.TooSlowError as error:
            raise LinkLost(f"{self.remote}: the handshake took longer than {HANDSHAKE_SECONDS_MAX:.0f} s") from error

    async def send_all(self, data: Buffer) -> None:
        """See ``seam.ByteStream``."""
        await self.send_parts((data,))

    async def send_parts(self, parts: Sequence[Buffer]) -> None:
        """See ``seam.SecureStream``."""
        async with self._sending:
            if self._rest:
                await self._flush()
            for part in parts:
                rest = memoryview(part)
                while rest:
                    try:
                        count = self._tls.write(rest[:_SEND_BYTES])
                    except ssl.SSLError as error:
                        raise LinkLost(f"{self.remote}: {_reason(error)}") from error
                    rest = rest[count:]
                    if self._outgoing.pending >= _SEND_BYTES:
                        await self._stream.send_all(self._outgoing.read())
            await self._flush()

    def send_now(self, data: Buffer) -> bool | None:
        """Send ``data`` without waiting. False: it is accepted, and ``await send_parts(())`` must send the rest. None:
        not now; nothing was accepted.

        Raises:
            LinkLost: the connection broke.
        """
        if self._send_raw is None or self._sending.locked() or self._rest or self._outgoing.pending:
            return None
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise LinkLost(f"{self.remote}: {_reason(error)}") from error
        records = self._outgoing.read()
        count = self._send_raw(records)
        self._rest = memoryview(records)[count:]
        return not self._rest

    def gather(self, enough_bytes: int, sure_bytes: int, *, at_once: bool = False) -> None:
        """Of the ``sure_bytes`` that will come wait for ``enough_bytes`` before anybody is woken. See ``TcpStream``."""
        self._enough_bytes = enough_bytes
        # Part of them may be here: in the BIO, or in OpenSSL as a record that is not whole, of which it does not tell.
        self._sure_bytes = sure_bytes - self._incoming.pending - self._tls.pending() - _RECORD_BYTES_MAX
        if at_once and self._gather_raw is not None:
            self._gather_raw(max(1, min(self._enough_bytes, self._sure_bytes)), at_once=True)

    async def receive_into(self, target: memoryview) -> int:
        """See ``seam.ByteStream``. Fills as much of ``target`` as has arrived: records are 16 KiB, blocks are not."""
        done = 0
        size = len(target)
        incoming = self._incoming
        if size and not (incoming.pending or incoming.eof or self._tls.pending() or self._outgoing.pending):
            # Nothing can be there: asking OpenSSL all the same costs an exception for each message.
            await self._fill()
        while True:
            try:
                while done < size:
                    count = self._read(size - done, target[done:])
                    if count == 0:
                        return done
                    done += count
                return done
            except ssl.SSLWantReadError:
                if done:
                    return done
            except ssl.SSLZeroReturnError:
                return done
            except ssl.SSLError as error:
                if done:
                    return done  # the next call meets the same error
                raise LinkLost(f"{self.remote}: {_reason(error)}") from error
            if self._outgoing.pending and not self._sending.locked():
                async with self._sending:
                    await self._flush()
            await self._fill()

    def close(self) -> None:
        """See ``seam.ByteStream``."""
        self._stream.close()

    async def _flush(self) -> None:
        if self._rest:
            rest, self._rest = self._rest, memoryview(b"")
            await self._stream.send_all(rest)
        while self._outgoing.pending:
            await self._stream.send_all(self._outgoing.read())

    async def _fill(self) -> None:
        if self._gather_raw is not None:
            self._gather_raw(max(1, min(self._enough_bytes, self._sure_bytes)))
        count = await self._stream.receive_into(self._received)
        self._sure_bytes -= count
        if count == 0:
            self._incoming.write_eof()
            return
        self._incoming.write(self._received[:count])
        if count == len(self._received) < _RECEIVE_BYTES_MAX and not self._fills_at_once:
            self._received = memoryview(bytearray(len(self._received) * 4))


_shared: trio.lowlevel.RunVar[memoryview] = trio.lowlevel.RunVar("receive buffer")


def _shared_buffer() -> memoryview:
    """Return the receive buffer of this event loop: between filling it and emptying it no other task may run."""
    try:
        return _shared.get()
    except LookupError:
        buffer = memoryview(bytearray(_RECEIVE_BYTES_MAX))
        _shared.set(buffer)
        return buffer


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_message:
        # Not only that something is wrong with a certificate: a clock that is wrong looks like a stranger otherwise.
        return f"certificate verify failed: {error.verify_message}"
    return (error.reason or error.strerror or str(error) or type(error).__name__).replace("_", " ").lower()


# A context costs a millisecond and holds the private key: made once for each Credentials, and gone with them.
_contexts: WeakKeyDictionary[Credentials, dict[tuple[bool, bool], ssl.SSLContext]] = WeakKeyDictionary()


def _member_context(own: Credentials, *, server_side: bool, door: bool) -> ssl.SSLContext:
    known = _contexts.setdefault(own, {})
    context = known.get((server_side, door))
    if context is None:
        context = known[server_side, door] = _make_context(own, server_side=server_side, door=door)
    return context


def _make_context(own: Credentials, *, server_side: bool, door: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The identity is the node id, which judge() compares; there are no host names here.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_OPTIONAL if door else ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=b"".join(own.authorities))
    context.set_alpn_protocols([ALPN, ALPN_JOIN] if door else [ALPN])
    if server_side:
        context.num_tickets = 0
    _load_identity(context, own)
    return context


def _load_identity(context: ssl.SSLContext, own: Credentials) -> None:
    # ssl reads keys from files only; an anonymous one in memory leaves nothing behind.
    chain = b"".join(
        x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in (own.certificate, own.authorities[0])
    )
    descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, own.private_pem() + chain)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


class TlsSecurity:
    """``Security`` by TLS 1.3."""

    async def dial(self, stream: ByteStream, own: Credentials, expected: Expected) -> tuple[SecureStream, Peer]:
        """See ``Security``."""
        met: list[Peer] = []

        def judge(tls: TlsStream) -> None:
            assert tls.certificate is not None
            peer = own.judge(tls.certificate)
            expected.check(peer)
            met.append(peer)

        tls = TlsStream(stream, _member_context(own, server_side=False, door=False), server_side=False)
        await _shake(tls, judge)
        return tls, met[0]

    async def accept(self, stream: ByteStream, own: Credentials, *, door: bool) -> tuple[SecureStream, Peer | None]:
        """See ``Security``."""
        met: list[Peer | None] = []

        def judge(tls: TlsStream) -> None:
            if tls.certificate is None:
                if not door or tls.alpn != ALPN_JOIN:
                    raise NotTrusted("no certificate")
                met.append(None)
            elif tls.alpn != ALPN:
                raise NotTrusted(f"not our protocol: {tls.alpn!r}")
            else:
                met.append(own.judge(tls.certificate))

        tls = TlsStream(stream, _member_context(own, server_side=True, door=door), server_side=True)
        await _shake(tls, judge)
        return tls, met[0]

    async def dial_door(self, stream: ByteStream) -> SecureStream:
        """See ``Security``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        # We know no authority yet, only its fingerprint; the caller compares it (join.py) before it says a word.
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([ALPN_JOIN])
        tls = TlsStream(stream, context, server_side=False)

        def judge(tls: TlsStream) -> None:
            if tls.alpn != ALPN_JOIN or tls.certificate is None:
                raise NotTrusted("no tracker of ours answers there")

        await _shake(tls, judge)
        return tls


async def _shake(tls: TlsStream, judge: Callable[[TlsStream], None]) -> None:
    try:
        await tls.handshake(judge)
    except BaseException:
        tls.close()
        raise
