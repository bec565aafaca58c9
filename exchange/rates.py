"""How fast a source delivers while it has something to deliver, and how soon it answers. Pure; every method takes
``now`` in seconds."""

from __future__ import annotations

import math

# Old enough to be smooth, young enough to notice that a line has changed.
_MEMORY_SECONDS = 2.0
# A response time is forgotten after one to two of these: routes change.
_WINDOW_SECONDS = 30.0


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


class ResponseMeter:
    """The shortest time from request to block within the last 30 to 60 seconds: at least a round trip.

    While a source always has work waiting, a block answers later than a round trip, and the longer the more waits; so
    the shortest time creeps up to what is kept waiting. Whoever sizes a pipeline by it sets a limit.
    """

    __slots__ = ("_before", "_since", "_this")

    def __init__(self) -> None:
        self._this = math.inf
        self._before = math.inf
        self._since = -math.inf

    def took(self, seconds: float, now: float) -> None:
        """Take note of a block that came ``seconds`` after its request."""
        if now - self._since >= _WINDOW_SECONDS:
            self._before, self._this, self._since = self._this, math.inf, now
        self._this = min(self._this, seconds)

    @property
    def seconds(self) -> float | None:
        """The shortest time, or None before the first block."""
        shortest = min(self._this, self._before)
        return None if shortest == math.inf else shortest
