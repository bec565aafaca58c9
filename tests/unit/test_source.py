"""How much one link is asked for: the bandwidth-delay product and a little more, in blocks that take a moment each."""

from __future__ import annotations

import math

import pytest
from support.pairs import node

from exchange.assembly import CELL_BYTES
from exchange.lane import Request
from exchange.source import Source
from protocol.bitmap import Bitmap
from protocol.limits import MIB

PIPELINE_BYTES_MAX = 16 * MIB


def request(number: int, cells: int, now: float) -> Request:
    return Request(number, 0, cells, (1 << cells) - 1, cells * CELL_BYTES, now)


def served(rate: float, delay_seconds: float, seconds: float) -> Source:
    """A source behind a line of ``rate`` and ``delay_seconds`` that was asked for as much as it says all the time."""
    source = Source(1, node("source"), Bitmap.full(8), 0.0)
    now = busy_until = 0.0
    number = 0
    while now < seconds:
        while source.outstanding_bytes < source.pipeline_bytes(math.inf):
            source.ask(request(number, source.block_cells(), now))
            number += 1
        oldest = next(iter(source.outstanding.values()))
        busy_until = max(busy_until, oldest.asked_at + delay_seconds) + oldest.length / rate
        now = max(now, busy_until)
        source.settle(oldest)
        source.delivered(oldest, now)
    return source


@pytest.mark.parametrize("rate", [100e3, 2.5e6, 12.5e6, 125e6, 600e6])
@pytest.mark.parametrize("delay_seconds", [0.0005, 0.02, 0.1, 0.6])
def test_as_much_is_under_way_as_fills_the_line_and_not_much_more(rate: float, delay_seconds: float) -> None:
    source = served(rate, delay_seconds, 20 * delay_seconds + 2.0)
    product = rate * delay_seconds
    pipeline = source.pipeline_bytes(math.inf)
    assert pipeline >= min(product, PIPELINE_BYTES_MAX - 1)
    # A second's worth more than it needs, at most: whoever is slow holds up no more than that.
    assert pipeline <= max(product * 1.25 + rate * 1.2, 8 * CELL_BYTES)
    ideal = min(rate, PIPELINE_BYTES_MAX / delay_seconds)
    assert source.rate.bytes_per_second == pytest.approx(ideal, rel=0.25)


def test_blocks_grow_with_the_rate_from_one_cell_to_two_megabytes() -> None:
    sizes = [served(rate, 0.02, 3.0).block_cells() for rate in (50e3, 1e6, 4e6, 10e6, 40e6, 600e6)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1 and sizes[-1] * CELL_BYTES == 2 * MIB
    assert 1 < sizes[3] < 16


def test_towards_the_end_a_source_is_asked_for_half_its_share_but_for_a_round_trip() -> None:
    source = served(10e6, 0.01, 3.0)
    rate, response = source.rate.bytes_per_second, source.response_seconds()
    assert rate is not None
    assert source.pipeline_bytes(0.2) <= rate * max(0.1, response) + 1
    assert source.pipeline_bytes(0.0) >= min(rate * response, CELL_BYTES)


def test_who_has_stalled_is_asked_for_one_cell() -> None:
    source = served(10e6, 0.01, 1.0)
    source.stalled = True
    assert source.pipeline_bytes(math.inf) == CELL_BYTES and source.block_cells() == 1


def test_who_is_near_and_alone_is_asked_for_megabytes_at_once() -> None:
    near = Source(1, node("near"), Bitmap.full(8), 0.0, near=True)
    far = Source(2, node("far"), Bitmap.full(8), 0.0)
    assert near.pipeline_bytes(math.inf) == 4 * MIB and near.block_cells() == 8
    # What others could give as well is not all asked of the first.
    assert near.pipeline_bytes(10.0) == far.pipeline_bytes(10.0) == far.pipeline_bytes(math.inf) == 8 * CELL_BYTES
    assert far.block_cells() == 1
