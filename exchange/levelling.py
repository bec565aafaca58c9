"""Which chunks to copy to whom at the end, so that all lines end together. Pure.

When all chunks are given, lines would end at different times: by as much as a chunk takes on one of them. So some lines
take over a part of what others would push, and for that need a copy of the chunk. Each copy costs the LAN and the
processors as much as bringing a new chunk; how few will do is known (McNaughton 1959, "Scheduling with deadlines and
loss functions"): fill line after line with what it would need all the time to push that is left; what finds no room on
one goes to the next, and n lines need n - 1 copies.

So what is left is laid out over those who have it, each filled up to the moment when all together would be done; what
finds no room is copied to where there is some. Who has everything (the uploader) is filled last, since it needs no
copies. This binds nobody: blocks are asked for as sources become idle (picker.py). It is done again and again, as
lines turn out faster or slower, and copies come.

Considered: giving whoever has little to do a copy of the chunk on which most is left, which then all others got, too.
256 MiB over nine lines of 50 Mbit/s had 32 copies in the last second and a half, where eight do, and fetching them took
the processors that pushing needed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """One source: its bytes per second, what it is asked for already, and the chunks that it has or is getting."""

    rate: float
    owed_bytes: int
    has: Collection[int]
    copy_seconds: float | None = None  # until it would have one more chunk; None: it is to get no more


def seconds_left(rests: Mapping[int, int], loads: Mapping[int, Load]) -> float:
    """Return after how long all are done if every line is busy until then."""
    rate = sum(load.rate for load in loads.values())
    left_bytes = sum(rests.values()) + sum(load.owed_bytes for load in loads.values())
    return left_bytes / rate if rate > 0 else math.inf


def copies(rests: Mapping[int, int], loads: Mapping[int, Load], bytes_min: float) -> list[tuple[int, int]]:
    """Return what to copy, as pairs of source and chunk. ``rests``: the bytes of each chunk that nobody was asked for;
    ``bytes_min``: less than that is not worth a copy."""
    seconds = seconds_left(rests, loads)
    room = {source: seconds * load.rate - load.owed_bytes for source, load in loads.items()}
    over: dict[int, float] = {}
    holders = {chunk: [source for source, load in loads.items() if chunk in load.has] for chunk in rests}
    for chunk in sorted(rests, key=lambda chunk: len(holders[chunk])):
        rest_bytes: float = rests[chunk]
        # Who has little else first, and among equals who has most room.
        for source in sorted(holders[chunk], key=lambda source: (len(loads[source].has), -room[source])):
            part_bytes = max(0.0, min(rest_bytes, room[source]))
            room[source] -= part_bytes
            rest_bytes -= part_bytes
        if rest_bytes > 0:
            over[chunk] = rest_bytes
    found: list[tuple[int, int]] = []
    # What comes after everything else is done is of no use.
    useful = {
        source: min(room[source], (seconds - load.copy_seconds) * load.rate)
        for source, load in loads.items()
        if load.copy_seconds is not None
    }
    while over and useful:
        chunk = max(over, key=lambda chunk: (over[chunk], -chunk))
        able = [source for source in useful if chunk not in loads[source].has]
        best = max(able, key=lambda source: useful[source], default=None)
        if best is None or min(over[chunk], useful[best]) < bytes_min:
            del over[chunk]
            continue
        found.append((best, chunk))
        over[chunk] -= useful.pop(best)  # one at a time: when it is there, more is known
    return found
