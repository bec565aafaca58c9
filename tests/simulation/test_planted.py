"""Each planted bug (planted.py) is found within 200 worlds: by that the simulation is known to see anything.

The same worlds hold without the bug. ``pytest -s`` prints how many worlds each one took.
"""

from __future__ import annotations

import pytest
from simulation.hosts import leaves_of
from simulation.planted import ALL, Planted
from simulation.promises import Promise, Violation

# Of each family of worlds that bugs are hunted in, so many are lived through without any.
HONEST_SEEDS = 3
FAMILIES = list({planted.hunt: planted for planted in ALL}.values())


def name_of(planted: Planted) -> str:
    return planted.name


def test_there_are_enough_planted_bugs() -> None:
    assert len({planted.name for planted in ALL}) == len(ALL) >= 15
    assert all(planted.seeds_max <= 200 for planted in ALL)


def test_every_checker_is_shown_to_fail_by_a_planted_bug() -> None:
    assert {planted.breaks for planted in ALL} == set(Promise)


def broken_by(planted: Planted, seed: int) -> list[BaseException]:
    """Return what went wrong in a world with the bug."""
    try:
        with planted.patch():
            planted.hunt(seed)
    except Exception as error:
        return leaves_of(error)
    return []


@pytest.mark.parametrize("planted", ALL, ids=name_of)
def test_planted_bug_is_found(planted: Planted) -> None:
    others: list[BaseException] = []
    for seed in range(planted.seeds_max):
        leaves = broken_by(planted, seed)
        # Not by anything else: a patch that does not fit the code any more breaks a world as well.
        if any(isinstance(leaf, Violation) and leaf.promise is planted.breaks for leaf in leaves):
            print(f"{planted.name}: found in world {seed + 1}")
            return
        others += leaves
        assert all(isinstance(leaf, Violation) for leaf in leaves), leaves
    pytest.fail(f"{planted.name!r} was not found in {planted.seeds_max} worlds; seen instead: {others[:3]}")


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_worlds_in_which_bugs_are_hunted_hold_without_them(family: Planted) -> None:
    for seed in range(HONEST_SEEDS):
        family.hunt(seed)
