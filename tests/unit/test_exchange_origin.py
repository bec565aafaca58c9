"""Storage has an origin to itself while it fetches: who is sent away, invited, served all the same."""

from __future__ import annotations

import random

import pytest

from exchange.seeding import (
    ADMIT_SECONDS,
    AHEAD,
    FIRST_INVITED_SECONDS,
    GAIN,
    HUNGRY_SECONDS,
    INVITE_SECONDS,
    INVITED_SECONDS,
    LINGER_CHUNKS,
    LINGER_SECONDS,
    NONE_OF_LAST,
    OPEN_SECONDS,
    PATIENCE_SECONDS,
    RECEIVERS_AT_ONCE,
    SERVED_SECONDS,
    Seeding,
    Turn,
)
from protocol.bitmap import Bitmap
from protocol.ids import Tag
from protocol.limits import MIB
from protocol.manifest import Layout

MANY = 128
LONG = Tag(b"l" * 32, MANY)
LONG_LAYOUT = Layout.of_size(MANY * 8 * MIB)
ALL_LONG = Bitmap.full(MANY)
STORAGE, ONE, OTHER = 1, 2, 3
# When storage's having joined is no reason any more.
LATER = PATIENCE_SECONDS + 0.1


def origin() -> Seeding:
    """Return that of a node that had all before storage and two others came."""
    seeding = Seeding(random.Random(1))
    for link in (STORAGE, ONE, OTHER):
        seeding.join(link, LONG, 0.0, storage=link == STORAGE, origin=True)
    return seeding


def fetch(seeding: Seeding, link: int, chunk: int, now: float = 0.0) -> None:
    """Let a whole chunk leave."""
    assert seeding.asked(link, LONG, chunk, now) is Turn.FIRST
    seeding.sent(link, LONG, chunk, 8 * MIB, LONG_LAYOUT, 0.0)


def test_while_storage_fetches_and_fills_the_line_others_are_sent_elsewhere() -> None:
    seeding = origin()
    seeding.asked(STORAGE, LONG, 7, LATER)
    for chunk in (7, 8):
        assert seeding.asked(ONE, LONG, chunk, LATER) is Turn.ELSEWHERE
    fetch(seeding, STORAGE, 7, LATER)
    assert seeding.asked(ONE, LONG, 8, LATER) is Turn.ELSEWHERE, "it will ask for the next one"
    assert seeding.asked(ONE, LONG, 8, 2 * LATER) is Turn.FIRST, "it has asked for nothing"


def test_whose_way_is_apart_from_storages_is_not_sent_away() -> None:
    seeding = origin()
    seeding.asked(STORAGE, LONG, 7, 0.0)
    assert seeding.asked(ONE, LONG, 8, 0.0, apart=True) is Turn.FIRST
    assert seeding.asked(OTHER, LONG, 8, 0.0, apart=True) is Turn.AGAIN


def stored_at(seeding: Seeding, *chunks: int) -> None:
    """Let chunks leave to storage, which needs nothing more then."""
    for chunk in chunks:
        fetch(seeding, STORAGE, chunk, LATER)
    seeding.leave(STORAGE, LONG)


def test_what_storage_has_from_us_others_are_to_get_elsewhere() -> None:
    seeding = origin()
    stored_at(seeding, 7)
    for link, chunk, turn in ((ONE, 7, Turn.ELSEWHERE), (OTHER, 7, Turn.ELSEWHERE), (ONE, 8, Turn.FIRST)):
        assert seeding.asked(link, LONG, chunk, LATER) is turn
    assert seeding.asked(OTHER, LONG, 7, LATER, apart=True) is Turn.AGAIN


def test_who_still_lacks_what_he_was_sent_away_for_is_served() -> None:
    seeding = origin()
    stored_at(seeding, 7, 8)
    seeding.asked(ONE, LONG, 7, LATER)
    asked_again = LATER + LINGER_SECONDS + 0.1
    assert seeding.suggestions(ONE, LONG, ALL_LONG, asked_again - 0.2) != [7]
    assert seeding.asked(ONE, LONG, 8, asked_again) is Turn.ELSEWHERE, "it may have the other one"
    assert seeding.suggestions(ONE, LONG, ALL_LONG, asked_again) == [7]
    for chunk in (7, 8, 7):
        assert seeding.asked(ONE, LONG, chunk, asked_again) is Turn.AGAIN
    assert seeding.asked(OTHER, LONG, 7, asked_again) is Turn.ELSEWHERE, "it has not waited"


