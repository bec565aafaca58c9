"""The cells of a chunk map: one a chunk, or one a range of chunks when there are many. Pure.

A cell is told as the classes that style.css knows: ``s`` stored, ``w`` something on its way, ``p1`` to ``p3`` stored to
that many quarters, ``m`` missing; ``cN`` the colour and ``oN`` the place of the node that gave most of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat

from tracker.page.words import colour
from tracker.statistics import MapStatistics

CELLS_MAX = 1024


def chunks_per_cell(chunks: int) -> int:
    """Return how many chunks one cell stands for."""
    return -(-chunks // CELLS_MAX)


def cells_of(shown: MapStatistics, places: Mapping[str, int]) -> list[str]:
    """Return the cells. ``places``: who began to push when; other senders are coloured behind them."""
    places = dict(places)
    for run in shown.runs:
        if run.node is not None:
            places.setdefault(run.node, len(places))
    per_cell = chunks_per_cell(shown.chunks)
    if per_cell == 1:
        return [
            cell
            for run in shown.runs
            for cell in repeat(_cell(run.state == "stored", run.state == "coming", 1, run.node, places), run.chunks)
        ]
    chunks = [(run.state, run.node) for run in shown.runs for _ in range(run.chunks)]
    return [_range_cell(chunks[start : start + per_cell], places) for start in range(0, len(chunks), per_cell)]


def _range_cell(chunks: list[tuple[str, str | None]], places: Mapping[str, int]) -> str:
    stored = sum(state == "stored" for state, _ in chunks)
    coming = [node for state, node in chunks if state == "coming"]
    told = coming or [node for state, node in chunks if state == "stored"]
    node = max(told, key=lambda one: (told.count(one), one or "")) if told else None
    return _cell(stored, bool(coming), len(chunks), node, places)


def _cell(stored: int, coming: bool, chunks: int, node: str | None, places: Mapping[str, int]) -> str:
    if coming:
        state = "w"
    elif stored == chunks:
        state = "s"
    elif stored:
        state = f"p{max(1, 4 * stored // chunks)}"
    else:
        return "m"
    return state if node is None else f"{state} c{colour(places[node])} o{places[node]}"
