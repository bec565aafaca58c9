"""Whether a line is full: how fast bytes leave now, beside the fastest they have left lately. Pure; every method
takes ``now`` in seconds.

Nobody tells us how wide our uplink is, or when others use it. But what it carried a moment ago it can carry again;
while it carries as much, whatever is sent in addition is taken from somebody. Unless nothing ever waits for it: a fast
line that is asked for little, but steadily, is not full.
"""

from __future__ import annotations

import math
from collections import deque

_WINDOW_SECONDS = 1.0
# The fastest is forgotten by half in so long: lines change.
_HALF_LIFE_SECONDS = 10.0
_FULL_SHARE = 0.75
# On a full line something is on its way all the time. Less than that, and there is room for more: a fast line would
# otherwise be held at this share of what it carries.
_BUSY_SHARE = 0.95
_KNOWN_SECONDS = 0.2
# Two copies can leave of what comes. A little less may be measured; but of a line that carries one, kernels take more
# than that at first.
_OUTRUN_SHARE = 1.85


class Flow:
    """Bytes that have left, by when."""

    __slots__ = ("_best", "_best_at", "_busy", "_busy_since", "_bytes", "_recent", "_since", "_under_way")

    def __init__(self, now: float) -> None:
        self._recent: deque[tuple[float, int]] = deque()
        self._bytes = 0
        self._best = 0.0
        self._best_at = now
        self._since = now
        self._under_way = 0
        self._busy_since = now
        self._busy: deque[tuple[float, float]] = deque()  # from, to

    def begun(self, now: float) -> None:
        """Something begins to leave."""
        if not self._under_way:
            self._busy_since = now
        self._under_way += 1

    def ended(self, now: float, count: int = 1) -> None:
        """So many of what had begun have left, or will not."""
        if count:
            self._under_way -= count
            if not self._under_way:
                self._busy.append((self._busy_since, now))

    def busy_share(self, now: float) -> float:
        """Return in which part of the last window something was leaving."""
        begin = now - _WINDOW_SECONDS
        while self._busy and self._busy[0][1] <= begin:
            self._busy.popleft()
        seconds = sum(until - max(since, begin) for since, until in self._busy)
        if self._under_way:
            seconds += now - max(self._busy_since, begin)
        # Of a line that was idle until a moment ago nothing is known: it may be full from now on.
        oldest = self._busy[0][0] if self._busy else self._busy_since
        known_seconds = min(_WINDOW_SECONDS, now - oldest)
        return 1.0 if known_seconds < _KNOWN_SECONDS else seconds / known_seconds

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

    def is_idle(self, now: float) -> bool:
        """Whether nothing has left for a while, and nothing is about to."""
        return not self._under_way and self.rate(now) == 0.0

    def is_full(self, now: float) -> bool:
        """Whether as much leaves as the line is known to carry. While nothing is known: yes."""
        return self.rate(now) >= _FULL_SHARE * self._best_now(now) and self.busy_share(now) >= _BUSY_SHARE

    def outruns(self, rate: float, now: float) -> bool:
        """Whether clearly more than ``rate`` bytes per second can leave. While nothing is known: yes."""
        return not self._best or self._best_now(now) > _OUTRUN_SHARE * rate

    def _best_now(self, now: float) -> float:
        return self._best * math.pow(0.5, (now - self._best_at) / _HALF_LIFE_SECONDS)
