"""Blocks to chunks: which cells of an open chunk have arrived, and who sent them. Pure.

A chunk is divided into cells of 64 KiB; a block is a run of cells. Knows nothing of requests (book.py), of digests
or of disks (spool.py): it is told when a chunk was verified, or was wrong, and says who made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.ids import NodeId
from protocol.limits import KIB
from protocol.manifest import Layout

CELL_BYTES = 64 * KIB


def cells_of(layout: Layout, chunk: int) -> int:
    """Return how many cells ``chunk`` has; an empty chunk has one, empty."""
    return max(1, -(-layout.bytes_of(chunk) // CELL_BYTES))


def run_mask(first: int, count: int) -> int:
    """Return the bits of cells ``first`` to ``first + count - 1``."""
    return ((1 << count) - 1) << first


def run_bytes(layout: Layout, chunk: int, first: int, count: int) -> int:
    """Return how many bytes a run of cells has: the last cell of a chunk may be shorter."""
    start = first * CELL_BYTES
    return min((first + count) * CELL_BYTES, layout.bytes_of(chunk)) - start


def first_run(bits: int, cells: int) -> tuple[int, int]:
    """Return first and count of the first run of bits, at most ``cells`` long."""
    first = (bits & -bits).bit_length() - 1
    run = bits >> first
    count = (~run & (run + 1)).bit_length() - 1
    return first, min(count, cells)


def last_run(bits: int, cells: int) -> tuple[int, int]:
    """Return first and count of the last run of bits, at most its last ``cells``."""
    last = bits.bit_length() - 1
    first = (~bits & ((1 << last) - 1)).bit_length()
    count = min(last - first + 1, cells)
    return last - count + 1, count


@dataclass(slots=True)
class OpenChunk:
    """A chunk of which something was requested or has arrived."""

    all_cells: int
    arrived: int = 0
    senders: dict[NodeId, int] = field(default_factory=dict)  # bytes by sender


class Assembly:
    """The open chunks of one file."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._open: dict[int, OpenChunk] = {}

    def __contains__(self, chunk: int) -> bool:
        return chunk in self._open

    def open(self, chunk: int) -> OpenChunk:
        """Return the open chunk, opening it if it was not."""
        known = self._open.get(chunk)
        if known is None:
            known = self._open[chunk] = OpenChunk((1 << cells_of(self.layout, chunk)) - 1)
        return known

    def missing(self, chunk: int) -> int:
        """Return the cells of an open chunk that have not arrived, as bits."""
        known = self._open[chunk]
        return known.all_cells & ~known.arrived

    def arrived_bytes(self, chunk: int) -> int:
        """Return how much of an open chunk has arrived."""
        return sum(self._open[chunk].senders.values())

    def senders(self, chunk: int) -> Mapping[NodeId, int]:
        """Return who has sent how many bytes of an open chunk."""
        return self._open[chunk].senders

    def arrived(self, chunk: int, first: int, count: int, sender: NodeId) -> bool:
        """Take note of a run of cells, none of which was there; return whether the chunk is whole now."""
        known = self._open[chunk]
        run = run_mask(first, count)
        assert not known.arrived & run and not run & ~known.all_cells
        known.arrived |= run
        known.senders[sender] = known.senders.get(sender, 0) + run_bytes(self.layout, chunk, first, count)
        return known.arrived == known.all_cells

    def finish(self, chunk: int) -> dict[NodeId, int]:
        """Close a whole chunk, right or wrong; return its makers: bytes by sender."""
        return self._open.pop(chunk).senders

    def reset(self, chunk: int) -> None:
        """Forget what has arrived of a chunk; it is no longer open."""
        self._open.pop(chunk, None)

    def chunks(self) -> list[int]:
        """Return the open chunks in the order in which they were opened."""
        return list(self._open)
