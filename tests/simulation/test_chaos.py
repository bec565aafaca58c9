"""Two hundred worlds in which everything goes wrong, and nothing that was promised is broken (chaos.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulation.chaos import run_chaos
from simulation.checks import Checks
from simulation.promises import Promise
from simulation.replay import SeedFailed, live_through

TESTS = Path(__file__).parents[1]
SEEDS = 200
BATCH = 10
# Some with TLS, some with suspends, revocations and joins among them.
HASHED = (3, 7, 12, 33)


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_every_promise_holds_through_chaos(first: int) -> None:
    for seed in range(first, first + BATCH):
        live_through(seed)


def test_same_seed_makes_the_same_trace_twice_in_one_process() -> None:
    assert [run_chaos(seed).trace for seed in HASHED] == [run_chaos(seed).trace for seed in reversed(HASHED)][::-1]


def test_same_seed_makes_the_same_trace_in_processes_that_hash_differently() -> None:
    code = f"from simulation.chaos import run_chaos\nprint(*[run_chaos(seed).trace for seed in {HASHED!r}])"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": number, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in ("1", "2")
    ]
    one, other = (process.communicate(timeout=100)[0].split() for process in running)
    assert len(one) == len(HASHED)
    assert one == other


def test_other_seeds_make_other_traces() -> None:
    assert len({run_chaos(seed).trace for seed in range(5)}) == 5


def test_failure_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def see_ghosts(checks: Checks) -> None:
        checks.fail(Promise.ORDERS_END, "a ghost")

    monkeypatch.setattr(Checks, "every_second", see_ghosts)
    with pytest.raises(SeedFailed) as failure:
        live_through(17)
    said = str(failure.value)
    for word in ("seed 17 failed", "a ghost", "make sim SEED=17 TRACE=1", "commit", "python", "trio", "Schedule("):
        assert word in said