def test_who_goes_on_asking_us_alone_is_served_on_and_on() -> None:
    seeding = origin()
    stored_at(seeding, 7, 8)
    seeding.asked(ONE, LONG, 7, LATER)
    for turn in range(1, 6):
        now = LATER + turn * LINGER_SECONDS + 0.1
        assert seeding.asked(ONE, LONG, 7 if turn == 1 else 8, now - 0.01 * turn) is Turn.AGAIN


def test_who_does_not_come_back_for_a_chunk_has_it_from_others() -> None:
    seeding = origin()
    stored_at(seeding, 7, 8)
    seeding.asked(ONE, LONG, 7, LATER)
    asked_again = LATER + 2 * LINGER_SECONDS + 0.1
    assert seeding.asked(ONE, LONG, 8, asked_again) is Turn.ELSEWHERE
    assert seeding.asked(ONE, LONG, 7, asked_again) is Turn.ELSEWHERE, "now it is the other one that shows it"
    assert seeding.asked(ONE, LONG, 8, asked_again + LINGER_SECONDS + 0.1) is Turn.AGAIN


def test_how_long_one_is_sent_away_grows_with_what_a_chunk_takes() -> None:
    seeding = origin()
    seeding.asked(STORAGE, LONG, 7, LATER)
    seeding.sent(STORAGE, LONG, 7, 8 * MIB, LONG_LAYOUT, LATER, rate=2 * MIB)
    seeding.leave(STORAGE, LONG)
    seeding.asked(ONE, LONG, 7, LATER)
    patience_seconds = LINGER_CHUNKS * 4
    assert seeding.asked(ONE, LONG, 7, LATER + patience_seconds) is Turn.ELSEWHERE
    assert seeding.asked(ONE, LONG, 7, LATER + patience_seconds + 0.1) is Turn.AGAIN


def test_when_the_link_to_storage_is_gone_nobody_is_sent_there() -> None:
    seeding = origin()
    fetch(seeding, STORAGE, 7, LATER)
    seeding.drop(STORAGE)
    assert seeding.asked(ONE, LONG, 7, LATER) is Turn.AGAIN


def test_who_got_the_file_from_others_sends_nobody_away() -> None:
    seeding = Seeding(random.Random(1))
    for link in (STORAGE, ONE):
        seeding.join(link, LONG, 0.0, storage=link == STORAGE)
    seeding.asked(STORAGE, LONG, 7, 0.0)
    assert seeding.asked(ONE, LONG, 8, 0.0) is Turn.FIRST


def test_storage_that_was_just_offered_it_goes_first_even_if_others_ask_sooner() -> None:
    seeding = origin()
    assert seeding.asked(ONE, LONG, 8, 0.0) is Turn.ELSEWHERE
    assert seeding.asked(ONE, LONG, 8, LATER) is Turn.FIRST, "it does not want it"


def test_storage_that_stopped_asking_keeps_nobody_away() -> None:
    seeding = origin()
    seeding.asked(STORAGE, LONG, 7, LATER)
    assert seeding.asked(ONE, LONG, 8, LATER + HUNGRY_SECONDS) is Turn.ELSEWHERE
    assert seeding.asked(ONE, LONG, 8, LATER + HUNGRY_SECONDS + 0.1) is Turn.FIRST


def test_storage_that_asks_for_nothing_while_nothing_leaves_keeps_nobody_away() -> None:
    seeding = origin()
    seeding.asked(STORAGE, LONG, 7, LATER)
    assert seeding.asked(ONE, LONG, 8, LATER + PATIENCE_SECONDS, idle=True) is Turn.ELSEWHERE, "it may ask again"
    assert seeding.asked(ONE, LONG, 8, LATER + PATIENCE_SECONDS + 0.1, idle=True) is Turn.FIRST
    assert seeding.asked(ONE, LONG, 9, LATER + PATIENCE_SECONDS + 0.2) is Turn.FIRST, "the line is not idle now"
    seeding.asked(STORAGE, LONG, 10, LATER + PATIENCE_SECONDS + 0.3)
    assert seeding.asked(ONE, LONG, 9, LATER + PATIENCE_SECONDS + 0.4) is Turn.ELSEWHERE, "it goes on"


def test_when_storage_is_gone_or_has_all_the_others_are_served() -> None:
    seeding = origin()
    seeding.asked(STORAGE, LONG, 7, LATER)
    seeding.leave(STORAGE, LONG)
    assert seeding.asked(ONE, LONG, 7, LATER) is Turn.FIRST


