"""The interval holds the load that is aimed at, gives way quickly and comes back slowly, and inventories go first."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tracker.pace import JITTER_MAX, LATE_SECONDS, STRAIN_MAX, Pace, begin, next_pace

WANTED, MOST = 5.0, 60.0


def go_on(pace: Pace, links: int, late: float = 0.0, times: int = 1) -> Pace:
    for _ in range(times):
        pace = next_pace(pace, wanted_seconds=WANTED, most_seconds=MOST, links=links, late_seconds=late)
    return pace


def test_few_nodes_beat_as_often_as_the_operator_wants() -> None:
    pace = go_on(begin(WANTED), 100, times=10)
    assert pace.interval_seconds == WANTED and pace.inventories
    assert pace.interval_for(1) == WANTED, "nobody to spread"


def test_many_nodes_beat_as_often_as_holds_the_load_that_is_aimed_at() -> None:
    for links in (10_000, 20_000, 50_000, 100_000):
        pace = go_on(begin(WANTED), links)
        draw = random.Random(links)
        # What nodes do with it: up to a fifth sooner by themselves.
        intervals = [pace.interval_for(draw.random()) * draw.uniform(0.8, 1.0) for _ in range(1000)]
        rate = links * sum(1 / interval for interval in intervals) / len(intervals)
        assert pace.interval_seconds == max(WANTED, links / 2000)
        assert rate <= 2000 * 1.5, (links, rate)


def test_nodes_that_came_together_are_apart_after_a_few_beats() -> None:
    pace, draw = go_on(begin(WANTED), 10_000), random.Random(3)
    times = [0.0] * 10_000
    for _ in range(12):
        times = [time + pace.interval_for(draw.random()) * draw.uniform(0.8, 1.0) for time in times]
    first = min(times)
    busiest = max(sum(second <= time - first < second + 1 for time in times) for second in range(12))
    assert busiest < 4000, "at first it was all of them in one second"


def test_a_tracker_that_is_late_asks_for_fewer_beats_at_once_and_for_no_inventories() -> None:
    pace = go_on(begin(WANTED), 1000, late=2 * LATE_SECONDS)
    assert pace.interval_seconds == 2 * WANTED and not pace.inventories
    pace = go_on(pace, 1000, late=1.0, times=9)
    assert pace.interval_seconds == STRAIN_MAX * WANTED and pace.jitter == JITTER_MAX
    pace = go_on(pace, 1000)
    assert pace.inventories and pace.interval_seconds > 0.8 * STRAIN_MAX * WANTED, "slowly back"
    assert go_on(pace, 1000, times=30).interval_seconds == WANTED


def test_what_a_few_nodes_have_is_taken_however_late_the_tracker_is() -> None:
    # Another program made it late; shed, a file put just now would have no name until its node beats again.
    assert go_on(begin(WANTED), 499, late=10.0, times=5).inventories
    assert not go_on(begin(WANTED), 500, late=10.0).inventories


@given(
    before=st.floats(1, STRAIN_MAX),
    links=st.integers(0, 10**7),
    late=st.floats(0, 100),
    lot=st.floats(0, 1),
)
def test_what_is_asked_for_is_always_possible(before: float, links: int, late: float, lot: float) -> None:
    pace = go_on(Pace(WANTED, 0, True, before), links, late)
    assert WANTED <= pace.interval_seconds <= MOST and 0 <= pace.jitter <= JITTER_MAX and 1 <= pace.strain <= STRAIN_MAX
    assert 0.1 <= pace.interval_for(lot) <= MOST
    calmer = go_on(Pace(WANTED, 0, True, before), links, 0)
    assert calmer.interval_seconds <= pace.interval_seconds
