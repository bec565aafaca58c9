"""To how many receivers something should leave at a time. Pure; every method takes ``now`` in seconds.

To few: what one gets is whole sooner then. But receivers have lines too, and several narrow ones fill a wide one only
together. Nobody tells us, so it is tried: one more once in a while, and more as long as more leaves by it.
"""

from __future__ import annotations

import math

# With two or three, a line of 100 Mbit/s has idle moments when the receivers are as narrow, and filled by others.
AT_LEAST = 5
AT_LEAST_WIDE = 8  # where the line is likely to be wider than theirs
# What leaves is measured over a second; so long after a change it is known.
LOOK_SECONDS = 1.2
REST_SECONDS = 8.0
_GAIN = 1.1


class Breadth:
    """A count that finds its size."""

    __slots__ = ("_before", "_count", "_look_at", "_rate")

    def __init__(self) -> None:
        self._count = AT_LEAST
        self._before: int | None = None  # while more are tried: how many it were
        self._rate = 0.0  # what left by so many, bytes per second
        self._look_at = math.inf

    def count(self, now: float, bytes_per_second: float) -> int:
        """Return how many it may be now. To be asked when so many are not enough for those who wait."""
        if self._look_at == math.inf:
            self._look_at = now + LOOK_SECONDS
        if now < self._look_at:
            return self._count
        if self._before is not None and bytes_per_second < _GAIN * self._rate:
            self._count, self._before = self._before, None
            self._look_at = now + REST_SECONDS
            return self._count
        self._rate, self._before = bytes_per_second, self._count
        self._count += max(1, self._count // 2)
        self._look_at = now + LOOK_SECONDS
        return self._count
