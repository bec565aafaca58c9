"""The body of a request that is read piece by piece, while it leaves, and anew when the request is tried again."""

from __future__ import annotations

from collections.abc import AsyncIterator


class PiecedBody:
    """A ``WebBody`` (seam.py) of ``size_bytes``, of which ``piece`` reads at most ``piece_bytes`` at a time.

    A class, not a generator: a request that breaks off would leave a generator for the garbage collector to end.
    """

    def __init__(self, size_bytes: int, piece_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._piece_bytes = piece_bytes
        self._done = 0

    async def piece(self, offset: int, size_bytes: int) -> bytes:
        """Return so many bytes from ``offset`` on. What it raises ends the request."""
        raise NotImplementedError

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._done = 0
        return self

    async def __anext__(self) -> bytes:
        if self._done == self.size_bytes:
            raise StopAsyncIteration
        piece = await self.piece(self._done, min(self._piece_bytes, self.size_bytes - self._done))
        self._done += len(piece)
        return piece
