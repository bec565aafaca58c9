"""Help that makes way: an idle line is filled, its queue stays short, and whoever else comes gets the line."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from exchange.courtesy import (
    CONFIRM_SECONDS_MAX,
    LOOK_SECONDS,
    QUEUE_SECONDS,
    RATE_MAX,
    SEGMENT_BYTES,
    START_BYTES_PER_SECOND,
    TRICKLE_BYTES_PER_SECOND,
    Courtesy,
    Look,
)

STEP_SECONDS = 0.005
BLOCK_BYTES = 64 * 1024


@dataclass
class Narrow:
    """The plainest model of a line: a queue in front of it, a way behind it, and a kernel that smooths round trips."""

    bytes_per_second: float
    base_seconds: float
    wanted: float = float("inf")  # what help could send at most
    others: float = 0.0  # what everybody else sends into the same queue; at most so much of it stands there
    queue_bytes: float = 0.0
    acked: float = 0.0
    smooth: float = 0.0
    now: float = 0.0
    used: float = 0.0
    worst: float = 0.0
    on_their_way: deque[tuple[float, float, float]] = field(default_factory=deque)

    def run(self, courtesy: Courtesy, seconds: float) -> None:
        """Let time pass; notes what help used and how long the queue was."""
        self.used = self.worst = 0.0
        end, looked = self.now + seconds, self.now
        while self.now < end:
            self.now += STEP_SECONDS
            sent = min(courtesy.rate, self.wanted) * STEP_SECONDS
            self.queue_bytes += sent
            if self.queue_bytes < self.bytes_per_second * 0.3:
                self.queue_bytes += self.others * STEP_SECONDS
            delay = self.queue_bytes / self.bytes_per_second
            self.queue_bytes = max(0.0, self.queue_bytes - self.bytes_per_second * STEP_SECONDS)
            confirmed = min(CONFIRM_SECONDS_MAX, SEGMENT_BYTES * STEP_SECONDS / sent)
            took = self.base_seconds + delay + confirmed
            self.on_their_way.append((self.now + took, sent, took))
            while self.on_their_way and self.on_their_way[0][0] <= self.now:
                _, count, took = self.on_their_way.popleft()
                self.acked += count
                self.used += count
                self.smooth = took if not self.smooth else self.smooth * 0.8 + took * 0.2
            self.worst = max(self.worst, delay)
            if self.now - looked >= LOOK_SECONDS:
                looked = self.now
                courtesy.look(self.now, {1: Look(self.smooth or self.base_seconds, self.base_seconds, int(self.acked))})


widths = st.floats(100e3, 50e6)
ways = st.floats(0.001, 0.15)


@settings(deadline=None, max_examples=40)
@given(widths, ways)
@example(100e3, 0.150)
def test_an_idle_line_is_filled_and_its_queue_stays_short(width: float, base: float) -> None:
    line, courtesy = Narrow(width, base), Courtesy(0.0)
    line.run(courtesy, 15.0)
    assert line.worst < 0.120  # where the line ends is not known before
    line.run(courtesy, 20.0)
    assert line.used >= 0.85 * width * 20.0
    # What it does shows a way later; and on a line of less than a megabit one segment is a queue.
    assert line.worst < 0.030 + 0.3 * base + 2 * SEGMENT_BYTES / width


@settings(deadline=None, max_examples=40)
@given(widths, ways)
@example(100e3, 0.150)
def test_who_else_wants_the_whole_line_gets_it(width: float, base: float) -> None:
    line, courtesy = Narrow(width, base), Courtesy(0.0)
    line.run(courtesy, 15.0)
    line.others = 2.0 * width
    line.run(courtesy, 10.0)
    assert courtesy.rate == TRICKLE_BYTES_PER_SECOND
    line.others = 0.0
    line.run(courtesy, 60.0)
    line.run(courtesy, 10.0)
    assert line.used >= 0.85 * width * 10.0


@settings(deadline=None, max_examples=40)
@given(widths, ways, st.floats(0.01, 0.5))
def test_what_is_not_used_is_not_saved_up(width: float, base: float, share: float) -> None:
    line, courtesy = Narrow(width, base, wanted=share * width), Courtesy(0.0)
    line.run(courtesy, 30.0)
    assert courtesy.rate <= max(4.0 * share * width, START_BYTES_PER_SECOND * 1.1)


def test_a_link_whose_far_end_is_slow_holds_up_no_other() -> None:
    courtesy = Courtesy(0.0)
    for tick in range(1, 50):
        now, acked = tick * LOOK_SECONDS, tick * 50_000
        courtesy.look(now, {1: Look(0.020, 0.020, acked), 2: Look(0.500, 0.020, acked)})
    assert courtesy.rate > 2 * START_BYTES_PER_SECOND


def test_lost_segments_count_as_a_queue() -> None:
    courtesy = Courtesy(0.0)
    for tick in range(1, 30):
        courtesy.look(tick * LOOK_SECONDS, {1: Look(0.020, 0.020, tick * 50_000)})
    before = courtesy.rate
    courtesy.look(3.1, {1: Look(0.020, 0.020, 31 * 50_000, lost_segments=3)})
    assert courtesy.rate < before


def test_after_a_pause_it_begins_anew() -> None:
    courtesy = Courtesy(0.0)
    for tick in range(1, 50):
        courtesy.look(tick * LOOK_SECONDS, {1: Look(0.020, 0.020, tick * 500_000)})
    assert courtesy.rate > 2 * START_BYTES_PER_SECOND
    for tick in range(50, 120):
        courtesy.look(tick * LOOK_SECONDS, {1: Look(0.020, 0.020, 49 * 500_000)})
    assert courtesy.rate == START_BYTES_PER_SECOND


@given(
    st.lists(
        st.tuples(
            st.floats(0, 5),
            st.dictionaries(
                st.integers(0, 3),
                st.builds(Look, st.floats(0, 2), st.floats(0, 2), st.integers(0, 2**40), st.integers(0, 9)),
            ),
        )
    )
)
def test_whatever_the_kernel_says_the_rate_stays_a_rate(looks: list[tuple[float, dict[int, Look]]]) -> None:
    courtesy, now = Courtesy(0.0), 0.0
    for seconds, links in looks:
        now += seconds
        assert TRICKLE_BYTES_PER_SECOND <= courtesy.look(now, links) <= RATE_MAX
        assert courtesy.queue_seconds >= 0.0
    assert QUEUE_SECONDS > 0