def test_storage_takes_over_what_another_one_had_begun_with() -> None:
    seeding = origin()
    seeding.asked(ONE, LONG, 7, LATER)
    seeding.sent(ONE, LONG, 7, MIB, LONG_LAYOUT, 0.0)
    fetch(seeding, STORAGE, 7, LATER)
    assert seeding.asked(ONE, LONG, 7, 2 * LATER) is Turn.ELSEWHERE


def many_served() -> tuple[Seeding, list[int]]:
    """Return the seeding of an origin whose storage is silent, where as many are served as may be at once, and them."""
    seeding = origin()
    served = list(range(10, 10 + RECEIVERS_AT_ONCE))
    for link in (*served, 50, 51):
        seeding.join(link, LONG, 0.0, storage=False, origin=True)
    seeding.asked(STORAGE, LONG, 7, 0.0)
    fetch(seeding, STORAGE, 7, 0.0)
    assert all(seeding.asked(link, LONG, 20 + link, LATER) is not Turn.ELSEWHERE for link in served)
    return seeding, served


def test_when_storage_is_silent_few_others_are_served_at_once() -> None:
    seeding, served = many_served()
    assert seeding.asked(50, LONG, 70, LATER) is Turn.ELSEWHERE
    assert seeding.asked(50, LONG, 70, LATER + ADMIT_SECONDS, full=True) is Turn.ELSEWHERE, "nothing is gained"
    assert all(seeding.asked(link, LONG, 21 + link, LATER, full=True) is not Turn.ELSEWHERE for link in served)


def test_while_the_line_is_not_full_one_more_is_served_now_and_then() -> None:
    seeding, _ = many_served()
    assert seeding.asked(50, LONG, 70, LATER + ADMIT_SECONDS) is not Turn.ELSEWHERE
    assert seeding.asked(51, LONG, 71, LATER + ADMIT_SECONDS) is Turn.ELSEWHERE
    assert seeding.asked(51, LONG, 71, LATER + 2 * ADMIT_SECONDS) is not Turn.ELSEWHERE


def test_who_leaves_or_takes_nothing_more_makes_room() -> None:
    seeding, served = many_served()
    seeding.leave(served[0], LONG)
    assert seeding.asked(50, LONG, 70, LATER, full=True) is not Turn.ELSEWHERE
    silent_at = LATER + SERVED_SECONDS + 0.1
    for link in (*served[2:], 50):
        seeding.sent(link, LONG, 20 + link, 1, LONG_LAYOUT, silent_at)
    assert seeding.asked(51, LONG, 71, silent_at, full=True) is not Turn.ELSEWHERE
    assert seeding.asked(served[1], LONG, 72, silent_at, full=True) is Turn.ELSEWHERE


def test_without_storage_all_are_served() -> None:
    seeding, _ = many_served()
    seeding.drop(STORAGE)
    assert all(seeding.asked(link, LONG, 70, LATER, full=True) is not Turn.ELSEWHERE for link in (50, 51))


INVITING = FIRST_INVITED_SECONDS + 0.1


def invited(seeding: Seeding, now: float = INVITING, link: int = ONE) -> list[int]:
    """Return what is suggested to one while storage fetches."""
    seeding.asked(STORAGE, LONG, 0, now)
    return seeding.suggestions(link, LONG, Bitmap.full(MANY), now)


def test_soon_and_then_now_and_then_one_is_invited_to_fetch_a_chunk_beside_storage() -> None:
    seeding = origin()
    assert invited(seeding, FIRST_INVITED_SECONDS - 0.1) == []
    (chunk,) = invited(seeding)
    assert invited(seeding, link=OTHER) == [], "one at a time"
    assert seeding.asked(OTHER, LONG, chunk, INVITING) is Turn.ELSEWHERE
    assert seeding.asked(ONE, LONG, chunk - 1, INVITING) is Turn.ELSEWHERE
    assert seeding.asked(STORAGE, LONG, chunk, INVITING) is Turn.FIRST
    fetch(seeding, ONE, chunk, INVITING)
    assert invited(seeding, INVITING + INVITE_SECONDS - 0.1) == []
    (second,) = invited(seeding, INVITING + INVITE_SECONDS)
    assert second != chunk


def test_who_is_invited_is_served_however_many_others_were_just_now() -> None:
    seeding, _ = many_served()
    (chunk,) = invited(seeding, link=50)
    assert seeding.asked(50, LONG, chunk, INVITING, full=True) is Turn.FIRST
    assert seeding.asked(51, LONG, 71, INVITING, full=True) is Turn.ELSEWHERE


