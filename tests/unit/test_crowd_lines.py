"""Simulated lines: what waits behind what, and how long (tests/support/crowd_lines.py)."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import pytest
from support.crowd_lines import KERNEL_BYTES, QUEUE_SECONDS, TURN_BYTES, WORD_BYTES, Intake, Line, Way

RATE = 2.5e6
LATENCY = 0.01


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, seconds: float, happen: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, happen, arguments))

    def run(self) -> None:
        while self._events:
            self.now, _, happen, arguments = heapq.heappop(self._events)
            happen(*arguments)


class Story:
    """When what happened."""

    def __init__(self, clock: Clock) -> None:
        self.at: dict[str, float] = {}
        self._clock = clock

    def note(self, name: str) -> None:
        assert name not in self.at
        self.at[name] = self._clock.now


def block(way: Way, story: Story, name: str, size_bytes: int) -> None:
    way.send(size_bytes, (story.note, (f"{name} left",)), (story.note, (f"{name} came",)))


def test_a_block_has_left_when_the_kernel_has_it_and_comes_when_the_line_has_carried_it() -> None:
    clock = Clock()
    story = Story(clock)
    block(Way(clock, Line(clock, RATE), None, LATENCY), story, "one", KERNEL_BYTES)
    clock.run()
    assert story.at["one left"] == 0
    assert story.at["one came"] == pytest.approx(KERNEL_BYTES / RATE + LATENCY)


def test_the_kernel_takes_no_more_than_it_has_room_for() -> None:
    clock = Clock()
    story = Story(clock)
    way = Way(clock, Line(clock, RATE), None, LATENCY)
    block(way, story, "one", 4 * KERNEL_BYTES)
    clock.run()
    assert story.at["one left"] == pytest.approx(3 * KERNEL_BYTES / RATE, abs=TURN_BYTES / RATE)


def test_a_word_waits_behind_what_the_kernel_has_of_its_connection_but_not_behind_what_waits_to_be_written() -> None:
    clock = Clock()
    story = Story(clock)
    way = Way(clock, Line(clock, RATE), None, LATENCY)
    block(way, story, "one", KERNEL_BYTES)
    block(way, story, "two", KERNEL_BYTES)
    way.say(story.note, "word")
    clock.run()
    assert story.at["word"] >= KERNEL_BYTES / RATE + LATENCY
    assert story.at["one came"] <= story.at["word"] < story.at["two came"]


def test_a_word_on_another_connection_waits_for_the_lines_queue_only() -> None:
    clock = Clock()
    story = Story(clock)
    line = Line(clock, RATE)
    for name in ("one", "two", "three"):
        block(Way(clock, line, None, LATENCY), story, name, 10 * KERNEL_BYTES)
    clock.after(0.3, Way(clock, line, None, LATENCY).say, story.note, "word")
    clock.run()
    turn_seconds = TURN_BYTES / RATE
    assert QUEUE_SECONDS - turn_seconds < story.at["word"] - 0.3 - LATENCY < QUEUE_SECONDS + 4 * turn_seconds
    assert story.at["word"] < story.at["one came"]


def test_connections_share_a_line_by_turns() -> None:
    clock = Clock()
    story = Story(clock)
    line = Line(clock, RATE)
    for name in ("one", "two"):
        block(Way(clock, line, None, LATENCY), story, name, 1_000_000)
    clock.run()
    assert story.at["one came"] == pytest.approx(2_000_000 / RATE, abs=0.1)
    assert story.at["two came"] == pytest.approx(2_000_000 / RATE + LATENCY)


def test_a_narrow_receiver_holds_up_nobody_else() -> None:
    clock = Clock()
    story = Story(clock)
    line = Line(clock, RATE)
    block(Way(clock, line, Intake(clock, RATE / 10), LATENCY), story, "narrow", 1_000_000)
    block(Way(clock, line, Intake(clock, None), LATENCY), story, "wide", 1_000_000)
    clock.run()
    assert story.at["narrow came"] == pytest.approx(10_000_000 / RATE, rel=0.05)
    assert story.at["wide came"] < 1.5 * 1_000_000 / RATE


def test_several_senders_share_what_one_receiver_takes_in() -> None:
    clock = Clock()
    story = Story(clock)
    intake = Intake(clock, RATE)
    for name in ("one", "two"):
        block(Way(clock, Line(clock, RATE), intake, LATENCY), story, name, 1_000_000)
    clock.run()
    assert max(story.at.values()) == pytest.approx(2_000_000 / RATE + LATENCY, rel=0.05)


def test_who_is_gone_sends_nothing_more() -> None:
    clock = Clock()
    story = Story(clock)
    line = Line(clock, RATE)
    way = Way(clock, line, None, LATENCY)
    block(way, story, "one", 10 * KERNEL_BYTES)
    clock.after(0.1, setattr, line, "gone", True)
    clock.run()
    assert "one came" not in story.at
    assert clock.now < 0.1 + QUEUE_SECONDS + TURN_BYTES / RATE + WORD_BYTES / RATE + LATENCY
