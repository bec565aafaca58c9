"""Each planted bug (planted.py) is found within 200 worlds: by that the simulation is known to see anything.

The same worlds hold without the bug. ``pytest -s`` prints how many worlds each one took.
"""

from __future__ import annotations

import pytest
from simulation.planted import ALL, Planted

# Of each family of worlds that bugs are hunted in, so many are lived through without any.
HONEST_SEEDS = 3
FAMILIES = list({planted.hunt: planted for planted in ALL}.values())


def name_of(planted: Planted) -> str:
    return planted.name


def test_there_are_enough_planted_bugs() -> None:
    assert len({planted.name for planted in ALL}) == len(ALL) >= 15
    assert all(planted.seeds_max <= 200 for planted in ALL)


@pytest.mark.parametrize("planted", ALL, ids=name_of)
def test_planted_bug_is_found(planted: Planted) -> None:
    for seed in range(planted.seeds_max):
        try:
            with planted.patch():
                planted.hunt(seed)
        except Exception as error:
            print(f"{planted.name}: found in world {seed + 1}: {type(error).__name__}")
            return
    pytest.fail(f"{planted.name!r} was not found in {planted.seeds_max} worlds")


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_worlds_in_which_bugs_are_hunted_hold_without_them(family: Planted) -> None:
    for seed in range(HONEST_SEEDS):
        family.hunt(seed)
