"""What an idle source does at the end, when everything was asked for already: who would come last, and who is sooner.

It doubles the request that is expected last, if it would be clearly sooner: one block may come twice then, but
everybody ends together. Nothing is asked for from more than two sources at a time. Whoever loses is cancelled
(picker.py). A chunk that one source must make alone cannot be doubled; it may be taken over as a whole.

Pure. The order of expectations is made once in a while for all idle sources together: each of 200 sources looking
through all others' requests was most of the time spent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from exchange.source import Request, Source

# How old the order of expectations may be. A tail lasts some tenths of a second.
_ORDER_SECONDS = 0.02
# Sooner by so much, or it is not worth a block that comes twice.
_GAIN_SECONDS = 0.05
_GAIN_SHARE = 0.25


class Tail:
    """The expectations of all sources, latest first."""

    __slots__ = ("_latest", "_made_at")

    def __init__(self) -> None:
        self._latest: list[tuple[float, Source, Request]] = []
        self._made_at = float("-inf")

    def later_than(
        self,
        source: Source,
        sources: Iterable[Source],
        allowed: Callable[[Source, Request], bool],
        now: float,
    ) -> Request | None:
        """Return the last expected request of others that ``source`` would answer sooner, and is ``allowed`` to."""
        if now - self._made_at > _ORDER_SECONDS or now < self._made_at:
            self._latest = [
                (now + seconds, other, request) for other in sources for seconds, request in other.expectations(now)
            ]
            self._latest.sort(key=lambda entry: entry[0], reverse=True)
            self._made_at = now
        # No request is answered sooner than the shortest one.
        soonest_seconds = source.seconds_for(0)
        for expected_at, other, request in self._latest:
            if not _pays(soonest_seconds, expected_at - now):
                return None
            if (
                other is not source
                and not request.void
                and other.outstanding.get((request.chunk, request.offset)) is request
                and _pays(source.seconds_for(request.length), expected_at - now)
                and allowed(source, request)
            ):
                return request
        return None


def _pays(seconds: float, seconds_otherwise: float) -> bool:
    gain = seconds_otherwise - seconds
    return gain > _GAIN_SECONDS and gain > _GAIN_SHARE * seconds_otherwise


def takes_over(source: Source, maker: Source, chunk_bytes: int, rest_bytes: int, now: float) -> bool:
    """Whether ``source`` would make a whole chunk in half the time in which ``maker`` makes the rest of it."""
    expected_seconds = max((seconds for seconds, _ in maker.expectations(now)), default=0.0)
    rest_seconds = max(expected_seconds, rest_bytes / maker.expected_rate())
    return 2 * source.seconds_for(chunk_bytes) + _GAIN_SECONDS < rest_seconds
