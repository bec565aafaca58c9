"""Whether a line is full: how fast bytes leave now, beside the fastest they have left lately. Pure; every method
takes ``now`` in seconds.

Nobody tells us how wide our uplink is, or when others use it. But what it carried a moment ago it can carry again;
while it carries as much, whatever is sent in addition is taken from somebody. A fast line that is asked for little, but
steadily, looks the same; but there is nothing on its way most of the time.
"""

from __future__ import annotations

import math
from collections import deque

_WINDOW_SECONDS = 1.0
# The fastest is forgotten by half in so long: lines change.
_HALF_LIFE_SECONDS = 10.0
_FULL_SHARE = 0.75


class Flow:
    """Bytes that have left, by when."""

    __slots__ = ("_best", "_best_at", "_bytes", "_recent", "_since", "_under_way")

    def __init__(self, now: float) -> None:
        self._recent: deque[tuple[float, int]] = deque()
        self._bytes = 0
        self._best = 0.0
        self._best_at = now
        self._since = now
        self._under_way = 0

    def begun(self) -> None:
        """Something begins to leave."""
        self._under_way += 1

    def ended(self, count: int = 1) -> None:
        """So many of what had begun have left, or will not."""
        self._under_way -= count

    @property
    def idle(self) -> bool:
        """Whether nothing is leaving at this moment."""
        return not self._under_way

    def left(self, size_bytes: int, now: float) -> None:
        """So many bytes have left."""
        if not self._bytes:
            self._since = now  # nothing is known of a line that was idle
        self._recent.append((now, size_bytes))
        self._bytes += size_bytes
        rate = self.rate(now)
        # What leaves first goes into the kernel's buffers: that is no rate.
        if now - self._since >= 2 * _WINDOW_SECONDS and rate > self._best_now(now):
            self._best, self._best_at = rate, now

    def rate(self, now: float) -> float:
        """Return bytes per second over the last window."""
        while self._recent and now - self._recent[0][0] > _WINDOW_SECONDS:
            self._bytes -= self._recent.popleft()[1]
        return self._bytes / _WINDOW_SECONDS

    def seconds_for(self, size_bytes: int, now: float) -> float:
        """Return how long a full line takes for so much; infinity while nothing is known of it."""
        best = self._best_now(now)
        return size_bytes / best if best else math.inf

    def is_full(self, now: float) -> bool:
        """Whether as much leaves as the line is known to carry. While nothing is known: yes."""
        return self.rate(now) >= _FULL_SHARE * self._best_now(now)

    def _best_now(self, now: float) -> float:
        return self._best * math.pow(0.5, (now - self._best_at) / _HALF_LIFE_SECONDS)
