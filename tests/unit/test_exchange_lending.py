"""What a storage node assigns to those who lend their lines."""

from __future__ import annotations

import random

from exchange.assembly import Assembly
from exchange.lending import PATIENCE_SECONDS, REST_SECONDS_FIRST, Lending
from exchange.picker import Picker
from exchange.source import Source
from protocol.bitmap import Bitmap
from protocol.ids import NodeId
from protocol.limits import MIB
from protocol.manifest import Layout

CHUNKS = 32
LAYOUT = Layout.of_size(CHUNKS * MIB)
ALL = Bitmap.full(CHUNKS)
RATE = 2_400_000  # a line of 20 Mbit/s


def source_of(number: int, have: Bitmap, rate: float | None = RATE) -> Source:
    source = Source(number, NodeId(f"node{number}"), have, 0.0)
    if rate is not None:
        source.rate.delivered(round(rate), 0.0, 1.0)
    return source


def lending_with(*links: int) -> Lending:
    lending = Lending(LAYOUT, random.Random(1))
    for link in links:
        lending.join(link)
    return lending


def proven(lending: Lending, links: tuple[int, ...], *, seconds: float = 0.05) -> dict[int, Source]:
    """Let each lender bring its first chunk so fast; return the sources they have become."""
    sources = {}
    for link, chunks in lending.assign(0.0, ALL, ALL, {}, {}):
        lending.offered(link, chunks, seconds)
        sources[link] = source_of(link, Bitmap.of(CHUNKS, chunks))
    assert set(sources) == set(links)
    return sources


def test_a_lender_begins_with_one_chunk_and_another_one_with_another() -> None:
    given = dict(lending_with(1, 2, 3).assign(0.0, ALL, ALL, {}, {}))
    chunks = [chunk for own in given.values() for chunk in own]
    assert set(given) == {1, 2, 3} and len(chunks) == 3 == len(set(chunks))


def test_until_it_has_shown_what_it_can_do_it_gets_no_more() -> None:
    lending = lending_with(1)
    assert lending.assign(0.0, ALL, ALL, {}, {})
    assert not lending.assign(1.0, ALL, ALL, {}, {})


def test_a_lender_is_given_what_it_pushes_in_about_a_second() -> None:
    lending = lending_with(1)
    sources = proven(lending, (1,))
    ((_, chunks),) = lending.assign(0.1, ALL, ALL, {}, sources)
    assert 2 <= 1 + len(chunks) <= 4
    assert not lending.assign(0.2, ALL, ALL, {}, sources)


def test_what_was_verified_makes_room_for_the_next() -> None:
    lending = lending_with(1)
    sources = proven(lending, (1,))
    first = lending.assign(0.1, ALL, ALL, {}, sources)[0][1]
    wanted = ALL - Bitmap.of(CHUNKS, first) - sources[1].have
    lending.offered(1, first, 0.2)
    assert lending.assign(1.5, wanted, wanted, {}, sources)


def test_a_lender_that_brings_nothing_rests_and_its_chunks_are_free() -> None:
    lending = lending_with(1)
    lending.assign(0.0, ALL, ALL, {}, {})
    late = PATIENCE_SECONDS + 5.0
    assert lending.reserved and not lending.assign(late, ALL, ALL, {}, {})
    assert not lending.reserved
    assert lending.assign(late + REST_SECONDS_FIRST + 1, ALL, ALL, {}, {})


def test_a_lender_that_fetches_more_slowly_than_it_pushes_gets_nothing() -> None:
    lending = lending_with(1)
    sources = proven(lending, (1,), seconds=2.0)
    now = 2.0
    for _ in range(3):
        for _, chunks in lending.assign(now, ALL, ALL, {}, sources):
            now += 2.0 * len(chunks)
            lending.offered(1, chunks, now)
    assert not lending.assign(now, Bitmap(CHUNKS), ALL, {}, sources)
    assert not lending.reserved


def test_who_leaves_frees_what_it_was_given() -> None:
    lending = lending_with(1)
    lending.assign(0.0, ALL, ALL, {}, {})
    lending.leave(1)
    assert not lending.reserved and 1 not in lending