@pytest.mark.parametrize("gain", [1.3, 1.4])
def test_when_clearly_more_leaves_with_the_one_who_was_invited_nobody_is_sent_away(gain: float) -> None:
    seeding = origin()
    (chunk,) = invited(seeding)
    assert seeding.asked(ONE, LONG, chunk, INVITING, rate=1e6) is Turn.FIRST
    assert seeding.asked(ONE, LONG, chunk, INVITING, rate=5e6) is Turn.FIRST
    seeding.sent(ONE, LONG, chunk, 8 * MIB, LONG_LAYOUT, INVITING + 1, rate=gain * 1e6)
    for seconds, turn in ((1.0, Turn.FIRST if gain > GAIN else Turn.ELSEWHERE), (OPEN_SECONDS + 1.1, Turn.ELSEWHERE)):
        seeding.asked(STORAGE, LONG, 0, INVITING + seconds)
        assert seeding.asked(OTHER, LONG, 9, INVITING + seconds) is turn


def test_who_is_invited_and_does_not_come_is_not_waited_for() -> None:
    seeding = origin()
    assert len(invited(seeding)) == 1
    assert len(invited(seeding, INVITING + INVITE_SECONDS, OTHER)) == 1
    assert INVITE_SECONDS > INVITED_SECONDS


def test_who_is_invited_and_takes_nothing_in_is_not_waited_for() -> None:
    seeding = origin()
    (chunk,) = invited(seeding)
    assert seeding.asked(ONE, LONG, chunk, INVITING) is Turn.FIRST
    seeding.sent(ONE, LONG, chunk, MIB, LONG_LAYOUT, INVITING + INVITE_SECONDS - INVITED_SECONDS, rate=1e6)
    assert invited(seeding, INVITING + INVITE_SECONDS, OTHER) == [], "it is slow, and goes on"
    assert len(invited(seeding, INVITING + INVITE_SECONDS + 0.1, OTHER)) == 1


def test_who_is_sent_away_keeps_nothing_back_and_may_be_invited() -> None:
    seeding = origin()
    assert seeding.asked(ONE, LONG, 5, LATER) is Turn.FIRST, "storage does not want it yet"
    assert len(seeding.suggestions(ONE, LONG, Bitmap.full(MANY), LATER)) == AHEAD
    seeding.asked(STORAGE, LONG, 60, INVITING)
    assert seeding.asked(ONE, LONG, 5, INVITING) is Turn.ELSEWHERE
    assert set(seeding._tags[LONG].owners) == {60}
    assert len(invited(seeding)) == 1


@pytest.mark.parametrize(("rate", "chunks"), [(MIB / 2, 1), (2 * MIB, 0)])
def test_of_a_file_of_few_chunks_somebody_gets_one_when_storage_takes_long(rate: float, chunks: int) -> None:
    tag, layout = Tag(b"s" * 32, NONE_OF_LAST), Layout.of_size(NONE_OF_LAST * MIB)
    seeding = Seeding(random.Random(1))
    for link in (STORAGE, ONE, OTHER):
        seeding.join(link, tag, 0.0, storage=link == STORAGE, origin=True)
    seeding.asked(STORAGE, tag, 0, INVITING)
    seeding.sent(STORAGE, tag, 0, MIB // 2, layout, INVITING, rate=rate)
    assert len(seeding.suggestions(ONE, tag, Bitmap.full(NONE_OF_LAST), INVITING)) == chunks
    assert seeding.suggestions(OTHER, tag, Bitmap.full(NONE_OF_LAST), INVITING) == [], "one at a time"


def test_nobody_is_invited_to_one_of_the_last_chunks() -> None:
    seeding = origin()
    seeding.asked(STORAGE, LONG, 60, INVITING)
    last = range(MANY - NONE_OF_LAST, MANY)
    assert seeding.suggestions(ONE, LONG, Bitmap.of(MANY, last), INVITING) == []
    assert len(seeding.suggestions(ONE, LONG, Bitmap.of(MANY, (70, *last)), INVITING)) == 1


def test_nobody_else_is_suggested_anything_while_storage_fetches() -> None:
    seeding = origin()
    assert seeding.suggestions(ONE, LONG, Bitmap.full(MANY), 0.0) == []
    assert len(seeding.suggestions(STORAGE, LONG, Bitmap.full(MANY), 0.0)) == AHEAD
