"""A storage node on a network of pipes, with real files and a real ledger in a folder, and peers that play uploaders.

``Site`` is the folder, the swarm and the wire; it outlives the node. ``Uploader`` speaks to the desk by hand and holds
whole files in memory, so that tests say exactly what is said.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import trio

from exchange.engine import Engine, Held
from exchange.possession import proof_digest
from protocol import messages as m
from protocol.bitmap import Bitmap
from protocol.errors import ChunkMissing
from protocol.ids import NodeAddress, Role, Tag
from protocol.manifest import Layout, Manifest
from runtime.keyring import Keyring, save_keyring
from runtime.link import Link
from runtime.links import Links
from runtime.places import Places
from runtime.seam import Disk, Runtime
from storage.app import StorageNode, opened
from storage.backends.choice import OpenWeb
from storage.config import StorageConfig
from support.memory_network import MemoryHub
from support.runtimes import memory_runtime
from support.swarm import SwarmCa

STORAGE_HOST = "10.0.0.1"
SECONDS_MAX = 300.0  # of the test's clock
M = TypeVar("M", bound=m.Message)


def some_bytes(size: int, seed: int = 1) -> bytes:
    """Pseudo-random bytes."""
    return random.Random(seed).randbytes(size)


def manifest_of(data: bytes) -> Manifest:
    """The manifest of a file."""
    layout = Layout.of_size(len(data))
    starts = [layout.offset_of(chunk) for chunk in range(layout.chunks)]
    return Manifest.of_digests(
        len(data), [hashlib.sha256(data[start : start + layout.chunk_bytes]).digest() for start in starts]
    )


class Site:
    """Where a storage node lives. ``disk`` and ``token`` may be replaced between starts."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.hub = MemoryHub(seed)
        self.swarm = SwarmCa(f"site {seed}")
        self.disk: Disk | None = None
        self.wrap: Callable[[Runtime], Runtime] = lambda runtime: runtime
        self.settings: dict[str, Any] = {"reserve_bytes": 0}
        self.open_web: OpenWeb | None = None
        self.address = NodeAddress(self.swarm.node("storage"), Role.STORAGE, ())
        self._starts = 0

    @property
    def data(self) -> Path:
        return self.config().data_folder

    def config(self) -> StorageConfig:
        return StorageConfig(
            places=Places.of(self.folder, "storage"), listen=f"{STORAGE_HOST}:0", mdns=False, **self.settings
        )

    def runtime(self) -> Runtime:
        self._starts += 1
        runtime = memory_runtime(self.hub.host(STORAGE_HOST), seed=self._starts, name="storage")
        if self.disk is not None:
            runtime = replace(runtime, disk=self.disk)
        return self.wrap(runtime)

    async def join(self, role: Role = Role.STORAGE) -> None:
        """Write the identity folder."""
        config = self.config()
        tracker = NodeAddress(self.swarm.node("tracker"), Role.TRACKER, ("10.0.0.99:4100",))
        keyring = Keyring(config.places.identity, self.swarm.credentials("storage", role), tracker)
        await save_keyring(memory_runtime(), keyring)

    @asynccontextmanager
    async def storage(self) -> AsyncIterator[StorageNode]:
        """Run the storage node while the block lasts; then it is stopped."""
        if not self.config().places.identity.exists():
            await self.join()
        async with (
            opened(self.config(), self.runtime(), open_web=self.open_web) as (node, recovered),
            trio.open_nursery() as nursery,
        ):
            await nursery.start(node.run, recovered)
            self.address = NodeAddress(node.node, Role.STORAGE, (node.listen,))
            yield node
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def uploader(self, name: str = "anna") -> AsyncIterator[Uploader]:
        """A peer with an engine of its own."""
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:2], "big")
        host = f"10.1.{number >> 8}.{number & 255}"
        runtime = memory_runtime(self.hub.host(host), name=name)
        uploader = Uploader(self, name, runtime)
        listener = await runtime.network.listen(host, 0)
        async with trio.open_nursery() as nursery:
            await nursery.start(uploader.engine.run)
            await nursery.start(uploader.links.run, (listener,))
            yield uploader
            nursery.cancel_scope.cancel()


