"""Nodes with engines, linked in memory: what they hold, what it is worth, and a fetch at one of them."""

from __future__ import annotations

import hashlib
import random
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from exchange.engine import Engine, Held
from exchange.spool import Spool
from protocol.bitmap import Bitmap
from protocol.connection import Connection
from protocol.errors import ChunkMissing, StorageUnavailable
from protocol.ids import NodeId, Role, Tag, node_id_from_bytes
from protocol.manifest import Layout, Manifest
from protocol.messages import Hello
from runtime.identity import Peer
from runtime.link import Link, running
from runtime.real import real_runtime


def node(number: int) -> NodeId:
    return node_id_from_bytes(hashlib.sha256(b"%d" % number).digest())


class PipeStream:
    """A SecureStream over trio's memory streams; the handshake is somebody else's test."""

    certificate = None
    alpn = "upswarm/1"

    def __init__(self, stream: trio.abc.Stream, remote: str) -> None:
        self._stream = stream
        self.remote = remote
        self.line = None

    async def send_all(self, data) -> None:
        await self.send_parts((data,))

    async def send_parts(self, parts) -> None:
        from protocol.errors import LinkLost

        try:
            for part in parts:
                await self._stream.send_all(bytes(part))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise LinkLost("broken") from error

    async def receive_into(self, target: memoryview) -> int:
        from protocol.errors import LinkLost

        try:
            data = await self._stream.receive_some(min(len(target), 65536))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise LinkLost("broken") from error
        target[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.send_stream.close()
        self._stream.receive_stream.close()


class Shelf:
    """Holdings in memory: whole or partial files, maybe lying."""

    def __init__(self) -> None:
        self.files: dict[Tag, tuple[Manifest, bytes, Bitmap]] = {}
        self.lies = False
        self.away = 0  # so many reads find the store away
        self.read_bytes = 0

    def put(self, data: bytes, chunks: list[int] | None = None) -> Manifest:
        manifest = manifest_of(data)
        count = manifest.layout.chunks
        bitmap = Bitmap.full(count) if chunks is None else Bitmap.of(count, chunks)
        self.files[manifest.tag] = (manifest, data, bitmap)
        return manifest

    def holding(self, tag: Tag) -> Held | None:
        known = self.files.get(tag)
        return Held(known[0].layout, known[2], True) if known else None

    async def manifest(self, tag: Tag) -> Manifest | None:
        known = self.files.get(tag)
        return known[0] if known else None

    async def read_block(self, tag: Tag, chunk: int, offset: int, target: memoryview) -> None:
        self.read_bytes += len(target)
        if tag not in self.files:
            raise ChunkMissing("gone")
        if self.away:
            self.away -= 1
            raise StorageUnavailable("not now")
        manifest, data, _ = self.files[tag]
        start = manifest.layout.offset_of(chunk) + offset
        target[:] = data[start : start + len(target)]
        if self.lies and len(target):
            target[0] ^= 255


def manifest_of(data: bytes) -> Manifest:
    layout = Layout.of_size(len(data))
    digests = [
        hashlib.sha256(data[layout.offset_of(i) : layout.offset_of(i) + layout.bytes_of(i)]).digest()
        for i in range(layout.chunks)
    ]
    return Manifest.of_digests(len(data), digests)


def some_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class Node:
    def __init__(self, number: int, **budgets) -> None:
        self.id = node(number)
        self.shelf = Shelf()
        self.engine = Engine(real_runtime(), self.shelf, **budgets)
        self.heard: list = []
        self.near = False  # its links lead to nodes on the LAN


@asynccontextmanager
async def swarm_of(*nodes: Node):
    """Run the engines of ``nodes``; yields connect(a, b) -> (link at a, link at b)."""
    async with trio.open_nursery() as nursery:
        for one in nodes:
            await nursery.start(one.engine.run)

        async def serve(at: Node, link: Link, task_status=trio.TASK_STATUS_IGNORED) -> None:
            async with running(link), at.engine.session(link, near=at.near) as session:
                task_status.started()
                try:
                    async for message in link.messages():
                        if not await session.handle(message):
                            at.heard.append(message)
                except Exception as error:
                    at.heard.append(error)

        async def connect(a: Node, b: Node) -> tuple[Link, Link]:
            left, right = trio.testing.memory_stream_pair()
            hello = Hello(version=1, features=(), name="n", agent="t", addresses=())
            at_a = Link(
                PipeStream(left, "b"), Peer(b.id, Role.PEER, "s"), Connection(Role.PEER, Role.PEER), dialled=True
            )
            at_b = Link(
                PipeStream(right, "a"), Peer(a.id, Role.PEER, "s"), Connection(Role.PEER, Role.PEER), dialled=False
            )
            async with trio.open_nursery() as opening:
                opening.start_soon(at_a.open, hello)
                opening.start_soon(at_b.open, hello)
            await nursery.start(serve, a, at_a)
            await nursery.start(serve, b, at_b)
            return at_a, at_b

        with trio.fail_after(30):
            yield connect
        nursery.cancel_scope.cancel()


async def fetch_from(getter: Node, holder: Node, manifest: Manifest, path: Path) -> None:
    """Fetch a whole file over one link, and see it through to its end."""
    async with swarm_of(holder, getter) as connect:
        link, _ = await connect(getter, holder)
        swarm, spool, _ = await fetch(getter, manifest, path)
        getter.engine.ask(link, manifest.tag)
        await swarm.run()
        swarm.close()
        await spool.aclose()


async def fetch(at: Node, manifest: Manifest, path: Path, held: Bitmap | None = None):
    spool = await Spool.open(at.engine.runtime, path, manifest)
    verified: list[int] = []
    swarm = at.engine.fetch(
        manifest, spool, held or Bitmap(manifest.layout.chunks), lambda chunk, makers: verified.append(chunk)
    )
    return swarm, spool, verified
