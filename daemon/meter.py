"""How fast it goes and how long it will take, from a few samples. Pure."""

from __future__ import annotations

from collections import deque

# A rate over the last seconds: long enough to be calm, short enough to notice a helper that joined.
WINDOW_SECONDS = 6.0
_SAMPLE_SECONDS = 0.25


class Meter:
    """Fed with a growing total; a total that shrinks begins anew."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, now: float, total_bytes: int) -> None:
        """At ``now`` (seconds) there were ``total_bytes``."""
        if self._samples and total_bytes < self._samples[-1][1]:
            self._samples.clear()
        if len(self._samples) > 1 and now - self._samples[-2][0] < _SAMPLE_SECONDS:
            self._samples.pop()
        self._samples.append((now, total_bytes))
        while len(self._samples) > 2 and now - self._samples[1][0] > WINDOW_SECONDS:
            self._samples.popleft()

    def rate(self, now: float) -> float:
        """Return bytes per second of late; 0 when there is nothing to tell from."""
        if not self._samples:
            return 0.0
        began, first = self._samples[0]
        last = self._samples[-1][1]
        seconds = now - began
        return (last - first) / seconds if seconds > 0 else 0.0

    def eta_seconds(self, now: float, rest_bytes: int) -> float | None:
        """Return when ``rest_bytes`` will be done at this rate; None when nobody knows."""
        rate = self.rate(now)
        return rest_bytes / rate if rate > 0 else None
