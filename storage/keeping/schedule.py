"""When a stored file is read again: once in 25 to 35 days, drawn anew each time, so that files stored together do not
stay together. Pure: ``now`` and the draw are handed in.

Files are taken in the order in which they are due, and read no faster than was allowed; whoever was away for a month
catches up at that pace. If the pace is too slow for what is stored, ``is_behind`` says so.
"""

from __future__ import annotations

from collections.abc import Mapping

from protocol.ids import Tag
from storage.ledger.base import Scrub

DAY_SECONDS = 86_400.0
SCRUB_SECONDS_MIN = 25 * DAY_SECONDS
SCRUB_SECONDS_MAX = 35 * DAY_SECONDS


def next_scrub(now: float, draw: float) -> Scrub:
    """Return the scrub after one that ends now, or after storing. ``draw``: evenly from 0 to 1."""
    assert 0.0 <= draw <= 1.0
    return Scrub(chunk=0, due_at=int(now + SCRUB_SECONDS_MIN + draw * (SCRUB_SECONDS_MAX - SCRUB_SECONDS_MIN)))


def next_file(scrubs: Mapping[Tag, Scrub]) -> Tag | None:
    """Return what is due first; None when nothing is stored."""
    return min(scrubs, key=lambda tag: (scrubs[tag].due_at, tag), default=None)


def pause_seconds(size_bytes: int, bytes_per_second: float, took_seconds: float) -> float:
    """Return how long to wait after reading ``size_bytes`` in ``took_seconds``."""
    return max(0.0, size_bytes / bytes_per_second - took_seconds)


def is_behind(stored_bytes: int, bytes_per_second: float) -> bool:
    """Whether reading all that is stored takes longer than it may."""
    return stored_bytes / bytes_per_second > SCRUB_SECONDS_MIN
