"""What happens in a world, as plain data: it can be drawn from a seed, printed, replayed, and shrunk by hypothesis.

Deeds are what users do; faults are what happens to them. Numbers of hosts and contents are taken modulo how many there
are, so that any number means something.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from simulation.world import MIB, Shape

CHAOS_SECONDS = 45.0
FAULTS = (
    *("kill", "kill", "stop", "power", "power", "power-at", "power-at", "kill-await", "power-await"),
    *("partition", "isolate", "camps", "reset", "reset", "refuse", "suspend", "slow", "slow-down"),
    *("skew", "skew", "fsync", "eio", "eio-read", "full", "rot", "join", "revoke", "impostor"),
)
DEEDS = ("put", "put", "put", "put", "get", "get", "share", "share", "unshare", "pause", "limit", "cancel")
SIZES = (3 * MIB + 1, 0, 1, 700_000, 1 * MIB, 2 * MIB + 5, 5 * MIB + 77)


@dataclass(frozen=True)
class Fault:
    """At ``at`` seconds ``kind`` happens to host number ``host``, for ``seconds``."""

    at: float
    kind: str
    host: int
    seconds: float


@dataclass(frozen=True)
class Deed:
    """At ``at`` seconds the user of daemon number ``daemon`` does ``kind`` with content number ``content``."""

    at: float
    kind: str
    daemon: int
    content: int


@dataclass(frozen=True)
class Schedule:
    """``uplinks``, ``downlinks``: bytes per second, by host in turn; ``nat``: that daemon only dials out."""

    shape: Shape = field(default_factory=Shape)
    faults: tuple[Fault, ...] = ()
    deeds: tuple[Deed, ...] = ()
    uplinks: tuple[float, ...] = (2e6,)
    downlinks: tuple[float, ...] = (125e6,)
    nat: int | None = None


def draw(seed: int) -> Schedule:
    """Return the schedule of ``seed``."""
    rng = random.Random(f"{seed}/schedule")
    daemons, storages = rng.choice(((2, 1), (3, 1), (3, 2), (6, 2)))
    return Schedule(
        shape=Shape(daemons, storages, tls=rng.random() < 0.1, lend=rng.random() < 0.3),
        faults=tuple(
            Fault(
                round(rng.uniform(0, CHAOS_SECONDS), 3),
                rng.choice(FAULTS),
                rng.randrange(100),
                round(rng.uniform(0.1, 12), 3),
            )
            for _ in range(rng.randint(0, 12))
        ),
        deeds=tuple(
            Deed(
                round(rng.uniform(0, CHAOS_SECONDS * 0.8), 3),
                "put" if number == 0 else rng.choice(DEEDS),
                rng.randrange(100),
                rng.randrange(4),
            )
            for number in range(rng.randint(1, 9))
        ),
        uplinks=tuple(rng.choice((1e5, 5e5, 2e6, 2e7)) for _ in range(5)),
        downlinks=tuple(rng.choice((1e6, 1e7, 125e6)) for _ in range(3)),
        nat=rng.randrange(daemons) if rng.random() < 0.25 else None,
    )
