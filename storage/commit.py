"""The last look before a file counts as stored: every chunk was read back and is what its digest says.

What came was verified, and read back as it was written (exchange/spool.py); the last look reads again what was seen
longer ago than a moment. Reading happens in threads, a chunk each, in pieces: memory does not depend on the file or the
chunk size. Decides nothing but right or rotten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

import trio

from exchange.spool import Spool
from protocol.errors import ChunkMissing
from protocol.limits import MIB
from protocol.manifest import Manifest
from runtime.seam import Runtime
from storage.backends.base import StoredObject

_PIECE_BYTES = 1 * MIB


async def rotten_in_spool(_runtime: Runtime, spool: Spool) -> list[int]:
    """Return the chunks of a complete spool file that are not what their digests say, in order.

    Raises:
        StorageBroken: one cannot be read.
    """
    return await spool.rotten()


async def rotten_in_object(runtime: Runtime, opened: StoredObject, manifest: Manifest) -> list[int]:
    """Return the chunks of an object that are not what their digests say, in order."""

    async def right(chunk: int) -> bool:
        return await is_right(runtime, opened, manifest, chunk)

    return await _rotten(runtime, manifest, right)


async def is_right(runtime: Runtime, opened: StoredObject, manifest: Manifest, chunk: int) -> bool:
    """Read one chunk of an object; whether it is what its digest says."""
    state = hashlib.sha256()
    start, size = manifest.layout.offset_of(chunk), manifest.layout.bytes_of(chunk)
    piece = memoryview(bytearray(min(_PIECE_BYTES, size)))
    done = 0
    try:
        while done < size:
            part = piece[: size - done]
            await opened.read_into(part, start + done)
            await runtime.run_sync(state.update, part)
            done += len(part)
    except ChunkMissing:
        return False
    return state.digest() == manifest.digests[chunk]


async def _rotten(runtime: Runtime, manifest: Manifest, right: Callable[[int], Awaitable[bool]]) -> list[int]:
    chunks = iter(range(manifest.layout.chunks))
    found: list[int] = []

    async def work() -> None:
        for chunk in chunks:
            if not await right(chunk):
                found.append(chunk)

    async with trio.open_nursery() as reading:
        for number in range(min(runtime.cores, manifest.layout.chunks)):
            reading.start_soon(work, name=f"verify {manifest.tag.root.hex()[:8]} {number}")
    return sorted(found)
