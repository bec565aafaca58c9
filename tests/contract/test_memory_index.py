"""The index in memory keeps the contract of all indexes."""

from __future__ import annotations

import pytest
from contract.index_contract import IndexContract, MakeIndex

from tracker.index.memory import MemoryIndex


class TestMemoryIndex(IndexContract):
    @pytest.fixture
    def make(self) -> MakeIndex:
        return MemoryIndex
