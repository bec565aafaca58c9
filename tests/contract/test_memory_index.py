"""The index in memory keeps the contract of all indexes."""

from __future__ import annotations

from contract.index_contract import IndexContract

from tracker.index.base import Index, Patience
from tracker.index.memory import MemoryIndex


class TestMemoryIndex(IndexContract):
    def make(self, patience: Patience) -> Index:
        return MemoryIndex(patience)
