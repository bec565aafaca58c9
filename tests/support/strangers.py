"""Whoever is not one of our programs: knockers without manners, members who say what a test tells them, and a liar.

``knock`` and ``tls_socket`` use plain ``ssl`` and check nothing of the other side, so that a refusal is seen to be the
other side's. ``Member`` stands on our own runtime with an identity that joined like any other. Decides nothing about
what is right; that is the tests' business.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from exchange.engine import Engine, Held
from protocol import messages as m
from protocol.bitmap import Bitmap
from protocol.codec import decode_untrusted
from protocol.connection import Connection
from protocol.errors import ChunkMissing
from protocol.ids import NodeAddress, Role, Tag, parse_address
from protocol.limits import ALPN, PROTOCOL_VERSION
from protocol.manifest import Layout, Manifest
from runtime.heartbeat import BeatStatus, TrackerLink
from runtime.identity import Credentials
from runtime.inventory import InventoryBook
from runtime.keyring import Keyring, load_keyring
from runtime.link import Link, running
from runtime.links import Links
from runtime.real import real_runtime
from runtime.tls import Expected

SECONDS_MAX = 15.0


# --- without manners ---


@contextlib.contextmanager
def tls_socket(address: str, credentials: Credentials | None, alpn: str = ALPN) -> Iterator[ssl.SSLSocket]:
    """Shake hands with ``address`` as whoever ``credentials`` say, checking nothing. ``None``: without certificate.

    Raises ``OSError`` (``ssl.SSLError`` is one) when they refuse so early that we notice.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([alpn])
    if credentials is not None:
        with tempfile.NamedTemporaryFile() as file:
            certificate = x509.load_der_x509_certificate(credentials.certificate).public_bytes(Encoding.PEM)
            file.write(credentials.private_pem() + certificate)
            file.flush()
            context.load_cert_chain(file.name)
    with socket.create_connection(parse_address(address), SECONDS_MAX) as raw, context.wrap_socket(raw) as tls:
        yield tls


def knock(address: str, credentials: Credentials | None, alpn: str = ALPN) -> bytes:
    """Shake hands and return the first application bytes they say to us: none when they refused us.

    The listener speaks first, and only after it has judged us: one byte would mean that we were let in.
    """
    try:
        with tls_socket(address, credentials, alpn) as tls:
            return tls.recv(65536)
    except OSError:
        return b""


def receive_exactly(tls: socket.socket, count: int) -> bytes:
    """Return ``count`` bytes, fewer when they hung up."""
    received = bytearray()
    with contextlib.suppress(OSError):
        while len(received) < count and (data := tls.recv(count - len(received))):
            received += data
    return bytes(received)


def receive_message(tls: socket.socket) -> m.Message | None:
    """Return the next message; None when they hung up."""
    header = receive_exactly(tls, 4)
    if len(header) < 4:
        return None
    body = receive_exactly(tls, int.from_bytes(header, "big"))
    return decode_untrusted(body)


def is_hung_up(tls: socket.socket, seconds: float = SECONDS_MAX) -> bool:
    """Whether they hang up within ``seconds``; what they say before is skipped."""
    tls.settimeout(seconds)
    try:
        while tls.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


# --- members ---


def hello(name: str = "stranger", *, version: int = PROTOCOL_VERSION, features: tuple[str, ...] = ()) -> m.Hello:
    """Return a Hello of somebody who does not listen."""
    return m.Hello(version=version, features=features, name=name, agent="test/0", addresses=())


def keyring_of(folder: Path) -> Keyring:
    """Return the identity in ``folder``, for tests that run no loop."""
    return trio.run(load_keyring, real_runtime(), folder)


@asynccontextmanager
async def link_to(
    credentials: Credentials, address: str, *, role: Role | None = None, greeting: m.Hello | None = None
) -> AsyncIterator[Link]:
    """Dial ``address`` and exchange Hello; the link lives while the block lasts.

    Raises ``NotTrusted`` or ``LinkLost``.
    """
    runtime = real_runtime()
    raw = await runtime.network.dial(*parse_address(address))
    stream, peer = await runtime.security.dial(raw, credentials, Expected(role=role))
    link = Link(stream, peer, Connection(credentials.role, peer.role), dialled=True)
    try:
        await link.open(greeting or hello())
    except BaseException:
        stream.close()
        raise
    async with running(link):
        yield link


