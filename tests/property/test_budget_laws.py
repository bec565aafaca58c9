"""A cap is a cap: never more than its rate, a burst and one block, and in the long run exactly its rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.budget import Budget

BURST_SECONDS = 0.02
RATES = st.floats(1e3, 1e9)
BLOCKS = st.lists(st.integers(0, 4 << 20), min_size=1, max_size=60)


def test_no_cap_never_waits_and_a_cap_of_nothing_waits_for_ever() -> None:
    free, shut = Budget(None, 0.0), Budget(0.0, 0.0)
    free.spend(10**12, 0.0)
    assert free.wait_seconds(0.0) == 0
    assert shut.wait_seconds(1e9) == float("inf")


@given(rate=RATES, blocks=BLOCKS)
def test_who_sends_as_soon_as_it_may_sends_exactly_at_the_rate(rate: float, blocks: list[int]) -> None:
    budget, now = Budget(rate, 7.0), 7.0
    for size_bytes in blocks:
        now += budget.wait_seconds(now)
        assert budget.wait_seconds(now) <= 1e-6
        budget.spend(size_bytes, now)
    now += budget.wait_seconds(now)
    assert (now - 7.0) * rate == pytest.approx(sum(blocks), rel=1e-6, abs=1)


@given(rate=RATES, steps=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 4 << 20)), min_size=1, max_size=60))
def test_no_stretch_of_time_sees_more_than_rate_and_burst_and_one_block(
    rate: float, steps: list[tuple[float, int]]
) -> None:
    budget, now = Budget(rate, 0.0), 0.0
    sent: list[tuple[float, int]] = []
    for passes, size_bytes in steps:
        now += passes
        if budget.wait_seconds(now) == 0:
            budget.spend(size_bytes, now)
            sent.append((now, size_bytes))
    for place, (since, _) in enumerate(sent):
        total = 0
        for until, size_bytes in sent[place:]:
            total += size_bytes
            allowed = rate * (until - since) + rate * BURST_SECONDS + size_bytes
            assert total <= allowed * (1 + 1e-9) + 1


@given(
    caps=st.lists(st.tuples(st.one_of(st.none(), st.floats(0, 1e8)), st.floats(0, 5), st.integers(0, 4 << 20))),
    rate=RATES,
)
def test_whatever_caps_there_were_a_new_one_holds_nobody_back_for_more_than_a_second(
    caps: list[tuple[float | None, float, int]], rate: float
) -> None:
    budget, now = Budget(1e6, 0.0), 0.0
    for cap, passes, size_bytes in caps:
        now += passes
        budget.spend(size_bytes, now)
        budget.change(cap, now)
        assert budget.wait_seconds(now) >= 0
    budget.change(rate, now)
    assert budget.wait_seconds(now) <= 1.0 + 1e-9
