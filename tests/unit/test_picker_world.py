"""The picker on lines of given rates: every uplink is busy until the end, whoever joins, stalls, leaves or lags.

Virtual time; the same in every run. Rates are those of real uplinks, round trips 40 to 200 ms.
"""

from __future__ import annotations

import pytest
from support.picker_world import MBIT, Sender, World

from protocol.limits import MIB


def latency(place: int) -> float:
    """Return 20, 75, 30, 85, ... 100 ms: neighbours differ."""
    return 0.02 + 0.08 * (place * 11 % 16) / 15


def senders(*megabits: float) -> list[Sender]:
    return [Sender(rate * MBIT, latency(place)) for place, rate in enumerate(megabits)]


def test_five_equal_senders_take_a_fifth_of_the_time() -> None:
    outcome = World(64 * MIB, senders(*[20] * 5)).run()
    assert outcome.ratio <= 1.05
    assert outcome.wasted_share <= 0.01
    assert min(outcome.useful_bytes) >= 0.17 * 64 * MIB


def test_unequal_senders_give_what_each_can() -> None:
    rates = (5, 10, 20, 50, 100)
    outcome = World(256 * MIB, senders(*rates)).run()
    assert outcome.ratio <= 1.05
    assert outcome.wasted_share <= 0.01
    for rate, useful_bytes in zip(rates, outcome.useful_bytes, strict=True):
        assert useful_bytes == pytest.approx(256 * MIB * rate / sum(rates), rel=0.1)


def test_a_sender_at_a_twentieth_holds_nobody_up() -> None:
    outcome = World(64 * MIB, senders(20, 20, 1, 20, 20)).run()
    assert outcome.ratio <= 1.05
    assert outcome.wasted_share <= 0.01


@pytest.mark.parametrize("stalls_at", [0.05, 1.0, 2.7, 4.0, 5.0, 5.3])
def test_a_sender_that_stalls_for_good_costs_no_more_than_its_rate(stalls_at: float) -> None:
    others = senders(*[20] * 5)
    others[2] = Sender(20 * MBIT, latency(2), stalls_at=stalls_at)
    outcome = World(64 * MIB, others).run()
    assert outcome.ratio <= 1.06
    assert outcome.wasted_share <= 0.01


def test_a_sender_that_leaves_and_comes_back_is_used_again() -> None:
    others = senders(*[20] * 5)
    others[2] = Sender(20 * MBIT, latency(2), leaves_at=1.5, returns_at=3.0)
    outcome = World(64 * MIB, others).run()
    assert outcome.ratio <= 1.05
    assert outcome.wasted_share <= 0.01
    assert outcome.useful_bytes[2] >= 0.1 * 64 * MIB


@pytest.mark.parametrize(("size_bytes", "crowd"), [(256 * MIB, [5] * 50), (1024 * MIB, [2] * 200)])
def test_a_crowd_of_slow_lines_is_one_fast_line(size_bytes: int, crowd: list[float]) -> None:
    outcome = World(size_bytes, senders(*crowd)).run()
    assert outcome.ratio <= 1.05
    assert outcome.wasted_share <= 0.01


def test_a_crowd_of_all_kinds_is_one_fast_line() -> None:
    outcome = World(768 * MIB, senders(*[1, 2, 5, 10] * 50)).run()
    assert outcome.ratio <= 1.06
    assert outcome.wasted_share <= 0.01


def test_a_receiver_slower_than_its_senders_is_kept_full_and_gets_nothing_twice() -> None:
    outcome = World(128 * MIB, senders(*[20] * 8), downlink=60 * MBIT).run()
    assert outcome.ratio <= 1.02
    assert outcome.wasted_share <= 0.01


def test_a_round_trip_of_a_satellite_does_not_starve_the_line() -> None:
    outcome = World(256 * MIB, [Sender(20 * MBIT, 0.3) for _ in range(3)]).run()
    assert outcome.ratio <= 1.05
    # Once the pipeline is long enough nobody waits: all idle time is of the start and the end.
    assert max(outcome.idle_seconds) <= 4 * 0.6


def test_partial_senders_are_asked_for_what_only_they_have_first() -> None:
    alone = Sender(20 * MBIT, latency(0), chunks=(*range(16),))
    rest = Sender(20 * MBIT, latency(1), chunks=(*range(8, 64),))
    full = Sender(20 * MBIT, latency(2))
    outcome = World(64 * MIB, [alone, rest, full]).run()
    assert outcome.ratio <= 1.3  # the first one runs out of chunks
    assert outcome.wasted_share <= 0.01


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_picker_draws_it_ends_in_time(seed: int) -> None:
    assert World(64 * MIB, senders(*[20] * 5), seed=seed).run().ratio <= 1.05


@pytest.mark.parametrize("seed", range(5))
def test_lines_that_flutter_waste_nothing_and_end_in_time(seed: int) -> None:
    fluttering = [Sender(20 * MBIT, latency(place), jitter=0.8) for place in range(5)]
    outcome = World(64 * MIB, fluttering, seed=seed).run()
    assert outcome.ratio <= 1.06
    assert outcome.wasted_share <= 0.01


def test_a_short_file_on_a_fast_network_is_shared_among_all() -> None:
    outcome = World(24 * MIB, [Sender(320 * MBIT, 0.001 + 0.001 * place) for place in range(4)]).run()
    assert outcome.ratio <= 1.15
    assert min(outcome.useful_bytes) >= 0.15 * 24 * MIB
    assert outcome.wasted_share <= 0.02


def test_the_same_seed_gives_the_same_story() -> None:
    assert World(32 * MIB, senders(7, 20, 3), seed=3).run() == World(32 * MIB, senders(7, 20, 3), seed=3).run()
