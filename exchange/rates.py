"""How fast a source delivers while it has something to deliver. Pure; every method takes ``now`` in seconds."""

from __future__ import annotations

import math

# Old enough to be smooth, young enough to notice that a line has changed.
_MEMORY_SECONDS = 2.0


class RateMeter:
    """Bytes per busy second, forgetting with a time constant of two busy seconds.

    Idle time does not count: a source that was asked for nothing is not slow.
    """

    __slots__ = ("_bytes", "_last", "_seconds")

    def __init__(self) -> None:
        self._bytes = 0.0
        self._seconds = 0.0
        self._last = -math.inf

    def delivered(self, size_bytes: int, asked_at: float, now: float) -> None:
        """Take note of a delivery that was asked for at ``asked_at``."""
        busy_seconds = max(0.0, now - max(self._last, asked_at))
        self._last = now
        decay = math.exp(-busy_seconds / _MEMORY_SECONDS)
        self._bytes = self._bytes * decay + size_bytes
        self._seconds = self._seconds * decay + busy_seconds

    @property
    def bytes_per_second(self) -> float | None:
        """The rate, or None before anything was delivered."""
        if self._seconds <= 0:
            return None
        return self._bytes / self._seconds