async def next_message(link: Link, *kinds: type[m.Message]) -> m.Message:
    """Return the next message of one of ``kinds``; others are skipped."""
    with trio.fail_after(SECONDS_MAX):
        while True:
            message = await link.receive()
            assert message is not None, f"they hung up: {link.lost}"
            if isinstance(message, kinds):
                return message


# --- a member that holds what it does not hold ---


class FalseHoldings:
    """Claims to hold all of ``manifest`` and serves ``lie`` instead. A full member of ``exchange.engine.Holdings``."""

    def __init__(self, manifest: Manifest, lie: int = 0xEE) -> None:
        self._manifest = manifest
        self._lie = lie
        self.blocks_served = 0

    def holding(self, tag: Tag) -> Held | None:
        if tag != self._manifest.tag:
            return None
        return Held(self._manifest.layout, Bitmap.full(self._manifest.layout.chunks), own=True)

    async def manifest(self, tag: Tag) -> Manifest | None:
        return self._manifest if tag == self._manifest.tag else None

    async def read_block(self, tag: Tag, chunk: int, offset: int, target: memoryview) -> None:
        if tag != self._manifest.tag:
            raise ChunkMissing(str(tag))
        self.blocks_served += 1
        target[:] = bytes([self._lie]) * len(target)


class FalsePeer:
    """A peer on our own runtime: it beats, tells its inventory and obeys orders like a daemon, with other holdings."""

    def __init__(self, keyring: Keyring, holdings: FalseHoldings, held: m.Holding) -> None:
        runtime = real_runtime()
        self.orders: list[m.Order] = []
        self.holdings = holdings
        self._runtime = runtime
        self._engine = Engine(runtime, holdings)
        self._links = Links(runtime, keyring.credentials, name="liar", serve=self._serve)
        self._book = InventoryBook(runtime.random.getrandbits(50))
        self._book.hold(held)
        self._tracker = TrackerLink(runtime, self._links, keyring.trackers, BeatStatus, self._book, self._on_message)
        self._nursery: trio.Nursery | None = None
        self._open: dict[Link, None] = {}
        self._opened = trio.Condition()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until cancelled; started once the tracker knows us."""
        listener = await self._runtime.network.listen("127.0.0.1", 0)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._engine.run)
            await nursery.start(self._links.run, (listener,))
            nursery.start_soon(self._tracker.run)
            with trio.fail_after(SECONDS_MAX):
                await self._tracker.wait_connected()
            task_status.started()

    async def offer_to(self, target: NodeAddress, tag: Tag) -> None:
        """Dial ``target`` and offer ``tag`` without being asked."""
        link = await self._links.dial(target)
        async with self._opened:
            while link not in self._open:
                await self._opened.wait()
        self._engine.offer(link, tag)

    def _on_message(self, message: m.Message) -> None:
        if isinstance(message, m.Order) and self._nursery is not None:
            self.orders.append(message)
            self._nursery.start_soon(self.offer_to, message.target, message.tag)

    async def _serve(self, link: Link) -> None:
        if link.peer.role is Role.TRACKER:
            await self._tracker.serve(link)
            return
        async with self._engine.session(link) as session:
            async with self._opened:
                self._open[link] = None
                self._opened.notify_all()
            async for message in link.messages():
                await session.handle(message)


def holding_of(manifest: Manifest, name: str) -> m.Holding:
    """Return the inventory entry of somebody who has all of it."""
    return m.Holding(tag=manifest.tag, size_bytes=manifest.size_bytes, names=(name,), since=1, bitmap=b"")


def manifest_of(path: Path) -> Manifest:
    """Return the manifest of a file."""
    size_bytes = path.stat().st_size
    layout = Layout.of_size(size_bytes)
    with path.open("rb") as file:
        digests = [hashlib.sha256(file.read(layout.chunk_bytes)).digest() for _ in range(layout.chunks)]
    return Manifest.of_digests(size_bytes, digests)
