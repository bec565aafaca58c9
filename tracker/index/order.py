"""Tags in their order, for a list that people page through while it changes.

Additions and removals are put down and settled when somebody next looks: a storage node that tells its hundred thousand
tags anew costs one merge then, not a hundred thousand shifts of a long list.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from protocol.ids import Tag


class SortedTags:
    """A set of tags that can be read in order from anywhere. Kept as wire forms, whose order is the tags' own."""

    def __init__(self) -> None:
        self._sorted: list[bytes] = []
        self._added: set[bytes] = set()  # not in _sorted yet
        self._removed: set[bytes] = set()  # still in _sorted

    def __len__(self) -> int:
        return len(self._sorted) + len(self._added) - len(self._removed)

    def add(self, tag: Tag) -> None:
        """Put in a tag that is not there."""
        key = tag.to_bytes()
        if key in self._removed:
            self._removed.remove(key)
        else:
            self._added.add(key)

    def remove(self, tag: Tag) -> None:
        """Take out a tag that is there."""
        key = tag.to_bytes()
        if key in self._added:
            self._added.remove(key)
        else:
            self._removed.add(key)

    def behind(self, tag: Tag | None) -> Iterator[Tag]:
        """Iterate over the tags after ``tag`` (None: all), in order. The set must not change meanwhile."""
        self._settle()
        begin = 0 if tag is None else bisect_right(self._sorted, tag.to_bytes())
        for position in range(begin, len(self._sorted)):
            yield Tag.from_bytes(self._sorted[position])

    def _settle(self) -> None:
        if self._removed:
            self._sorted = [key for key in self._sorted if key not in self._removed]
            self._removed.clear()
        if self._added:
            # Two sorted runs, which the sort merges in linear time.
            self._sorted.extend(sorted(self._added))
            self._sorted.sort()
            self._added.clear()
