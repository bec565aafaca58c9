"""Which chunks are rare: few sources offer them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from protocol.bitmap import Bitmap

# Beyond so many sources a chunk is not rare, and one is as good as another.
LEVELS = 4


def rarity_levels(length: int, offers: Iterable[Bitmap]) -> list[Bitmap]:
    """Return the chunks, of ``length``, that at most 1, at most 2, ... at most ``LEVELS`` of the offers have.

    A counter for each chunk that stops at ``LEVELS``, kept as one wide integer for each count: a few operations an
    offer, however many chunks there are.
    """
    more_than = [Bitmap(length)] * LEVELS
    seen = Bitmap(length)
    for have in offers:
        carry = seen & have
        seen = seen | have
        for index in range(LEVELS):
            carry, more_than[index] = more_than[index] & carry, more_than[index] | carry
    return [mask.missing() for mask in more_than]
