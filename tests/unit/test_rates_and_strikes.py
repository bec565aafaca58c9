"""Rates, response times, doubts, strikes and rarity: each against what a person would say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.doubts import Doubts
from exchange.rarity import LEVELS, rarity_levels
from exchange.rates import RateMeter, ResponseMeter
from exchange.strikes import SHUT_OUT_SECONDS, STRIKE_SECONDS, STRIKES_MAX, Strikes
from protocol.bitmap import Bitmap
from protocol.ids import NodeId

NODE = NodeId("node")


def test_a_rate_is_unknown_before_the_first_delivery() -> None:
    assert RateMeter().bytes_per_second is None


@given(rate=st.floats(1e3, 1e9), blocks=st.integers(1, 200), size_bytes=st.integers(1, 1 << 20))
def test_a_steady_delivery_has_its_rate_from_the_first_block_on(rate: float, blocks: int, size_bytes: int) -> None:
    meter, now = RateMeter(), 50.0
    for _ in range(blocks):
        asked_at, now = now, now + size_bytes / rate
        meter.delivered(size_bytes, asked_at, now)
        assert meter.bytes_per_second == pytest.approx(rate, rel=1e-3)


def test_time_in_which_nothing_was_asked_for_does_not_count() -> None:
    meter = RateMeter()
    meter.delivered(1000, asked_at=0.0, now=1.0)
    meter.delivered(1000, asked_at=500.0, now=501.0)
    assert meter.bytes_per_second == pytest.approx(1000)


def test_requests_that_wait_behind_each_other_share_the_time() -> None:
    meter = RateMeter()
    for second in range(1, 11):
        meter.delivered(1000, asked_at=0.0, now=float(second))
    assert meter.bytes_per_second == pytest.approx(1000)


def test_a_line_that_changes_is_followed_within_some_seconds() -> None:
    meter, now = RateMeter(), 0.0
    for rate, seconds in ((1000, 100), (100, 8)):
        for _ in range(seconds):
            meter.delivered(rate, asked_at=now, now=now + 1)
            now += 1
    assert 100 <= (meter.bytes_per_second or 0) < 130


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 10)), min_size=1))
def test_a_response_time_is_the_shortest_of_the_last_half_minute_and_of_no_more_than_the_last_one(
    steps: list[tuple[float, float]],
) -> None:
    meter, now, took = ResponseMeter(), 0.0, []
    assert meter.seconds is None
    for passes, seconds in steps:
        now += passes
        meter.took(seconds, now)
        took.append((now, seconds))
        recent = min(seconds for at, seconds in took if now - at < 30)
        any_of_the_minute = min(seconds for at, seconds in took if now - at <= 70)
        assert meter.seconds is not None and any_of_the_minute <= meter.seconds <= recent


def test_three_strikes_in_ten_minutes_shut_out_for_an_hour() -> None:
    strikes = Strikes()
    assert [strikes.strike(NODE, now) for now in (0.0, 10.0)] == [False, False]
    assert strikes.given(NODE, 10.0) == 2 and not strikes.is_shut_out(NODE, 10.0)
    assert strikes.strike(NODE, 20.0)
    assert strikes.is_shut_out(NODE, 20.0 + SHUT_OUT_SECONDS - 1)
    assert not strikes.is_shut_out(NODE, 20.0 + SHUT_OUT_SECONDS)
    assert not strikes.is_shut_out(NodeId("other"), 20.0)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 700)), max_size=40))
def test_strikes_agree_with_a_list_of_when_and_who(steps: list[tuple[str, float]]) -> None:
    strikes, now = Strikes(), 0.0
    given_to: dict[str, list[float]] = {"a": [], "b": []}
    until: dict[str, float] = {}
    for name, passes in steps:
        now += passes
        given_to[name] = [at for at in given_to[name] if now - at < STRIKE_SECONDS] + [now]
        shut_out = len(given_to[name]) >= STRIKES_MAX
        if shut_out:
            until[name] = now + SHUT_OUT_SECONDS
            given_to[name] = []
        assert strikes.strike(NodeId(name), now) == shut_out
        for each in "ab":
            assert strikes.is_shut_out(NodeId(each), now) == (now < until.get(each, 0.0))
            assert strikes.given(NodeId(each), now) == sum(1 for at in given_to[each] if now - at < STRIKE_SECONDS)


def test_a_doubted_node_is_cleared_by_one_right_chunk_then_by_two_then_by_four() -> None:
    doubts = Doubts()
    assert NODE not in doubts
    doubts.made_right(NODE)  # nothing is saved up
    for needed in (1, 2, 4, 8):
        doubts.add(NODE)
        for _ in range(needed):
            assert NODE in doubts
            doubts.made_right(NODE)
        assert NODE not in doubts
    assert NodeId("other") not in doubts


@given(st.lists(st.sets(st.integers(0, 9)), max_size=8))
def test_rarity_levels_count_who_offers(offers: list[set[int]]) -> None:
    levels = rarity_levels(10, (Bitmap.of(10, offer) for offer in offers))
    assert len(levels) == LEVELS
    for level, chunks in enumerate(levels, start=1):
        assert set(chunks) == {chunk for chunk in range(10) if sum(chunk in offer for offer in offers) <= level}
