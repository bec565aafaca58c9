"""How fast something flows: now, and over the last hour. Pure; every method takes ``now``, the monotonic clock.

Memory is fixed: a meter is three numbers, an hour is 720 bins of five seconds. Nothing is kept over a restart.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

BIN_SECONDS = 5.0
HOUR_BINS = 720
# A rate follows a change within a few of these; shorter, and it jumps with every chunk of 8 MiB.
MEMORY_SECONDS = 5.0
# What came in less than a second is taken as having come in one: the first chunk of a job is no rate.
START_SECONDS = 1.0


class Meter:
    """Bytes per second, the recent ones counting most."""

    __slots__ = ("_at", "_level", "started")

    def __init__(self, started: float) -> None:
        self.started = self._at = started
        self._level = 0.0

    def add(self, now: float, count: int) -> None:
        """So many bytes came."""
        self._level = self._decayed(now) + count / MEMORY_SECONDS
        self._at = now

    def rate(self, now: float) -> float:
        """Return bytes per second."""
        # At first there is less than a whole memory to look back on.
        seconds = max(START_SECONDS, now - self.started)
        return self._decayed(now) / -math.expm1(-seconds / MEMORY_SECONDS)

    def _decayed(self, now: float) -> float:
        return self._level * math.exp(-max(0.0, now - self._at) / MEMORY_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """``bytes_per_second`` on average in the five seconds that begin at ``at`` (wall clock, seconds since 1970)."""

    at: int
    bytes_per_second: int


class Hour:
    """The last hour. ``wall`` is what the other clock showed at ``now``, once: a clock set later moves no bin."""

    def __init__(self, now: float, wall: float) -> None:
        self._offset = wall - now
        self._begun = now
        self._first = self._bin(now)
        self._counts: deque[int] = deque([0], maxlen=HOUR_BINS)

    def add(self, now: float, count: int) -> None:
        """So many bytes came."""
        self._move_to(now)
        self._counts[-1] += count

    def points(self, now: float) -> tuple[Point, ...]:
        """Return the bins, oldest first; the last one is not over yet, and an average over what there is of it."""
        self._move_to(now)
        last = self._first + len(self._counts) - 1
        points = []
        for number, count in enumerate(self._counts, self._first):
            begin = number * BIN_SECONDS - self._offset
            seconds = BIN_SECONDS if number < last else max(START_SECONDS, now - max(begin, self._begun))
            points.append(Point(at=int(number * BIN_SECONDS), bytes_per_second=round(count / seconds)))
        return tuple(points)

    def _bin(self, now: float) -> int:
        return int((now + self._offset) // BIN_SECONDS)

    def _move_to(self, now: float) -> None:
        # At most an hour of nothing is added, however long nobody asked.
        last, current = self._first + len(self._counts) - 1, self._bin(now)
        if current - last >= HOUR_BINS:
            self._counts = deque([0] * HOUR_BINS, maxlen=HOUR_BINS)
            self._first = current - HOUR_BINS + 1
            return
        for _ in range(current - last):
            if len(self._counts) == HOUR_BINS:
                self._first += 1
            self._counts.append(0)
