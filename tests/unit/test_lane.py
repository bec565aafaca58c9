"""What a link owes over all tags: when its answers are expected, and who is idle."""

from __future__ import annotations

import random

import pytest
from support.pairs import node

from exchange.assembly import CELL_BYTES, Assembly
from exchange.lane import Lane, Request
from exchange.picker import Picker
from exchange.source import Source
from protocol.bitmap import Bitmap
from protocol.manifest import Layout

RATE = 2_400_000.0  # bytes per second
CELL_SECONDS = CELL_BYTES / RATE


def request(chunk: int, now: float) -> Request:
    return Request(chunk, 0, 1, 1, CELL_BYTES, now)


def source(lane: Lane, chunks: int = 32) -> Source:
    return Source(1, node("source"), Bitmap.full(chunks), 0.0, lane)


def measured(lane: Lane) -> float:
    """Let a link deliver at its rate for a while, and be idle then; return when."""
    other = source(lane)
    now = 0.0
    for number in range(32):
        asked = request(number, now)
        other.ask(asked)
        now += CELL_SECONDS
        other.settle(asked)
        other.delivered(asked, now)
    assert lane.expected_rate() == pytest.approx(RATE)
    return now


def test_a_link_answers_for_all_tags_in_the_order_in_which_it_was_asked() -> None:
    lane = Lane()
    now = measured(lane)
    film, song = source(lane), source(lane)
    for number in range(10):
        film.ask(request(number, now))
    song.ask(request(0, now))
    film.ask(request(10, now))
    (expected,) = song.expectations(now)
    assert expected[0] == pytest.approx(11 * CELL_SECONDS)
    assert [seconds for seconds, _ in film.expectations(now)][-1] == pytest.approx(12 * CELL_SECONDS)
    assert song.seconds_for(CELL_BYTES) == pytest.approx(13 * CELL_SECONDS)


def test_what_was_withdrawn_for_one_tag_holds_up_no_other() -> None:
    lane = Lane()
    now = measured(lane)
    film, song = source(lane), source(lane)
    withdrawn = request(0, now)
    film.ask(withdrawn)
    song.ask(request(0, now))
    withdrawn.void = True
    assert [seconds for seconds, _ in song.expectations(now)] == [pytest.approx(CELL_SECONDS)]
    assert not list(film.expectations(now))


def test_who_is_late_with_one_tag_is_expected_later_although_it_delivers_another() -> None:
    lane = Lane()
    now = measured(lane)
    film, song = source(lane), source(lane)
    song.ask(request(0, now))
    for number in range(100):
        (before,) = song.expectations(now)
        asked = request(number % 32, now)
        film.ask(asked)
        now += CELL_SECONDS
        film.settle(asked)
        film.delivered(asked, now)
    (after,) = song.expectations(now)
    assert after[0] > before[0] > 1.0


class Fetch:
    """One file of two sources: 1, whose link has a lane that other files share, and 2."""

    def __init__(self, lane: Lane, now: float) -> None:
        layout = Layout(16 * CELL_BYTES, 16 * CELL_BYTES, 1)
        self.picker = Picker(layout, Assembly(layout), Bitmap.full(1), random.Random(1))
        self.picker.add_source(1, node("source"), Bitmap.full(1), now, lane)
        self.picker.add_source(2, node("other"), Bitmap.full(1), now)

    def doubles(self, now: float) -> bool:
        """Ask 2, which delivers nothing, and let 1 deliver all else; return whether 1 is then asked for the same."""
        slow = {(pick.chunk, pick.offset) for pick in self.picker.picks(2, now)}
        assert slow
        while picks := self.picker.picks(1, now):
            for pick in picks:
                if (pick.chunk, pick.offset) in slow:
                    return True
                self.picker.arrived(1, pick.chunk, pick.offset, now)
        return False


@pytest.mark.parametrize("busy", [False, True])
def test_who_is_busy_with_another_file_doubles_nothing(busy: bool) -> None:
    lane = Lane()
    now = measured(lane)
    other_file = source(lane, 256)
    for number in range(200 if busy else 0):
        other_file.ask(request(number, now))
    assert Fetch(lane, now).doubles(now) is not busy


def test_a_link_that_withdraws_its_offer_of_one_tag_owes_nothing_of_it() -> None:
    lane = Lane()
    now = measured(lane)
    fetch = Fetch(lane, now)
    assert fetch.picker.picks(1, now) and lane.due_bytes
    fetch.picker.remove_source(1)
    assert lane.due_bytes == 0 and not list(lane.in_turn(now))
