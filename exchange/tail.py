"""What an idle source does at the end, when everything was asked for already: who would come last, and who is sooner.

It doubles the request that is expected last, if it would be clearly sooner: one block may come twice then, but
everybody ends together. Nothing is asked for from more than two sources at a time. Whoever loses is cancelled
(picker.py). A chunk that one source must make alone cannot be doubled; it may be taken over as a whole.

Expectations are guesses, and on a busy machine bad ones: what is doubled for a small gain comes out of an allowance of
a hundredth of the file. Only who would gain a second doubles beyond it.

Pure. The order of expectations is made once in a while for all idle sources together: each of 200 sources looking
through all others' requests was most of the time spent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from exchange.assembly import CELL_BYTES
from exchange.lane import Request
from exchange.source import Source

# How old the order of expectations may be. A tail lasts some tenths of a second.
_ORDER_SECONDS = 0.02
# The same for the sum of all rates: a few sources of a fast network share out a file within milliseconds.
_RATE_SECONDS_PER_SOURCE = 0.0001
# Sooner by so much, or it is not worth a block that comes twice.
_GAIN_SECONDS = 0.05
_GAIN_SHARE = 0.25
_GAIN_SECONDS_ALWAYS = 1.0
_ALLOWANCE_SHARE = 0.01
_ALLOWANCE_BYTES_MIN = 4 * CELL_BYTES


class Tail:
    """The expectations of all sources, latest first."""

    __slots__ = ("_allowance_bytes", "_alone", "_latest", "_made_at", "_rate", "_rate_until")

    def __init__(self, size_bytes: int) -> None:
        self._latest: list[tuple[float, Source, Request]] = []
        self._made_at = float("-inf")
        self._rate = 1.0
        self._alone = False
        self._rate_until = float("-inf")
        self._allowance_bytes = max(_ALLOWANCE_BYTES_MIN, int(size_bytes * _ALLOWANCE_SHARE))

    def seconds_left(self, size_bytes: int, sources: Iterable[Source], now: float) -> float:
        """Return how long all sources that deliver take for ``size_bytes`` together. Infinity if that is one only:
        it has nobody to share with, and needs nothing held back for that."""
        if now > self._rate_until:
            rates = [source.expected_rate() for source in sources if not source.stalled]
            self._rate = max(1.0, sum(rates))
            self._alone = len(rates) == 1
            self._rate_until = now + len(rates) * _RATE_SECONDS_PER_SOURCE
        return math.inf if self._alone else size_bytes / self._rate

    def later_than(
        self,
        source: Source,
        sources: Iterable[Source],
        single: Callable[[Request], bool],
        allowed: Callable[[Source, Request], bool],
        now: float,
    ) -> Request | None:
        """Return the last expected request of others that ``source`` would answer sooner, and is ``allowed`` to.

        What is not ``single`` nobody may double; it is left out of the order, not looked at by everybody.
        """
        if not 0 <= now - self._made_at <= _ORDER_SECONDS:
            self._latest = [
                (now + seconds, other, request)
                for other in sources
                for seconds, request in other.expectations(now)
                if single(request)
            ]
            self._latest.sort(key=lambda entry: entry[0], reverse=True)
            self._made_at = now
        # No request is answered sooner than the shortest one.
        soonest_seconds = source.seconds_for(0)
        for position, (expected_at, other, request) in enumerate(self._latest):
            if not _pays(soonest_seconds, expected_at - now):
                return None
            if (
                other is not source
                and not request.void
                and other.outstanding.get((request.chunk, request.offset)) is request
                and self._worth(request.length, source.seconds_for(request.length), expected_at - now)
                and allowed(source, request)
            ):
                self._allowance_bytes -= request.length
                del self._latest[position]
                return request
        return None

    def spared(self, size_bytes: int) -> None:
        """Something that was doubled was cancelled in time."""
        self._allowance_bytes += size_bytes

    def _worth(self, size_bytes: int, seconds: float, seconds_otherwise: float) -> bool:
        if size_bytes > self._allowance_bytes and seconds_otherwise - seconds < _GAIN_SECONDS_ALWAYS:
            return False
        return _pays(seconds, seconds_otherwise)


def _pays(seconds: float, seconds_otherwise: float) -> bool:
    gain = seconds_otherwise - seconds
    return gain > _GAIN_SECONDS and gain > _GAIN_SHARE * seconds_otherwise


def takes_over(source: Source, maker: Source, chunk_bytes: int, rest_bytes: int, now: float) -> bool:
    """Whether ``source`` would make a whole chunk in half the time in which ``maker`` makes the rest of it."""
    expected_seconds = max((seconds for seconds, _ in maker.expectations(now)), default=0.0)
    rest_seconds = max(expected_seconds, rest_bytes / maker.expected_rate())
    return 2 * source.seconds_for(chunk_bytes) + _GAIN_SECONDS < rest_seconds
