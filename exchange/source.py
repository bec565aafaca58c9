"""One link as a source of blocks: what it offers, what it was asked for, how fast it is, how much to ask it for. Pure.

How much: enough that the sender never waits for our next request, hence more than a round trip's worth at its own
rate; and little, because what is asked for and not yet there is what a slow source holds up at the end.

Considered: a fixed 0.35 seconds' worth. On a line with a longer round trip the source then delivers 0.35 seconds'
worth in each round trip, is found to be slower than it was, is asked for less, and so on down to the minimum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from exchange.assembly import CELL_BYTES
from exchange.lane import RATE_GUESS, RESPONSE_GUESS_SECONDS, Lane, Request
from exchange.rates import RateMeter, ResponseMeter
from protocol.bitmap import Bitmap
from protocol.ids import NodeId
from protocol.limits import MIB

# The work a source should always have, in seconds at its own rate: a round trip, a quarter more for its jitter, and
# this much for our own slowness.
_SPARE_SECONDS = 0.2
_PIPELINE_SECONDS_MIN = 0.35
# A satellite's round trip is 0.6 s; a longer response comes from queues, which need no help to grow.
_PIPELINE_SECONDS_MAX = 1.2
_PIPELINE_BYTES_MIN = 2 * CELL_BYTES
_PIPELINE_BYTES_MAX = 16 * MIB
# Before a source has delivered anything; in single cells, so that its first answer comes soon. From there it doubles
# with each round trip, until answers take so many times the shortest: then requests wait at the sender.
_PIPELINE_BYTES_FIRST = 8 * CELL_BYTES
_RAMP_RESPONSES = 1.5
# From a node on our LAN that alone has what we want: there it takes milliseconds for so much, and one round trip after
# the other would be most of the time in which a relay has nothing to pass on.
_PIPELINE_BYTES_FIRST_NEAR = 4 * MIB
_BLOCK_CELLS_FIRST_NEAR = 8
_SHARE_ASKED_FOR = 0.5
# A block should take about this long, between one cell and 2 MiB: each costs both sides the same work, however large.
_BLOCK_SECONDS = 0.05
_BLOCK_CELLS_MAX = 32
# A sender suggests a few at a time.
SUGGESTED_MAX = 64
# Nothing for so long beyond what its rate explains: its blocks go to others.
STALL_SECONDS = 4.0


@dataclass(slots=True, eq=False)
class Source:
    """See the module. ``number`` names the link; a node may have several."""

    number: int
    node: NodeId
    have: Bitmap
    progress_at: float  # when it last delivered, or was first asked after having had nothing to do
    lane: Lane = field(default_factory=Lane)
    near: bool = False  # it is on our LAN
    outstanding: dict[tuple[int, int], Request] = field(default_factory=dict)  # by chunk and offset, oldest first
    outstanding_bytes: int = 0
    cells: dict[int, int] = field(default_factory=dict)  # chunk -> cells that are outstanding, void ones too
    rate: RateMeter = field(default_factory=RateMeter)
    response: ResponseMeter = field(default_factory=ResponseMeter)
    delivered_bytes: int = 0
    ramp_bytes: int = _PIPELINE_BYTES_FIRST  # 0: the ramp has ended, the rate is known
    making: int | None = None  # the chunk of its own
    suggested: list[int] = field(default_factory=list)  # chunks it would rather be asked for, next one first
    stalled: bool = False
    refused: bool = False  # it delivers nothing now: a single request finds out whether it does again
    rests_until: float = 0.0

    def suggest(self, chunks: Iterable[int]) -> None:
        """Take note of what it would rather be asked for, after what it said before."""
        self.suggested = list(dict.fromkeys((*self.suggested, *chunks)))[-SUGGESTED_MAX:]

    def next_suggested(self, among: Bitmap) -> int | None:
        """Return the next suggestion that is of use, and forget those before it."""
        while self.suggested:
            chunk = self.suggested.pop(0)
            if chunk in among:
                return chunk
        return None

    def ask(self, request: Request) -> None:
        """Take note of a request."""
        if not self.outstanding:
            self.progress_at = request.asked_at
        self.lane.ask(request)
        self.outstanding[(request.chunk, request.offset)] = request
        self.outstanding_bytes += request.length
        self.cells[request.chunk] = self.cells.get(request.chunk, 0) | request.cells

    def settle(self, request: Request) -> None:
        """The request was answered, one way or the other."""
        self.lane.settle(request)
        del self.outstanding[(request.chunk, request.offset)]
        self.outstanding_bytes -= request.length
        rest = self.cells[request.chunk] & ~request.cells
        if rest:
            self.cells[request.chunk] = rest
        else:
            del self.cells[request.chunk]

    def delivered(self, request: Request, now: float) -> None:
        """The answer was a block, of use or not."""
        self.lane.delivered(request, now)
        self.rate.delivered(request.length, request.asked_at, now)
        seconds = now - request.asked_at
        self.response.took(seconds, now)
        self.delivered_bytes += request.length
        if seconds > _RAMP_RESPONSES * self.response_seconds():
            self.ramp_bytes = 0
        elif self.ramp_bytes:
            self.ramp_bytes += request.length
        self.progress_at = now
        self.stalled = self.refused = False

    def pipeline_bytes(self, seconds_left: float) -> int:
        """Return how much may be outstanding, if everything from everybody takes ``seconds_left`` more; infinity:
        nobody else could take a share of it."""
        if self.stalled or self.refused:
            return CELL_BYTES
        rate = self.rate.bytes_per_second
        if rate is None:
            return _PIPELINE_BYTES_FIRST_NEAR if self.near and seconds_left == math.inf else _PIPELINE_BYTES_FIRST
        response_seconds = self.response_seconds()
        seconds = 1.25 * response_seconds + _SPARE_SECONDS
        seconds = min(max(seconds, _PIPELINE_SECONDS_MIN), _PIPELINE_SECONDS_MAX)
        # A rate that was measured over few bytes is a rumour: never more at once than has come so far.
        size_bytes = min(rate * seconds, _PIPELINE_BYTES_FIRST + self.delivered_bytes)
        size_bytes = max(size_bytes, self.ramp_bytes, _PIPELINE_BYTES_MIN)
        # Towards the end at most half of its share, so that it can still be shared anew; a round trip's worth always.
        share_bytes = rate * max(seconds_left * _SHARE_ASKED_FOR, response_seconds)
        return int(min(size_bytes, max(share_bytes, CELL_BYTES), _PIPELINE_BYTES_MAX))

    def block_cells(self) -> int:
        """Return how many cells one request should have."""
        rate = self.rate.bytes_per_second
        if self.stalled:
            return 1
        if rate is None:
            return _BLOCK_CELLS_FIRST_NEAR if self.near else 1
        return int(min(max(rate * _BLOCK_SECONDS / CELL_BYTES, 1), _BLOCK_CELLS_MAX))

    def response_seconds(self) -> float:
        """Return how long an answer takes at least."""
        seconds = self.response.seconds
        return RESPONSE_GUESS_SECONDS if seconds is None else seconds

    def seconds_for(self, size_bytes: int) -> float:
        """Return how long it would take for so many bytes if it was asked now."""
        return self.lane.seconds_for(size_bytes)

    def expectations(self, now: float) -> Iterator[tuple[float, Request]]:
        """Yield each request that counts, with the seconds until it is answered as far as one can tell.

        What is overdue is expected to take as long again: who is late becomes later.
        """
        late_seconds: float | None = None
        for request, seconds in self.lane.in_turn(now):
            if self.outstanding.get((request.chunk, request.offset)) is request:
                if late_seconds is None:
                    # Neither has its turn come, nor does the pace of this tag's blocks explain that it is not here.
                    paced_at = self.progress_at + request.length / self.expected_rate()
                    late_seconds = max(0.0, now - max(request.due_at, paced_at))
                yield seconds + late_seconds, request

    def overdue(self, now: float) -> bool:
        """Whether it should be given up: it owes something and has delivered nothing for far too long."""
        oldest = next((request for request in self.outstanding.values() if not request.void), None)
        if oldest is None:
            return False
        rate = self.rate.bytes_per_second
        allowed_seconds = STALL_SECONDS + (2 * oldest.length / rate if rate else STALL_SECONDS)
        return now - max(self.progress_at, oldest.asked_at) > allowed_seconds

    def expected_rate(self) -> float:
        """Return its rate as far as one can tell, in bytes per second."""
        rate = self.rate.bytes_per_second
        return RATE_GUESS if rate is None else max(rate, 1.0)
