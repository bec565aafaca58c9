"""Reading objects of an object store: ranged GETs, and a small cache of pieces in front of them.

A block of an exchange is smaller than a piece, and crowds ask for neighbouring blocks at nearly the same time: each
piece is fetched once and serves all of them. Proofs read a few hundred small ranges far apart; those are fetched as
they are, neighbours together.

What is read is bound to the object that was opened (its ETag): another one under the same key is ``ChunkMissing``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import trio

from protocol.errors import ChunkMissing, StorageError
from protocol.limits import KIB, MIB
from storage.backends.s3client import Found, S3Client
from storage.shared import Turns

T = TypeVar("T")

PIECE_BYTES = 2 * MIB
PIECES_MAX = 24
# Reads under way at once, over all objects: together with the pieces this bounds connections and memory.
READS_MAX = 16
# Two ranges this near are cheaper to fetch as one than as two requests.
_GAP_BYTES_MAX = 16 * KIB


class S3Reader:
    """Pieces of all objects of a backend."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self._pieces: OrderedDict[tuple[str, str, int], bytes] = OrderedDict()
        self._turns: Turns[tuple[str, str, int]] = Turns()
        self._reads = trio.CapacityLimiter(READS_MAX)

    async def piece(self, key: str, found: Found, number: int) -> bytes:
        """Return a piece of an object, from the cache or the store."""
        name = (key, found.etag, number)
        async with self._turns.of(name):
            known = self._pieces.get(name)
            if known is None:
                start = number * PIECE_BYTES
                target = memoryview(bytearray(min(PIECE_BYTES, found.size_bytes - start)))
                await self.fetch(key, found, start, target)
                known = self._pieces[name] = bytes(target)
                while len(self._pieces) > PIECES_MAX:
                    self._pieces.popitem(last=False)
            else:
                self._pieces.move_to_end(name)
        return known

    async def fetch(self, key: str, found: Found, offset: int, target: memoryview) -> None:
        """Fill ``target`` from the store."""
        async with self._reads:
            await self._client.read_into(key, found.etag, offset, target)


class S3Object:
    """An open object; nothing is held open for it."""

    def __init__(self, reader: S3Reader, key: str, found: Found) -> None:
        self.size_bytes = found.size_bytes
        self._reader = reader
        self._key = key
        self._found = found

    async def read_into(self, target: memoryview, offset: int) -> None:
        self._check(offset, len(target))
        done = 0
        while done < len(target):
            number, start = divmod(offset + done, PIECE_BYTES)
            piece = await self._reader.piece(self._key, self._found, number)
            part = memoryview(piece)[start : start + len(target) - done]
            target[done : done + len(part)] = part
            done += len(part)

    async def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        for offset, length in ranges:
            self._check(offset, length)
        spans = _spans(ranges)
        data: dict[int, bytes] = {}

        async def fetch(span: tuple[int, int]) -> None:
            target = memoryview(bytearray(span[1]))
            await self._reader.fetch(self._key, self._found, span[0], target)
            data[span[0]] = bytes(target)

        await at_once(fetch, spans, READS_MAX)
        return [_cut(offset, length, data) for offset, length in ranges]

    async def aclose(self) -> None:
        """Nothing is held."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size_bytes:
            raise ChunkMissing(f"object {self._key} ends within {length} bytes at {offset}")


async def at_once(work: Callable[[T], Awaitable[None]], things: Sequence[T], tasks_max: int) -> None:
    """Do ``work`` for all ``things``, some at once. After an error none is begun any more, those under way are ended as
    they end, and the first error is raised.

    A part of many megabytes that is nearly there must not be lost because another one was refused.
    """
    waiting = iter(things)
    errors: list[StorageError] = []

    async def worker() -> None:
        for thing in waiting:
            try:
                await work(thing)
            except StorageError as error:
                errors.append(error)
            if errors:
                return

    async with trio.open_nursery() as workers:
        for _ in range(min(tasks_max, len(things))):
            workers.start_soon(worker)
    if errors:
        raise errors[0]


def _spans(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return (offset, length) that cover all ranges, neighbours joined as long as they fit a piece."""
    spans: list[tuple[int, int]] = []
    for offset, length in sorted(set(ranges)):
        if not length:
            continue
        if spans:
            start, size = spans[-1]
            end = max(start + size, offset + length)
            inside = offset == start or end == start + size
            if inside or (offset <= start + size + _GAP_BYTES_MAX and end - start <= PIECE_BYTES):
                spans[-1] = (start, end - start)
                continue
        spans.append((offset, length))
    return spans


def _cut(offset: int, length: int, data: dict[int, bytes]) -> bytes:
    if not length:
        return b""
    start = max(start for start in data if start <= offset and offset + length <= start + len(data[start]))
    return data[start][offset - start : offset - start + length]
