"""The memory backend keeps the contract too: what is tested on it holds for the others."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from contract.backend_contract import BackendContract, some, tag_of

from protocol.errors import StorageFull
from protocol.ids import Tag
from runtime.seam import Runtime
from storage.backends.base import Backend
from storage.backends.memory import MemoryBackend


class TestMemoryBackend(BackendContract):
    objects: ClassVar[dict[Path, dict[Tag, bytes]]] = {}  # by the folder that another backend would use

    def make(self, runtime: Runtime, folder: Path, spool: Path) -> Backend:
        return MemoryBackend(runtime, self.objects.setdefault(folder, {}))

    async def test_no_room_changes_nothing(self, runtime: Runtime, spool: Path) -> None:
        backend = MemoryBackend(runtime, bytes_max=150)
        await self.put(backend, spool, some(100))
        (spool / "more").write_bytes(some(51))
        with pytest.raises(StorageFull):
            await backend.store(tag_of(some(51)), spool / "more", 51)
        assert (spool / "more").exists()
        assert len(backend.objects) == 1
