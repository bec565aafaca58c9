"""Run many worlds, or look at one: ``make sim SEEDS=1000 FROM=0``, ``make sim SEED=17 TRACE=1``."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from simulation.replay import SeedFailed, commit, live_through, show

# A world takes a tenth of a second. One that takes this long spins.
BUSY_SECONDS_MAX = 60.0


def main(words: list[str]) -> int:
    """Return 0 when all worlds held."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="print what happened in it")
    chosen = parser.parse_args(words)
    if chosen.seed is not None and chosen.trace:
        return show(chosen.seed)
    seeds = [chosen.seed] if chosen.seed is not None else range(chosen.first, chosen.first + chosen.seeds)
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


def _spins(_number: int, _frame: object) -> None:
    raise RuntimeError(f"this world has kept the processor busy for {BUSY_SECONDS_MAX:.0f} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
