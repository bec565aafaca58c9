"""What meets foreign bytes answers with its documented errors, and with little memory: the harnesses of ``fuzz/``.

Inputs are the kept seeds and changed ones, drawn from a fixed number; ``make fuzz`` runs the same harnesses for long,
guided by coverage.
"""

from __future__ import annotations

import itertools
import random
import tracemalloc

import pytest

from fuzz.mutation import inputs, try_one
from fuzz.targets import TARGETS, corpus
from protocol.limits import BLOCK_BYTES_MAX, FRAME_BYTES_MAX

INPUTS = 4000
# Watching memory costs ten times as much.
WATCHED = 400
# Four times the largest frame, beside what a target keeps for all its inputs.
MEMORY_BYTES_MAX = 4 * FRAME_BYTES_MAX

pytestmark = [
    # What cryptography and zeroconf find odd about an input is no fault of ours.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("target", TARGETS)
def test_only_documented_errors_come_out(target: str) -> None:
    for data in itertools.islice(inputs(corpus(target), random.Random(f"1 {target}")), INPUTS):
        try_one(target, data)


@pytest.mark.parametrize("target", TARGETS)
def test_memory_is_bounded_whatever_comes_in(target: str) -> None:
    drawn = list(itertools.islice(inputs(corpus(target), random.Random(f"2 {target}")), WATCHED))
    for data in drawn[:20]:
        try_one(target, data)  # what is kept for all inputs is made now
    tracemalloc.start()
    try:
        for data in drawn:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            try_one(target, data)
            assert tracemalloc.get_traced_memory()[1] - before < MEMORY_BYTES_MAX, data.hex()
    finally:
        tracemalloc.stop()


def test_every_seed_is_unlike_the_others() -> None:
    for target in TARGETS:
        seeds = corpus(target)
        assert seeds and len(seeds) == len(set(seeds)), target
        assert max(map(len, seeds)) < BLOCK_BYTES_MAX


def test_the_same_number_draws_the_same_inputs() -> None:
    one, other = (list(itertools.islice(inputs(corpus("messages"), random.Random(5)), 500)) for _ in range(2))
    assert one == other
