"""Run many worlds, or look at one: ``make sim SEEDS=1000 FROM=0``, ``make sim SEED=17 TRACE=1``."""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import time
from collections.abc import Iterator

from simulation.replay import SeedFailed, commit, live_through, show
from simulation.schedule import draw

# A world takes a tenth of a second. One that takes this long spins.
BUSY_SECONDS_MAX = 60.0


def main(words: list[str]) -> int:
    """Return 0 when all worlds held."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="print what happened in it")
    parser.add_argument("--nodes", type=int, help="only worlds of so many nodes, the tracker among them: 4, 5, 6 or 9")
    chosen = parser.parse_args(words)
    if chosen.nodes not in (None, 4, 5, 6, 9):
        parser.error("there are worlds of 4, 5, 6 and 9 nodes")
    if chosen.seed is not None and chosen.trace:
        return show(chosen.seed)
    seeds = [chosen.seed] if chosen.seed is not None else list(some_seeds(chosen.first, chosen.seeds, chosen.nodes))
    began, busy = time.monotonic(), time.process_time()
    failed: list[int] = []
    simulated = 0.0
    signal.signal(signal.SIGVTALRM, _spins)
    for number, seed in enumerate(seeds, 1):
        signal.setitimer(signal.ITIMER_VIRTUAL, BUSY_SECONDS_MAX)
        try:
            simulated += live_through(seed).seconds
        except SeedFailed as error:
            failed.append(seed)
            sys.stdout.write(f"{error}\n\n")
        if number % 500 == 0:
            sys.stdout.write(f"{number} worlds, {len(failed)} failed, {time.monotonic() - began:.0f} s\n")
        sys.stdout.flush()
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    busy = time.process_time() - busy
    sys.stdout.write(
        f"commit {commit()}: {len(seeds)} worlds, {len(failed)} failed{': ' if failed else ''}"
        f"{', '.join(map(str, failed))}; {simulated:.0f} simulated seconds in {busy:.0f} s of processor time"
        f" ({simulated / max(busy, 0.001):.0f} a second)\n"
    )
    return 1 if failed else 0


def some_seeds(first: int, count: int, nodes: int | None) -> Iterator[int]:
    """Yield ``count`` seeds from ``first`` on, of worlds of ``nodes`` nodes only, if that is given."""
    shapes = ((seed, draw(seed).shape) for seed in itertools.count(first))
    fitting = (seed for seed, shape in shapes if nodes in (None, 1 + shape.storages + shape.daemons))
    return itertools.islice(fitting, count)


def _spins(_number: int, _frame: object) -> None:
    raise RuntimeError(f"this world has kept the processor busy for {BUSY_SECONDS_MAX:.0f} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
