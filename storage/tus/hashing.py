"""The manifest of a whole file on our disk: its chunks are hashed side by side, in threads, in pieces."""

from __future__ import annotations

import hashlib
from pathlib import Path

import trio

from protocol.errors import ChunkMissing, StorageBroken
from protocol.limits import MIB
from protocol.manifest import Layout, Manifest
from runtime.seam import File, Runtime

_PIECE_BYTES = 1 * MIB


async def manifest_of(runtime: Runtime, path: Path, size_bytes: int) -> Manifest:
    """Return the manifest of the first ``size_bytes`` of a file; one that is not there yet is made.

    Raises:
        ChunkMissing: it is shorter.
        StorageBroken: it cannot be read.
    """
    layout = Layout.of_size(size_bytes)
    file = await runtime.run_sync(runtime.disk.open_write, path)
    digests: list[bytes] = [b""] * layout.chunks
    failures: list[ChunkMissing | StorageBroken] = []
    chunks = iter(range(layout.chunks))

    async def work() -> None:
        for chunk in chunks:
            try:
                digests[chunk] = await runtime.run_sync(
                    _digest, file, layout.offset_of(chunk), layout.bytes_of(chunk), path
                )
            except (ChunkMissing, StorageBroken) as error:
                # Handed over by hand: a nursery would wrap it into a group.
                failures.append(error)
                return

    try:
        async with trio.open_nursery() as reading:
            for number in range(min(runtime.cores, layout.chunks)):
                reading.start_soon(work, name=f"hash {path.name[:8]} {number}")
    finally:
        file.close()
    if failures:
        raise failures[0]
    return Manifest.of_digests(size_bytes, digests)


def _digest(file: File, start: int, size: int, path: Path) -> bytes:
    state = hashlib.sha256()
    buffer = memoryview(bytearray(min(_PIECE_BYTES, size)))
    done = 0
    while done < size:
        try:
            count = file.read_into(buffer[: size - done], start + done)
        except OSError as error:
            raise StorageBroken(f"{path.name}: {error}") from error
        if not count:
            raise ChunkMissing(f"{path.name} ends before {start + size} bytes")
        state.update(buffer[:count])
        done += count
    return state.digest()
