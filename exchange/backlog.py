"""Blocks that have arrived and are not written yet, for several writers: who writes what next. Pure.

The blocks of a chunk are written in the order in which they came, and by one writer at a time: they are hashed on the
way. Of different chunks any writer takes any.
"""

from __future__ import annotations

from collections import deque

from exchange.spool import Write
from protocol.limits import MIB

# What a writer takes at once: enough to be worth waking a thread, little enough that its buffers soon come back and
# that another writer finds something to do.
BATCH_BYTES = 4 * MIB


class Backlog:
    """One file's blocks between its links and its writers."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[Write]] = {}  # by chunk; the one that has waited longest first
        self._taken: set[int] = set()  # chunks that somebody writes at

    def add(self, write: Write) -> bool:
        """A block has come; return whether a writer who has nothing to do could take it now."""
        self._waiting.setdefault(write.chunk, deque()).append(write)
        return write.chunk not in self._taken

    def take(self) -> list[Write]:
        """Return what to write next, in this order; empty: nothing waits that nobody else writes at. Until ``done`` is
        called with it, nobody else gets blocks of these chunks."""
        batch: list[Write] = []
        size_bytes = 0
        for chunk in [chunk for chunk in self._waiting if chunk not in self._taken]:
            blocks = self._waiting[chunk]
            while blocks and (not batch or size_bytes + len(blocks[0].data) <= BATCH_BYTES):
                size_bytes += len(blocks[0].data)
                batch.append(blocks.popleft())
            if not blocks:
                del self._waiting[chunk]
            if size_bytes >= BATCH_BYTES or blocks:
                break
        self._taken.update(write.chunk for write in batch)
        return batch

    def done(self, batch: list[Write]) -> None:
        """What ``take`` returned is written, or will never be."""
        self._taken.difference_update(write.chunk for write in batch)

    def forget(self) -> list[Write]:
        """Take out all that waits, and return it."""
        writes = [write for blocks in self._waiting.values() for write in blocks]
        self._waiting.clear()
        return writes