def test_at_the_end_a_lender_with_nothing_to_do_gets_a_part_of_what_another_one_makes() -> None:
    lending = lending_with(1, 2)
    sources = proven(lending, (1, 2))
    sources[1].have.add(31)
    given = lending.assign(1.0, Bitmap.of(CHUNKS, (31,)), Bitmap(CHUNKS), {31: 900_000}, sources)
    assert given == [(2, [31])]
    assert not lending.assign(1.1, Bitmap.of(CHUNKS, (31,)), Bitmap(CHUNKS), {31: 850_000}, sources)


def test_nobody_gets_a_copy_as_long_as_there_is_something_nobody_has() -> None:
    lending = lending_with(1, 2)
    sources = proven(lending, (1, 2))
    sources[1].have.add(31)
    fresh = ALL - Bitmap.of(CHUNKS, (31,)) - sources[1].have - sources[2].have
    given = [chunk for _, chunks in lending.assign(1.0, ALL, fresh, {31: 10**9}, sources) for chunk in chunks]
    assert 2 <= len(given) == len(set(given)) and 31 not in given


def test_the_last_ones_go_to_those_who_have_least_to_push() -> None:
    lending = lending_with(1, 2)
    sources = proven(lending, (1, 2))
    last = Bitmap.of(CHUNKS, (29, 30))
    given = dict(lending.assign(1.0, last, last, {}, sources))
    assert sorted(given[1] + given[2]) == [29, 30] and len(given[1]) == 1


def test_a_copy_that_would_come_too_late_is_not_fetched() -> None:
    lending = lending_with(1, 2)
    sources = proven(lending, (1, 2), seconds=0.4)
    sources[1].have.add(31)
    rests = {31: int(RATE * 0.6)}  # 0.3 seconds for two lines
    assert not lending.assign(1.0, Bitmap.of(CHUNKS, (31,)), Bitmap(CHUNKS), rests, sources)


def test_who_rests_gets_no_copy() -> None:
    lending = lending_with(1, 2)
    sources = proven(lending, (1, 2))
    given = dict(lending.assign(0.1, ALL, ALL, {}, sources))
    late = PATIENCE_SECONDS + 5.0
    lending.offered(1, given[1], 0.2)
    sources[1].have.add(31)
    assert all(link != 2 for link, _ in lending.assign(late, ALL, Bitmap(CHUNKS), {31: 900_000}, sources))


# --- with the picker ---


def picker_with(rng: int = 1) -> Picker:
    return Picker(LAYOUT, Assembly(LAYOUT), ALL, random.Random(rng))


def test_nobody_begins_with_what_a_lender_was_given() -> None:
    picker = picker_with()
    picker.lending.join(2)
    ((_, given),) = picker.assignments(0.0)
    picker.add_source(1, NodeId("uploader"), ALL, 0.0)
    begun: set[int] = set()
    now = 0.0
    while len(begun) < CHUNKS - 1:
        for pick in picker.picks(1, now):
            begun.add(pick.chunk)
            whole, _ = picker.arrived(1, pick.chunk, pick.offset, now)
            if whole:
                picker.verified(pick.chunk)
        now += 0.1
        if not picker.wanted - Bitmap.of(CHUNKS, given):
            break
    assert begun == set(range(CHUNKS)) - set(given)


def test_in_the_end_whoever_is_idle_takes_what_a_lender_has_not_begun() -> None:
    picker = Picker(LAYOUT, Assembly(LAYOUT), Bitmap.of(CHUNKS, (7,)), random.Random(1))
    picker.lending.join(2)
    assert picker.assignments(0.0) == [(2, [7])]
    picker.add_source(1, NodeId("uploader"), ALL, 0.0)
    assert {pick.chunk for pick in picker.picks(1, 0.0)} == {7}
    assert not picker.lending.reserved


def test_a_suggested_chunk_is_begun_first() -> None:
    picker = picker_with()
    picker.add_source(1, NodeId("holder"), ALL, 0.0)
    picker.suggest(1, [9, 4])
    assert picker.picks(1, 0.0)[0].chunk == 9


def test_a_suggestion_of_what_is_not_offered_is_ignored() -> None:
    picker = picker_with()
    picker.add_source(1, NodeId("holder"), Bitmap.of(CHUNKS, (3,)), 0.0)
    picker.suggest(1, [9])
    assert picker.picks(1, 0.0)[0].chunk == 3
