"""The newest tags, without looking at all of them each time somebody looks at a page.

Keeps the best of what it was told of, and a mark: whatever it has dropped lies behind that. An answer that reaches the
mark is made anew from everything, which happens when much of what was new has gone. Exact all the same: tags are
compared by date and then by themselves, so that a thousand files of one second have an order too.

A hundred thousand tags take an eighth of a second to look through; this takes a millisecond.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from protocol.ids import Tag

KEPT = 128

Key = tuple[int, Tag]  # minus the date, and the tag: the smallest is the newest


class NewestTags:
    """``since_of`` says the date of a tag now; None when nobody holds it (any more)."""

    def __init__(self, since_of: Callable[[Tag, float], int | None]) -> None:
        self._since_of = since_of
        self._best: dict[Tag, Key] = {}  # as each was last told
        self._mark: Key | None = None  # everything before it is in _best; None: everything is

    def note(self, tag: Tag, since: int) -> None:
        """Somebody says that he has held ``tag`` since then."""
        key = (-since, tag)
        if self._mark is not None and key >= self._mark:
            return
        self._best[tag] = min(key, self._best.get(tag, key))
        if len(self._best) > 2 * KEPT:
            self._keep(sorted(self._best.values()))

    def first(self, limit: int, now: float, everything: Iterable[Tag]) -> list[Tag]:
        """Return the newest tags, newest first; ``everything`` is read only when it must be."""
        found = self._dated(self._best, now)
        if self._mark is not None:
            mark = self._mark
            before = [key for key in found if key < mark]
            if len(before) < limit:
                self._best.clear()
                self._mark = None
                found = heapq.nsmallest(max(limit, KEPT) + 1, self._dated(everything, now))
                self._keep(found)
            else:
                found = before
        return [tag for _, tag in sorted(found)[:limit]]

    def _dated(self, tags: Iterable[Tag], now: float) -> list[Key]:
        dated = ((self._since_of(tag, now), tag) for tag in tags)
        return [(-since, tag) for since, tag in dated if since is not None]

    def _keep(self, keys: list[Key]) -> None:
        self._best = {tag: (date, tag) for date, tag in keys[:KEPT]}
        if len(keys) > KEPT:
            self._mark = keys[KEPT] if self._mark is None else min(self._mark, keys[KEPT])