class Uploader:
    """Holds files in memory (``files``, with the chunks it admits to), remembers all it hears."""

    def __init__(self, site: Site, name: str, runtime: Runtime) -> None:
        credentials = site.swarm.credentials(name)
        self.node = credentials.node
        self.files: dict[Tag, tuple[Manifest, bytes, Bitmap]] = {}
        self.requests: list[tuple[Tag, int, int]] = []  # blocks that were asked of us
        self.heard: list[m.Message] = []
        self.lies = False
        self.engine = Engine(runtime, self)
        self.links = Links(runtime, credentials, name=name, serve=self._serve)
        self._site = site
        self._request = 0
        self._news = trio.Event()
        self._sessions: dict[Link, trio.Event] = {}

    # --- holdings ---

    def has(self, data: bytes, chunks: list[int] | None = None) -> Manifest:
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
        self.requests.append((tag, chunk, offset))
        if tag not in self.files:
            raise ChunkMissing("gone")
        manifest, data, _ = self.files[tag]
        start = manifest.layout.offset_of(chunk) + offset
        target[:] = data[start : start + len(target)]
        if self.lies and len(target):
            target[0] ^= 255

    # --- what is said ---

    async def dial(self) -> Link:
        link = await self.links.dial(self._site.address)
        await self._sessions.setdefault(link, trio.Event()).wait()
        return link

    async def _serve(self, link: Link) -> None:
        async with self.engine.session(link) as session:
            self._sessions.setdefault(link, trio.Event()).set()
            async for message in link.messages():
                if not await session.handle(message):
                    self.heard.append(message)
                    self._news.set()
                    self._news = trio.Event()

    async def wait_heard(self, kind: type[M], wanted: Callable[[M], bool] = lambda _: True, *, after: int = 0) -> M:
        """Return the first such message after the first ``after`` ones of all we heard."""
        with trio.fail_after(SECONDS_MAX):
            while True:
                for message in self.heard[after:]:
                    if isinstance(message, kind) and wanted(message):
                        return message
                await self._news.wait()

    async def propose(self, link: Link, tag: Tag, size: int, name: str = "") -> m.DeskAnswer | m.Failure:
        self._request += 1
        request, after = self._request, len(self.heard)
        link.post(m.Propose(request=request, tag=tag, size_bytes=size, name=name))
        answer = await self.wait_heard(
            m.Message,
            lambda message: isinstance(message, m.DeskAnswer | m.Failure) and message.request == request,
            after=after,
        )
        assert isinstance(answer, m.DeskAnswer | m.Failure)
        return answer

    def send_manifest(self, link: Link, manifest: Manifest) -> None:
        link.post(m.ManifestIs(tag=manifest.tag, size_bytes=manifest.size_bytes, digests=manifest.joined_digests()))

    async def begin_put(self, link: Link, data: bytes, name: str = "", chunks: list[int] | None = None) -> Manifest:
        """Propose, say the manifest if it is wanted, and offer."""
        manifest = self.has(data, chunks)
        answer = await self.propose(link, manifest.tag, manifest.size_bytes, name)
        assert isinstance(answer, m.DeskAnswer), answer
        if answer.state is m.DeskState.NEW:
            self.send_manifest(link, manifest)
        self.engine.offer(link, manifest.tag)
        return manifest

    async def put(self, link: Link, data: bytes, name: str = "") -> m.JobClosed:
        """Put a whole file and wait until its job has closed."""
        after = len(self.heard)
        manifest = await self.begin_put(link, data, name)
        return await self.wait_closed(manifest.tag, after=after)

    async def wait_closed(self, tag: Tag, *, after: int = 0) -> m.JobClosed:
        return await self.wait_heard(m.JobClosed, lambda closed: closed.tag == tag, after=after)

    async def wait_stored(self, tag: Tag, count: int) -> set[int]:
        """Wait until so many chunks were acknowledged to us; return them."""
        await self.wait_heard(m.Stored, lambda _: len(self.acknowledged(tag)) >= count)
        return self.acknowledged(tag)

    def acknowledged(self, tag: Tag) -> set[int]:
        """Chunks we were told are stored."""
        stored = [message for message in self.heard if isinstance(message, m.Stored) and message.tag == tag]
        return {chunk for message in stored for chunk in message.chunks}

    async def prove(self, link: Link, answer: m.DeskAnswer, data: bytes, node: Any = None) -> m.Message:
        """Answer a challenge from ``data`` and return what is said to it."""
        pieces = [data[span.offset : span.offset + span.length] for span in answer.ranges]
        return await self.send_proof(
            link, answer.tag, proof_digest(answer.nonce, node or self.node, answer.tag, pieces)
        )

    async def send_proof(self, link: Link, tag: Tag, digest: bytes) -> m.Message:
        self._request += 1
        request, after = self._request, len(self.heard)
        link.post(m.Proof(request=request, tag=tag, digest=digest))

        def ends_it(message: m.Message) -> bool:
            if isinstance(message, m.JobClosed):
                return message.tag == tag
            return isinstance(message, m.Failure) and message.request == request

        return await self.wait_heard(m.Message, ends_it, after=after)
