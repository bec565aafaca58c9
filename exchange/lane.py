"""What one link owes us over all tags: in which order it answers, and how soon. Pure; methods take ``now`` in seconds.

A node that holds eight files for us answers over one link, mostly in the order in which it was asked. Each file's own
picker sees an eighth of it: a queue of its own that hardly moves, and a rate that is its share of the moment. Who only
looks at that expects much too late what comes soon, and finds a link idle that is busy with another file: most of what
came twice in the last second of eight small files came of it. So expectations are made here, from everything that the
link was asked for; how much to ask for stays each file's own business (source.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from exchange.assembly import CELL_BYTES
from exchange.rates import RateMeter, ResponseMeter
from protocol.limits import KIB

RATE_GUESS = 512 * KIB
RESPONSE_GUESS_SECONDS = 0.2


@dataclass(slots=True, eq=False)
class Request:
    """A run of cells that was asked for and is not answered yet.

    ``void``: it was withdrawn and nobody counts on it; it will be answered all the same, and may still be of use.
    ``due_at``: when it was expected, as it was asked for.
    """

    chunk: int
    first: int
    count: int
    cells: int  # the same run as bits
    length: int
    asked_at: float
    void: bool = False
    due_at: float = math.inf

    @property
    def offset(self) -> int:
        """Where the run begins within its chunk, in bytes."""
        return self.first * CELL_BYTES


class Lane:
    """All requests of one link, oldest first."""

    __slots__ = ("_due", "due_bytes", "progress_at", "rate", "response")

    def __init__(self) -> None:
        self._due: dict[Request, None] = {}
        self.due_bytes = 0
        self.progress_at = -math.inf
        self.rate = RateMeter()
        self.response = ResponseMeter()

    def ask(self, request: Request) -> None:
        """Take note of a request."""
        if not self._due:
            self.progress_at = request.asked_at
        request.due_at = request.asked_at + self.seconds_for(request.length)
        self._due[request] = None
        self.due_bytes += request.length

    def settle(self, request: Request) -> None:
        """The request was answered, one way or the other, or nobody waits for it any more."""
        del self._due[request]
        self.due_bytes -= request.length

    def delivered(self, request: Request, now: float) -> None:
        """The answer was a block, of use or not."""
        self.rate.delivered(request.length, request.asked_at, now)
        self.response.took(now - request.asked_at, now)
        self.progress_at = now

    def seconds_for(self, size_bytes: int) -> float:
        """Return how long it would take for so many bytes if they were asked for now."""
        return max(self.response_seconds(), (self.due_bytes + size_bytes) / self.expected_rate())

    def in_turn(self, now: float) -> Iterator[tuple[Request, float]]:
        """Yield each request that counts, with the seconds until it is answered if all goes on as it goes."""
        rate = self.expected_rate()
        shortest = self.response_seconds()
        idle_seconds = now - self.progress_at
        ahead = 0
        for request in self._due:
            if not request.void:
                ahead += request.length
                yield request, max(ahead / rate - idle_seconds, shortest - (now - request.asked_at), 0.0)

    def response_seconds(self) -> float:
        """Return how long an answer takes at least."""
        seconds = self.response.seconds
        return RESPONSE_GUESS_SECONDS if seconds is None else seconds

    def expected_rate(self) -> float:
        """Return its rate as far as one can tell, in bytes per second."""
        rate = self.rate.bytes_per_second
        return RATE_GUESS if rate is None else max(rate, 1.0)
