"""One after the other: in which order links that fetch whole chunks for storage are served. Pure; every method that
needs the time takes ``now`` in seconds.

A relay can do nothing with a chunk before it is whole. Four of them that are served beside each other all have their
first one after the time of four chunks; one after the other, after that of one, two, three and four: their own lines
are idle for five eighths of the time. So whoever asked first for its chunk is sent it first, and the next one gets what
that one leaves. They are near, where each takes in all that leaves; who does not, holds up the others no longer than
``TURN_SECONDS`` with each chunk.

Considered: a storage node that lets them begin one after the other. It does not know how fast their LAN is, and hears
what has come only after a way there and back, in which others could have had theirs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from protocol.ids import Tag

# A chunk of 8 MiB takes 0.07 s on a port of 1 Gbit/s. On slower ones they come beside each other in part, as they would
# without turns; and where a processor is what is short, nobody waits long for who cannot take his turn.
TURN_SECONDS = 0.1
# Chunks of one link whose places are kept: it asks for one or two at a time.
_CHUNKS_MAX = 4

_Chunk = tuple[Tag, int]


class Sequence:
    """The links that are served one after the other, and what each of them has asked for."""

    __slots__ = ("_asked", "_busy", "_places", "_turns")

    def __init__(self) -> None:
        self._places: dict[int, dict[_Chunk, int]] = {}  # link -> chunk -> the place it has in the order
        self._asked = 0
        self._turns: dict[int, tuple[int, float]] = {}  # link -> the place of what it was sent last, and since when
        self._busy: set[int] = set()  # links to which something is on its way

    def __contains__(self, link: int) -> bool:
        return link in self._places

    def __bool__(self) -> bool:
        return bool(self._places)

    def join(self, link: int) -> None:
        """A link is served in turn from now on."""
        self._places.setdefault(link, {})

    def drop(self, link: int) -> None:
        """A link has ended."""
        self._places.pop(link, None)
        self._turns.pop(link, None)
        self._busy.discard(link)

    def asked(self, link: int, chunk: _Chunk) -> None:
        """A link asks for a block of ``chunk``; the first one gives the chunk its place."""
        places = self._places[link]
        if chunk not in places:
            self._asked += 1
            places[chunk] = self._asked
            if len(places) > _CHUNKS_MAX:
                del places[next(iter(places))]

    def granted(self, link: int, chunk: _Chunk, now: float) -> None:
        """A block of ``chunk`` begins to leave."""
        place = self._place(link, chunk)
        if self._turns.get(link, (None,))[0] != place:
            self._turns[link] = (place, now)
        self._busy.add(link)

    def idle(self, link: int) -> None:
        """Nothing is on its way to a link any more."""
        self._busy.discard(link)

    def next(self, waiting: Iterable[tuple[int, _Chunk]], now: float) -> int | None:
        """Return whose block goes next, of the links that wait and the chunk each of them waits for; None while all
        of them have to wait for somebody else."""
        found = min(((self._place(link, chunk), link) for link, chunk in waiting), default=None)
        return None if found is None or self._ends_at(*found) > now else found[1]

    def wait_seconds(self, waiting: Iterable[tuple[int, _Chunk]], now: float) -> float:
        """Return after how long the next one may go whatever happens; infinity when nobody waits."""
        found = min(((self._place(link, chunk), link) for link, chunk in waiting), default=None)
        return math.inf if found is None else max(0.0, self._ends_at(*found) - now)

    def _ends_at(self, place: int, link: int) -> float:
        """Return until when others before ``place`` are having their turns."""
        turns = ((other, *self._turns[other]) for other in self._busy if other != link)
        return max((since for _, at, since in turns if at < place), default=-math.inf) + TURN_SECONDS

    def _place(self, link: int, chunk: _Chunk) -> int:
        return self._places[link].get(chunk, 0)
