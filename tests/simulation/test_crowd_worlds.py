"""Crowds of all shapes, with all kinds of trouble: an origin's line is not idle for long while somebody waits for what
only the origin has, and whoever is honest and stays gets all.

Each world is made from its seed: how many, which lines, who has the file already, and what befalls whom when
(tests/support/crowd_trouble.py). What was found here is told as stories in test_crowd_trouble.py.
"""

from __future__ import annotations

import math
import random

import pytest
from support.crowd_trouble import TroubledCrowd
from support.crowd_world import Member

from exchange import seeding
from protocol.limits import MIB

MBIT = 1_000_000 / 8
WORLDS = 32
# Storage that freezes with blocks on their way to it is waited for four seconds, and who was sent away last asks again
# two seconds later.
IDLE_SECONDS_MAX = seeding.HUNGRY_SECONDS + 2.5


def world_of(seed: int) -> tuple[TroubledCrowd, float]:
    """Return a world, and until when all must have ended at the latest."""
    rng = random.Random(seed)
    up = rng.choice([5, 20, 20, 50, 100]) * MBIT
    size_bytes = rng.choice([4, 8, 16, 32]) * MIB
    members = [Member(up, rng.uniform(0.001, 0.1), has=True)]
    for _ in range(rng.randint(1, 6)):
        line = rng.choice([1 * MBIT, 5 * MBIT, 20 * MBIT, up, up, 100 * MBIT])
        down = rng.choice([None, up, up / 2, 100 * MBIT])
        has = rng.random() < 0.1
        members.append(Member(line, rng.uniform(0.001, 0.1), down=down, has=has, wants=not has))
    storage_down = rng.choice([None, None, up, up / 2, up / 10])
    storage_up = rng.choice([1000 * MBIT, 1000 * MBIT, 20 * MBIT, up])
    world = TroubledCrowd(size_bytes, members, storage_up=storage_up, storage_down=storage_down, seed=seed)
    narrowest = min(up / 2, storage_down or up)
    away_seconds = trouble(world, rng, size_bytes / up)
    return world, 4 * size_bytes / narrowest + away_seconds + 120


def trouble(world: TroubledCrowd, rng: random.Random, span_seconds: float) -> float:
    """Let something befall some of them; return for how long they are away all together."""
    names = ["storage", *(node.name for node in world.nodes)]
    downloaders = [node.name for node in world.nodes if node.member.wants]
    rng.shuffle(names)
    at = away_seconds = 0.0
    for name in names[: rng.randint(0, 4)]:
        at += rng.uniform(0.05, span_seconds / 2)
        seconds = rng.choice([0.3, 2.0, span_seconds / 2, 20.0])
        deed = rng.choice(["kill", "freeze", "fill up", "lie", "ask"])
        if deed == "kill":
            world.at(at, world.kill, name)
            world.at(at + seconds, world.start, name)
        elif deed == "freeze":
            world.at(at, world.freeze, name)
            world.at(at + seconds, world.thaw, name)
        elif deed == "fill up" and name == "storage":
            world.at(at, world.fill_up)
            world.at(at + seconds, world.make_room)
        elif deed == "lie" and name in downloaders:
            world.lie(name)
        elif deed == "ask" and name in downloaders:
            world.ask_without_end(name)
        away_seconds += seconds
    return away_seconds


@pytest.mark.parametrize("first", range(0, WORLDS, 8))
def test_no_line_is_idle_for_long_while_somebody_waits_for_it_and_all_end(first: int) -> None:
    for seed in range(first, first + 8):
        world, seconds_max = world_of(seed)
        world.live(seconds_max)
        assert world.idle_seconds <= IDLE_SECONDS_MAX, f"seed {seed}"


def test_an_origin_that_waits_for_storage_for_ever_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: whatever storage has asked for once keeps all others away."""
    monkeypatch.setattr(seeding, "HUNGRY_SECONDS", math.inf)
    monkeypatch.setattr(seeding, "PATIENCE_SECONDS", math.inf)
    monkeypatch.setattr(seeding, "FIRST_INVITED_SECONDS", math.inf)

    def is_noticed(seed: int) -> bool:
        world, seconds_max = world_of(seed)
        try:
            world.live(seconds_max)
        except AssertionError:
            return True
        return world.idle_seconds > IDLE_SECONDS_MAX

    # In these storage freezes, or fills up, for long.
    assert any(is_noticed(seed) for seed in (62, 75))
