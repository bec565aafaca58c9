"""The memory backend keeps the contract too: what is tested on it holds for the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from contract.backend_contract import BackendContract, some, tag_of

from protocol.errors import StorageFull
from protocol.ids import Tag
from runtime.seam import Runtime
from storage.backends.base import Backend
from storage.backends.memory import MemoryBackend


class TestMemoryBackend(BackendContract):
    def setup_method(self) -> None:
        self.objects: dict[Tag, bytes] = {}

    def make(self, runtime: Runtime, folder: Path, spool: Path) -> Backend:
        return MemoryBackend(runtime, self.objects)

    async def test_no_room_changes_nothing(self, runtime: Runtime, spool: Path) -> None:
        backend = MemoryBackend(runtime, self.objects, bytes_max=150)
        await self.put(backend, spool, some(100))
        (spool / "more").write_bytes(some(51))
        with pytest.raises(StorageFull):
            await backend.store(tag_of(some(51)), spool / "more", 51)
        assert (spool / "more").exists()
        assert len(self.objects) == 1
