"""An object read into a spool file: for backends that cannot simply rename one into the other."""

from __future__ import annotations

from pathlib import Path

from protocol.errors import ChunkMissing
from protocol.ids import Tag
from protocol.limits import MIB
from runtime.seam import Runtime
from storage.backends.base import Backend, StoredObject

_PIECE_BYTES = 1 * MIB


async def take_back_by_reading(backend: Backend, runtime: Runtime, tag: Tag, spool: Path, size_bytes: int) -> None:
    """Do as ``Backend.take_back`` says."""
    try:
        async with await backend.open(tag) as opened:
            await _read_into_spool(runtime, opened, spool, size_bytes)
    except ChunkMissing:
        if await _has_size(runtime, spool, size_bytes):
            return
        raise
    await backend.delete(tag)


async def _read_into_spool(runtime: Runtime, opened: StoredObject, spool: Path, size_bytes: int) -> None:
    """Fill ``spool`` with what can be read of an object, durably; what cannot stays empty there."""
    file = await runtime.run_sync(runtime.disk.open_write, spool)
    try:
        await runtime.run_sync(file.resize, size_bytes)
        for start in range(0, size_bytes, _PIECE_BYTES):
            piece = bytearray(min(_PIECE_BYTES, size_bytes - start))
            try:
                await opened.read_into(memoryview(piece), start)
            except ChunkMissing:
                continue
            await runtime.run_sync(file.write, bytes(piece), start)
        await runtime.run_sync(file.sync)
    finally:
        file.close()
    await runtime.run_sync(runtime.disk.sync_folder, spool.parent)


async def _has_size(runtime: Runtime, spool: Path, size_bytes: int) -> bool:
    """Whether ``spool`` is there with this size."""
    try:
        return (await runtime.run_sync(runtime.disk.status, spool)).size_bytes == size_bytes
    except FileNotFoundError:
        return False
