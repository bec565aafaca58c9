"""A bounded pool of reused block buffers: back-pressure in bytes, and memory that stays warm.

Who wants a buffer waits for one; a link whose block has no buffer is not read, and TCP slows its sender down. First
come, first served: nobody overtakes a large request, or it would wait for ever.
"""

from __future__ import annotations

from collections import OrderedDict

import trio

from exchange.assembly import CELL_BYTES


class BufferPool:
    """At most ``bytes_max`` handed out at once (a single larger buffer is granted when nothing else is out)."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._out_bytes = 0
        self._free: dict[int, list[bytearray]] = {}  # capacity -> buffers
        self._free_bytes = 0
        self._queue: OrderedDict[trio.Event, int] = OrderedDict()  # turn -> capacity

    @property
    def out_bytes(self) -> int:
        """How much is handed out."""
        return self._out_bytes

    async def take(self, size_bytes: int) -> memoryview:
        """Return a buffer of exactly ``size_bytes``; first come, first served."""
        capacity = _capacity(size_bytes)
        if not self._queue and self._has_room(capacity):
            self._out_bytes += capacity
        else:
            turn = trio.Event()
            self._queue[turn] = capacity
            try:
                await turn.wait()
            except BaseException:
                if self._queue.pop(turn, None) is None:
                    self._out_bytes -= capacity  # its turn had come
                self._serve()
                raise
        free = self._free.get(capacity)
        if free:
            self._free_bytes -= capacity
            return memoryview(free.pop())[:size_bytes]
        return memoryview(bytearray(capacity))[:size_bytes]

    def give_back(self, buffer: memoryview) -> None:
        """Return a buffer that ``take`` gave; nobody may touch it any more."""
        whole = buffer.obj
        assert isinstance(whole, bytearray)
        buffer.release()
        self._out_bytes -= len(whole)
        if self._free_bytes + len(whole) <= self._bytes_max // 2:
            self._free.setdefault(len(whole), []).append(whole)
            self._free_bytes += len(whole)
        self._serve()

    def _has_room(self, capacity: int) -> bool:
        return not self._out_bytes or self._out_bytes + capacity <= self._bytes_max

    def _serve(self) -> None:
        """Let in whoever waits, as far as there is room; the room is theirs before they run."""
        while self._queue:
            turn, capacity = next(iter(self._queue.items()))
            if not self._has_room(capacity):
                return
            del self._queue[turn]
            self._out_bytes += capacity
            turn.set()


def _capacity(size_bytes: int) -> int:
    """Buffers come in powers of two of a cell, so that they can be used again."""
    capacity = CELL_BYTES
    while capacity < size_bytes:
        capacity *= 2
    return capacity
