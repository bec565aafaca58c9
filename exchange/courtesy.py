"""How fast to help without anybody noticing: the rate that fills an idle line and makes way when its delay grows. Pure.

What we send stands in front of our line when it is full, and everything else that leaves this house stands behind it:
a call, a game. How long that queue is shows in our own links' round trips: what they take above the shortest that was
seen lately. The rate grows while the queue is short and falls below what really leaves when it is not, so that the
queue empties. Traffic of others makes the queue longer, too; then we fall again and again, down to a trickle which
is there only to notice that the line is free again. That is what LEDBAT (RFC 6817) does with a window; here it is a
rate, because the kernel can pace one for us and we cannot see its window.

One link's far end may be slow for reasons of its own; so the shortest queue of all links that carry something counts.

Considered: the application's pings. They wait behind our own blocks in the socket, and measure us.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

# Longer than what a kernel's own scheduling makes of a round trip, and a third of what a call would notice.
QUEUE_SECONDS = 0.010
# The kernel's smoothed round trip needs a few acknowledgements.
LOOK_SECONDS = 0.1
START_BYTES_PER_SECOND = 64 * 1024.0
# Enough to see the line, too little to be in the way of anybody on it.
TRICKLE_BYTES_PER_SECOND = 32 * 1024.0
RATE_MAX = 10e9
IDLE_SECONDS = 5.0
# The other side confirms two segments at once, or one after 40 ms: when they come slowly that is no queue.
SEGMENT_BYTES = 1448
CONFIRM_SECONDS_MAX = 0.040
# No queue for so long: who filled the line has gone.
FREE_SECONDS = 2.0
_DOUBLING_SECONDS = 1.0
_GROWTH_PER_SECOND = 0.25
_WINDOW_SECONDS = 0.5
# After a step down: until it shows, beyond the way there and back. Stepping again sooner leaves a far line half idle.
_SETTLE_SECONDS = 0.2
_STEP = 0.92
_STEP_MAX = 0.5


@dataclass(frozen=True, slots=True)
class Look:
    """A link to the outside as the kernel sees it now. ``acked_bytes`` and ``lost_segments``: since it was opened."""

    round_trip_seconds: float
    base_seconds: float
    acked_bytes: int
    lost_segments: int = 0


class Courtesy:
    """``rate``: what help may take, in bytes per second."""

    def __init__(self, now: float) -> None:
        self.rate = START_BYTES_PER_SECOND
        self.queue_seconds = 0.0  # as last seen
        self._starting = True
        self._before: dict[int, Look] = {}
        self._looked_at = now
        self._moved_at = now
        self._fell_at = float("-inf")
        self._acked: deque[tuple[float, int]] = deque()
        self._acked_since = now

    def look(self, now: float, links: Mapping[int, Look]) -> float:
        """Take note of how all links to the outside are; return the new rate."""
        seconds = min(max(now - self._looked_at, 0.0), 1.0)
        self._looked_at = now
        moved = {
            number: look
            for number, look in links.items()
            if number in self._before and look.acked_bytes > self._before[number].acked_bytes
        }
        acked = sum(look.acked_bytes - self._before[number].acked_bytes for number, look in moved.items())
        lost = sum(max(0, look.lost_segments - self._before[number].lost_segments) for number, look in moved.items())
        self._before = dict(links)
        if not moved:
            if now - self._moved_at > IDLE_SECONDS:
                # What the line carried then says nothing of now.
                self.rate, self._starting, self.queue_seconds = START_BYTES_PER_SECOND, True, 0.0
            return self.rate
        if now - self._moved_at > 2 * _WINDOW_SECONDS:
            self._acked.clear()
            self._acked_since = now - seconds
        self._moved_at = now
        self._acked.append((now, acked))
        leaves = self._leaves(now)
        apart_seconds = SEGMENT_BYTES * len(moved) / max(1.0, min(leaves, self.rate))
        beyond = min(look.round_trip_seconds - look.base_seconds for look in moved.values())
        self.queue_seconds = max(0.0, beyond - min(CONFIRM_SECONDS_MAX, 1.25 * apart_seconds))
        if self.queue_seconds > QUEUE_SECONDS or lost:
            way_seconds = max(look.base_seconds for look in moved.values())
            if now - self._fell_at >= _SETTLE_SECONDS + way_seconds:
                excess = max(1.0, self.queue_seconds / QUEUE_SECONDS)
                step = max(_STEP_MAX, _STEP - 0.05 * (excess - 1.0))
                self.rate = max(TRICKLE_BYTES_PER_SECOND, min(self.rate, leaves) * step)
                self._fell_at = now
                self._starting = False
        elif self.rate <= 3.0 * leaves:  # Nobody saves up a rate that he has no use for.
            if now - self._fell_at > FREE_SECONDS:
                self._starting = True  # the line may be free again, as it may have been at first
            room = 1.0 - self.queue_seconds / QUEUE_SECONDS
            factor = 2.0 ** (seconds / _DOUBLING_SECONDS) if self._starting else 1.0 + _GROWTH_PER_SECOND * seconds
            self.rate = min(RATE_MAX, self.rate * (1.0 + (factor - 1.0) * room))
        return self.rate

    def _leaves(self, now: float) -> float:
        """Return how fast bytes have been acknowledged lately."""
        while self._acked and now - self._acked[0][0] >= _WINDOW_SECONDS:
            self._acked_since = self._acked.popleft()[0]
        return sum(count for _, count in self._acked) / max(now - self._acked_since, LOOK_SECONDS)
