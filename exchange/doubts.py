"""Whom not to share a chunk with: who took part in one that turned out wrong. Pure.

Such a node makes chunks all alone, where every lie would be its own, until enough of them were right: one, and twice
as many each further time. So whoever lies now and then spoils no more than the logarithm of what it delivers, and an
honest node that shared a chunk with a liar loses nothing but company.

Kept by node, not by link: coming back on a new link clears nobody. What becomes of who was wrong alone, strikes.py
says.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.ids import NodeId


@dataclass(slots=True)
class _Doubt:
    times: int = 0
    needed: int = 0  # so many chunks it must yet make right, and alone


class Doubts:
    """The doubted nodes of one swarm."""

    __slots__ = ("_doubts",)

    def __init__(self) -> None:
        self._doubts: dict[NodeId, _Doubt] = {}

    def __contains__(self, node: NodeId) -> bool:
        doubt = self._doubts.get(node)
        return doubt is not None and doubt.needed > 0

    def add(self, node: NodeId) -> None:
        """``node`` took part in a wrong chunk."""
        doubt = self._doubts.setdefault(node, _Doubt())
        doubt.needed = max(doubt.needed, 2**doubt.times)
        doubt.times += 1

    def made_right(self, node: NodeId) -> None:
        """``node`` alone made a chunk, and it was right."""
        doubt = self._doubts.get(node)
        if doubt is not None and doubt.needed:
            doubt.needed -= 1
