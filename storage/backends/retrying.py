"""A backend that asks again: any other one, behind the same interface, with patience in between.

Decides only when to ask again: after ``StorageUnavailable``, with growing, jittered pauses, as long as asking again
*soon* makes sense. What is permanent passes at once, and so does a wait that is longer than ours: who called us shows
it to people and asks later. Before anything is served (``prepare``, ``list``) there is nobody to show it to and nothing
else to do; there it asks until it is answered or the process is stopped.

All methods of a backend may be called again (storage/backends/base.py); ``store`` goes on where it was.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import structlog
import trio

from protocol.errors import StorageUnavailable
from protocol.ids import Tag
from protocol.manifest import Manifest
from runtime.seam import Runtime
from storage.backends.base import Backend, Grant, PartBody, Parts, StoredObject

T = TypeVar("T")

log = structlog.get_logger()

# 0.5 + 1 + 2 + 4 + 8 s at most: what takes a store longer than that is an outage, not a bad moment.
TRIES_MAX = 6
PAUSE_SECONDS_FIRST = 0.5
PAUSE_SECONDS_MAX = 30.0
# Longer waits are not ours to sit out.
WAIT_SECONDS_MAX = 10.0


class Patience:
    """Calls again. Draws its jitter from the runtime's generator."""

    def __init__(self, runtime: Runtime, tries_max: int = TRIES_MAX) -> None:
        self._random = runtime.random
        self._tries_max = tries_max

    async def call(self, what: str, work: Callable[[], Awaitable[T]], *, endless: bool = False) -> T:
        """Return what ``work`` returns at last. Raises its last ``StorageUnavailable``, and all else at once."""
        tries = 0
        while True:
            try:
                return await work()
            except StorageUnavailable as error:
                tries += 1
                wait = error.retry_after_seconds
                if not endless and (tries >= self._tries_max or wait > WAIT_SECONDS_MAX):
                    raise
                pause = min(PAUSE_SECONDS_MAX, PAUSE_SECONDS_FIRST * 2.0 ** min(tries - 1, 10))
                # Full jitter, but never sooner than the store asked for.
                pause = max(min(wait, PAUSE_SECONDS_MAX), self._random.uniform(0, pause))
                log.warning(
                    "storage is asked again", what=what, tries=tries, seconds=round(pause, 2), reason=str(error)
                )
            await trio.sleep(pause)


class RetryingObject:
    """An open object of a ``RetryingBackend``."""

    def __init__(self, inner: StoredObject, patience: Patience) -> None:
        self._inner = inner
        self._patience = patience

    @property
    def size_bytes(self) -> int:
        return self._inner.size_bytes

    async def read_into(self, target: memoryview, offset: int) -> None:
        await self._patience.call("read", lambda: self._inner.read_into(target, offset))

    async def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return await self._patience.call("read ranges", lambda: self._inner.read_ranges(ranges))

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class RetryingParts:
    """The parts of a ``RetryingBackend``."""

    def __init__(self, inner: Parts, patience: Patience) -> None:
        self._inner = inner
        self._patience = patience

    def takes(self, size_bytes: int) -> bool:
        return self._inner.takes(size_bytes)

    async def begin(self, tag: Tag) -> str:
        return await self._patience.call(f"begin {tag}", lambda: self._inner.begin(tag))

    async def put(self, tag: Tag, upload: str, chunk: int, body: PartBody, digest: bytes) -> str:
        return await self._patience.call(
            f"put part {chunk} of {tag}", lambda: self._inner.put(tag, upload, chunk, body, digest)
        )

    def grant(self, tag: Tag, upload: str, chunk: int, digest: bytes, valid_seconds: int) -> Grant:
        return self._inner.grant(tag, upload, chunk, digest, valid_seconds)

    async def find(self, manifest: Manifest, upload: str, chunk: int | None = None) -> dict[int, str]:
        return await self._patience.call(
            f"find parts of {manifest.tag}", lambda: self._inner.find(manifest, upload, chunk)
        )

    async def complete(self, manifest: Manifest, upload: str, words: Mapping[int, str]) -> None:
        await self._patience.call(f"complete {manifest.tag}", lambda: self._inner.complete(manifest, upload, words))

    async def is_whole(self, manifest: Manifest, upload: str | None) -> bool:
        return await self._patience.call(f"look for {manifest.tag}", lambda: self._inner.is_whole(manifest, upload))

    async def abort(self, tag: Tag, upload: str) -> None:
        await self._patience.call(f"abort {tag}", lambda: self._inner.abort(tag, upload))

    async def unfinished(self) -> list[tuple[Tag, str]]:
        return await self._patience.call("list uploads", self._inner.unfinished)


class RetryingBackend:
    """``inner``, asked again where that may help."""

    def __init__(self, runtime: Runtime, inner: Backend, *, tries_max: int = TRIES_MAX) -> None:
        self._inner = inner
        self._patience = Patience(runtime, tries_max)
        self.parts = None if inner.parts is None else RetryingParts(inner.parts, self._patience)

    async def prepare(self) -> None:
        await self._patience.call("prepare", self._inner.prepare, endless=True)

    async def store(self, tag: Tag, spool: Path, size_bytes: int) -> None:
        await self._patience.call(f"store {tag}", lambda: self._inner.store(tag, spool, size_bytes))

    async def take_back(self, tag: Tag, spool: Path, size_bytes: int) -> None:
        await self._patience.call(f"take back {tag}", lambda: self._inner.take_back(tag, spool, size_bytes))

    async def open(self, tag: Tag) -> RetryingObject:
        opened = await self._patience.call(f"open {tag}", lambda: self._inner.open(tag))
        return RetryingObject(opened, self._patience)

    async def size_of(self, tag: Tag) -> int | None:
        return await self._patience.call(f"size of {tag}", lambda: self._inner.size_of(tag))

    async def delete(self, tag: Tag) -> None:
        await self._patience.call(f"delete {tag}", lambda: self._inner.delete(tag))

    async def list(self) -> dict[Tag, int]:
        return await self._patience.call("list", self._inner.list, endless=True)

    async def room_bytes(self) -> int:
        return await self._patience.call("room", self._inner.room_bytes)
