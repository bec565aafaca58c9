"""The chunk map of one job, as its storage node knows it: who delivered what, what is on its way. Pure.

Kept for people who look on at the tracker's page: it is not in the ledger, and after a restart chunks that were stored
before have no sender. Of several makers of a chunk the one who sent most of it is named.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from protocol.bitmap import Bitmap
from protocol.ids import NodeId, Tag
from protocol.jobmap import ChunkState, code_of, encode_runs
from protocol.limits import PUSHED_NODES_MAX
from protocol.messages import JobMap


class Makers:
    """Who made which chunk of a file of ``chunks`` chunks."""

    def __init__(self, chunks: int) -> None:
        self._places: dict[NodeId, int] = {}  # from 1, in the order in which they came
        self._maker = array("H", bytes(2 * chunks))  # 0: nobody known

    def note(self, chunk: int, makers: Mapping[NodeId, int]) -> None:
        """``chunk`` is verified; ``makers``: bytes by sender."""
        self._maker[chunk] = self._place(max(makers, key=lambda node: (makers[node], node))) if makers else 0

    def map_of(self, tag: Tag, durable: Bitmap, under_way: Mapping[int, NodeId]) -> JobMap:
        """Return the map of a moment. ``under_way``: chunks that are requested or not yet durable, and from whom."""
        codes = array("H", bytes(2 * len(self._maker)))
        for chunk, node in under_way.items():
            codes[chunk] = code_of(ChunkState.ON_ITS_WAY, self._place(node))
        for chunk in durable:
            codes[chunk] = code_of(ChunkState.STORED, self._maker[chunk])
        return JobMap(tag=tag, senders=tuple(self._places), runs=encode_runs(codes))

    def _place(self, node: NodeId) -> int:
        known = self._places.get(node)
        if known is None:
            if len(self._places) == PUSHED_NODES_MAX:
                return 0
            known = self._places[node] = len(self._places) + 1
        return known
