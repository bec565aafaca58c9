"""Each chunk leaves once before any leaves twice: what a sender suggests, and what it makes wait."""

from __future__ import annotations

import random

from exchange.breadth import AT_LEAST, AT_LEAST_WIDE, LOOK_SECONDS, REST_SECONDS, Breadth
from exchange.flow import Flow
from exchange.seeding import (
    AHEAD,
    HOLD_CHUNKS,
    HOLD_SECONDS_MAX,
    PATIENCE_SECONDS,
    RECEIVERS_AT_ONCE,
    RECEIVERS_PER_CHUNK,
    Seeding,
)
from exchange.uplink import FIRST_SECONDS, REPEATS_AT_ONCE, STUCK_SECONDS, Purpose, Turn, Uplink, Wanted
from protocol.bitmap import Bitmap
from protocol.ids import Tag
from protocol.limits import KIB, MIB
from protocol.manifest import Layout

CHUNKS = 16
TAG = Tag(b"t" * 32, CHUNKS)
LAYOUT = Layout.of_size(CHUNKS * MIB)
ALL = Bitmap.full(CHUNKS)


def seeding_for(links: int, *, storage: int = 0) -> Seeding:
    seeding = Seeding(random.Random(1))
    for link in range(1, links + 1):
        seeding.join(link, TAG, storage=link == storage)
    return seeding


def test_one_receiver_alone_is_suggested_nothing() -> None:
    assert seeding_for(1).suggestions(1, TAG, ALL, 0.0) == []


def test_no_chunk_is_suggested_to_two_receivers() -> None:
    seeding = seeding_for(4)
    suggested = [chunk for link in range(1, 5) for chunk in seeding.suggestions(link, TAG, ALL, 0.0)]
    assert len(suggested) == 4 * AHEAD == len(set(suggested))


def test_only_what_is_held_is_suggested() -> None:
    seeding = seeding_for(2)
    assert set(seeding.suggestions(1, TAG, Bitmap.of(CHUNKS, (3, 9, 11)), 0.0)) <= {3, 9, 11}


def test_a_receiver_that_asks_is_suggested_the_next_one() -> None:
    seeding = seeding_for(2)
    first, second = seeding.suggestions(1, TAG, ALL, 0.0)
    assert seeding.suggestions(1, TAG, ALL, 0.0) == []
    assert not seeding.asked(1, TAG, first, 0.0)
    (third,) = seeding.suggestions(1, TAG, ALL, 0.0)
    assert third not in (first, second)


def test_what_another_one_is_getting_or_had_can_wait() -> None:
    seeding = seeding_for(2)
    assert not seeding.asked(1, TAG, 5, 0.0)
    assert seeding.asked(2, TAG, 5, 0.0)
    seeding.sent(1, TAG, 5, MIB, LAYOUT, 0.0)
    assert seeding.asked(2, TAG, 5, 0.0)


def test_storage_never_waits() -> None:
    seeding = seeding_for(2, storage=2)
    assert not seeding.asked(1, TAG, 5, 0.0)
    assert not seeding.asked(2, TAG, 5, 0.0)


def test_what_storage_was_suggested_nobody_else_takes_first() -> None:
    seeding = seeding_for(3, storage=2)
    first, second = seeding.suggestions(2, TAG, ALL, 0.0)
    assert seeding.asked(1, TAG, first, 0.1)
    assert not seeding.asked(2, TAG, first, 0.2)
    assert not seeding.asked(2, TAG, second, 0.3)


def test_who_fetches_for_storage_never_waits_and_is_suggested_nothing() -> None:
    seeding = seeding_for(3, storage=1)
    seeding.relays(2, TAG)
    assert not seeding.asked(3, TAG, 5, 0.0)
    assert not seeding.asked(2, TAG, 5, 0.0)
    assert seeding.suggestions(2, TAG, ALL, 0.0) == []
    assert seeding.suggestions(3, TAG, ALL, 0.0)


def test_the_last_chunks_are_left_to_storage() -> None:
    seeding = seeding_for(3, storage=2)
    last = Bitmap.of(CHUNKS, (1, 2))
    assert seeding.suggestions(1, TAG, last, 0.0) == []
    assert sorted(seeding.suggestions(2, TAG, last, 0.0)) == [1, 2]


def test_who_asks_for_one_of_the_last_chunks_lets_storage_go_first() -> None:
    seeding = seeding_for(3, storage=2)
    for chunk in range(8):
        seeding.asked(1, TAG, chunk, 0.0)
    assert seeding.asked(1, TAG, 8, 0.0)
    assert not seeding.asked(2, TAG, 8, 0.0)


def test_a_suggestion_that_is_not_followed_goes_to_another_one() -> None:
    seeding = seeding_for(2)
    two = Bitmap.of(CHUNKS, (1, 2, 3))
    ignored = seeding.suggestions(1, TAG, two, 0.0)
    (left,) = set(two) - set(ignored)
    seeding.asked(1, TAG, left, PATIENCE_SECONDS + 0.1)
    assert sorted(seeding.suggestions(2, TAG, two, PATIENCE_SECONDS + 0.1)) == sorted(ignored)


def test_who_leaves_within_a_chunk_leaves_it_to_others() -> None:
    seeding = seeding_for(3)
    seeding.asked(1, TAG, 5, 0.0)
    seeding.sent(1, TAG, 5, MIB // 2, LAYOUT, 0.0)
    seeding.drop(1)
    assert not seeding.asked(2, TAG, 5, 0.0)


def test_nothing_is_remembered_of_a_tag_that_nobody_fetches() -> None:
    seeding = seeding_for(2)
    seeding.asked(1, TAG, 5, 0.0)
    seeding.leave(1, TAG)
    seeding.leave(2, TAG)
    assert not seeding._tags


# --- the uplink ---


def full_uplink() -> Uplink:
    """Return one whose line is known to be full: a megabyte a second for long."""
    uplink = Uplink(0.0, None, None)
    uplink.add(9, Wanted(TAG, 9, 0, MIB), Purpose.OWN, Turn.WITHHELD)
    assert uplink.next_grant(0.0) is not None  # and it never ends: something always leaves
    for tenth in range(100):
        uplink.flowed(100_000, tenth / 10)
    return uplink


def test_what_leaves_again_waits_for_what_leaves_first() -> None:
    uplink = full_uplink()
    now = 9.9
    uplink.add(1, Wanted(TAG, 1, 0, 64 * KIB), Purpose.OWN, Turn.WITHHELD)
    uplink.add(2, Wanted(TAG, 2, 0, 64 * KIB), Purpose.OWN, Turn.FIRST)
    grant = uplink.next_grant(now)
    assert grant is not None and grant.link == 2
    assert uplink.next_grant(now) is None
    assert 0 < uplink.wait_seconds(now) < 1


def test_what_leaves_again_leaves_when_nothing_left_first_for_a_while() -> None:
    uplink = full_uplink()
    uplink.add(2, Wanted(TAG, 2, 0, 64 * KIB), Purpose.OWN, Turn.FIRST)
    assert uplink.next_grant(9.9) is not None
    uplink.add(1, Wanted(TAG, 1, 0, 64 * KIB), Purpose.OWN, Turn.WITHHELD)
    grant = uplink.next_grant(9.9 + FIRST_SECONDS)
    assert grant is not None and grant.link == 1


def test_a_slow_first_reader_does_not_hold_up_the_others() -> None:
    uplink = full_uplink()
    for number in range(4):
        uplink.add(2, Wanted(TAG, 2, number * 64 * KIB, 64 * KIB), Purpose.OWN, Turn.FIRST)
    uplink.add(1, Wanted(TAG, 1, 0, 64 * KIB), Purpose.OWN, Turn.WITHHELD)
    granted = [uplink.next_grant(12.0 + second / 10) for second in range(4)]
    assert [grant.link for grant in granted if grant is not None] == [2, 2, 1]


def test_own_first_and_again_go_before_help() -> None:
    uplink = Uplink(0.0, None, None)
    uplink.flowed(1, 0.0)
    uplink.add(1, Wanted(TAG, 1, 0, KIB), Purpose.HELP)
    uplink.add(2, Wanted(TAG, 2, 0, KIB), Purpose.OWN, Turn.WITHHELD)
    uplink.add(3, Wanted(TAG, 3, 0, KIB), Purpose.OWN, Turn.FIRST)
    order: list[int] = []
    now = 0.0
    while len(order) < 3:
        grant = uplink.next_grant(now)
        if grant is None:
            now += uplink.wait_seconds(now)
        else:
            order.append(grant.link)
    assert order[0] == 3 and set(order) == {1, 2, 3}


def test_the_burst_into_the_kernels_buffers_is_no_rate() -> None:
    flow = Flow(0.0)
    flow.left(10_000_000, 0.0)
    for tenth in range(1, 60):
        flow.left(100_000, tenth / 10)
    assert flow.is_full(5.9)


def test_a_line_that_carries_far_less_than_before_is_not_full() -> None:
    flow = Flow(0.0)
    for tenth in range(60):
        flow.left(100_000, tenth / 10)
    for tenth in range(60, 80):
        flow.left(10_000, tenth / 10)
    assert not flow.is_full(7.9)


def test_what_leaves_again_need_not_wait_where_nothing_else_does() -> None:
    uplink = Uplink(0.0, None, None)
    for tenth in range(100):
        now = tenth / 10
        uplink.add(1, Wanted(TAG, tenth % CHUNKS, tenth, 64 * KIB), Purpose.OWN, Turn.FIRST)
        uplink.add(2, Wanted(TAG, tenth % CHUNKS, tenth, 64 * KIB), Purpose.OWN, Turn.WITHHELD)
        for link in (1, 2):
            grant = uplink.next_grant(now)
            if grant is None:
                assert link == 2 and now <= 0.2, "nothing is known of the line yet"
                uplink.cancel(2, TAG, tenth % CHUNKS, tenth)
                continue
            assert grant.link == link
            uplink.flowed(64 * KIB, now)
            uplink.sent(link, now + 0.001)


def test_who_gets_little_of_the_line_is_given_no_chunk_that_it_would_get_last() -> None:
    tag = Tag(b"l" * 32, 64)
    layout = Layout.of_size(64 * MIB)
    seeding = Seeding(random.Random(1))
    for link in (1, 2, 3):
        seeding.join(link, tag, storage=link == 3)
    held = Bitmap.full(64)
    slow, quick = seeding.suggestions(1, tag, held, 0.0)[0], 0
    seeding.asked(1, tag, slow, 0.0)
    while quick < 24:
        for chunk in seeding.suggestions(2, tag, held, 0.0):
            seeding.asked(2, tag, chunk, 0.0)
            seeding.sent(2, tag, chunk, MIB, layout, 0.0)
            quick += 1
        seeding.sent(1, tag, slow, 16 * KIB, layout, 0.0)
    assert len(held) - quick > 3 * (AHEAD + 1), "they are not the last ones"
    assert seeding.suggestions(2, tag, held, 0.0)
    assert not seeding.suggestions(1, tag, held, 0.0)
    assert seeding.suggestions(3, tag, held, 0.0)


def test_what_two_got_in_part_has_not_left() -> None:
    seeding = seeding_for(2)
    assert not seeding.asked(1, TAG, 5, 0.0)
    seeding.sent(1, TAG, 5, MIB // 2, LAYOUT, 0.0)
    assert seeding.asked(2, TAG, 5, 0.0)
    seeding.sent(2, TAG, 5, MIB // 2, LAYOUT, 0.0)
    assert not seeding.asked(1, TAG, 5, 0.0), "nobody has the whole chunk: its owner goes first"
    seeding.sent(1, TAG, 5, MIB // 2, LAYOUT, 0.0)
    assert seeding.asked(1, TAG, 5, 0.0)


def test_of_a_large_crowd_only_a_few_get_first_copies_at_a_time() -> None:
    tag = Tag(b"l" * 32, 200)
    seeding = Seeding(random.Random(1))
    for link in range(1, 51):
        seeding.join(link, tag, storage=link == 50)
    held = Bitmap.full(200)
    suggested = [link for link in range(1, 51) if seeding.suggestions(link, tag, held, 0.0)]
    assert suggested == [*range(1, RECEIVERS_AT_ONCE + 1), 50], "storage is one of them always"
    assert seeding.asked(20, tag, 199, 0.0)
    for link in range(1, 9):
        seeding.leave(link, tag)
    assert seeding.suggestions(20, tag, held, 0.0), "somebody else's turn has come"


def test_who_has_no_turn_takes_nothing_that_another_one_has_in_reserve() -> None:
    tag = Tag(b"l" * 32, 200)
    seeding = Seeding(random.Random(1))
    for link in range(1, 51):
        seeding.join(link, tag, storage=link == 50)
    held = Bitmap.full(200)
    reserves = [seeding.suggestions(link, tag, held, 0.0)[-1] for link in range(1, RECEIVERS_AT_ONCE + 1)]
    assert all(seeding.asked(20, tag, chunk, 0.1) for chunk in reserves)
    assert seeding.asked(2, tag, reserves[0], 0.1) is False, "one whose turn it is may"


def test_of_hundreds_of_links_only_a_few_get_something_again_while_something_leaves_first() -> None:
    uplink = Uplink(0.0, None, None)
    for link in range(1, 201):
        uplink.add(link, Wanted(TAG, 1, 0, 64 * KIB), Purpose.OWN, Turn.WITHHELD)
    uplink.add(201, Wanted(TAG, 2, 0, 64 * KIB), Purpose.OWN, Turn.FIRST)
    granted = [grant.link for grant in iter(lambda: uplink.next_grant(0.0), None)]
    assert granted == [201]
    later = [grant.link for grant in iter(lambda: uplink.next_grant(0.5), None)]
    assert len(later) <= REPEATS_AT_ONCE
    now = FIRST_SECONDS + 0.1
    under_way = granted_links(uplink, now)
    served: list[int] = []
    while under_way:
        assert len(under_way) <= 2 * AT_LEAST, "what comes first then would wait behind all of them"
        now += 0.01
        served.append(under_way.pop(0))
        uplink.sent(served[-1], now)
        under_way += granted_links(uplink, now)
    assert sorted(later + served) == list(range(1, 201))


# --- few at a time ---


def granted_links(uplink: Uplink, now: float) -> list[int]:
    return [grant.link for grant in iter(lambda: uplink.next_grant(now), None)]


def chunk_for(uplink: Uplink, link: int, chunk: int, blocks: int = 4, turn: Turn = Turn.FIRST, tag: Tag = TAG) -> None:
    for number in range(blocks):
        assert uplink.add(link, Wanted(tag, chunk, number * 64 * KIB, 64 * KIB), Purpose.OWN, turn)


def test_first_copies_go_to_few_receivers_at_a_time_and_to_the_next_when_those_have_theirs() -> None:
    uplink = Uplink(0.0, None, None)
    for link in range(1, 9):
        chunk_for(uplink, link, chunk=link)
    under_way = granted_links(uplink, 0.0)
    assert set(under_way) == set(range(1, AT_LEAST + 1))
    now = 0.0
    while under_way:
        now += 0.01
        uplink.sent(under_way.pop(0), now)
        under_way += granted_links(uplink, now)
        assert len(set(under_way)) <= AT_LEAST
    assert not any(uplink.waiting(link) for link in range(1, 9)), "everybody had its turn"


def test_whoever_was_begun_with_goes_on_before_another_one_is_begun_with() -> None:
    uplink = Uplink(0.0, None, None)
    last = AT_LEAST + 1
    for link in range(1, last + 1):
        chunk_for(uplink, link, chunk=link, blocks=8)
    assert last not in granted_links(uplink, 0.0)
    for tenth in range(1, 7):
        uplink.sent(1, tenth / 10)
        assert granted_links(uplink, tenth / 10) == [1], "the last one has had less, and waits all the same"


def test_who_takes_nothing_is_not_one_of_the_few() -> None:
    uplink = Uplink(0.0, None, None)
    last = AT_LEAST + 1
    for link in range(1, last + 1):
        chunk_for(uplink, link, chunk=link)
    assert last not in granted_links(uplink, 0.0)
    assert set(granted_links(uplink, STUCK_SECONDS + 0.1)) == {last}


def known_uplink() -> Uplink:
    """Return one whose line is known to carry ten megabytes a second, and does; nothing waits."""
    uplink = Uplink(0.0, None, None)
    for tenth in range(100):
        uplink.flowed(1_000_000, tenth / 10)
    return uplink


def test_behind_receivers_that_are_slower_than_our_line_the_next_ones_turn_comes_at_once() -> None:
    uplink = known_uplink()
    now, last = 9.9, AT_LEAST + 1
    for link in range(1, last + 1):
        chunk_for(uplink, link, chunk=link)
    under_way = granted_links(uplink, now)
    assert last not in under_way
    line_seconds = len(under_way) * 64 * KIB / 1e7
    assert granted_links(uplink, now + line_seconds) == [], "so long it takes when all is well"
    assert set(granted_links(uplink, now + 1.6 * line_seconds)) == {last}


def test_while_less_leaves_than_our_line_carries_everybody_gets_something() -> None:
    uplink = known_uplink()
    for link in range(1, 9):
        chunk_for(uplink, link, chunk=link)
    assert set(granted_links(uplink, 10.6)) == set(range(1, 9))


def test_each_file_has_few_receivers_of_its_own() -> None:
    uplink = Uplink(0.0, None, None)
    for link in range(1, 9):
        chunk_for(uplink, link, chunk=link)
    chunk_for(uplink, 9, chunk=1, tag=Tag(b"o" * 32, CHUNKS))
    assert set(granted_links(uplink, 0.0)) == {*range(1, AT_LEAST + 1), 9}


def test_on_a_wide_line_everybody_gets_something_at_once() -> None:
    uplink = Uplink(0.0, None, None)
    for link in range(1, 9):
        chunk_for(uplink, link, link, turn=Turn.of(again=link > 1, wide=True))
    assert set(granted_links(uplink, 0.0)) == set(range(1, 9))


def test_on_a_wide_line_with_many_receivers_some_have_their_chunk_before_the_others_begin() -> None:
    uplink = Uplink(0.0, None, None)
    for link in range(1, 51):
        chunk_for(uplink, link, link, turn=Turn.LATER)
    assert set(granted_links(uplink, 0.0)) == set(range(1, AT_LEAST_WIDE + 1))


def test_what_is_withheld_leaves_at_a_moment_when_nothing_else_does() -> None:
    uplink = full_uplink()
    uplink.drop(9, 9.9)
    chunk_for(uplink, 2, 2, blocks=1)
    chunk_for(uplink, 1, 1, blocks=1, turn=Turn.WITHHELD)
    assert granted_links(uplink, 9.9) == [2]
    uplink.sent(2, 9.95)
    assert granted_links(uplink, 9.95) == [1]


def test_withheld_requests_for_one_chunk_are_taken_back() -> None:
    uplink = full_uplink()
    chunk_for(uplink, 1, 1)
    chunk_for(uplink, 2, 1, turn=Turn.WITHHELD)
    chunk_for(uplink, 3, 1, blocks=2, turn=Turn.WITHHELD)
    chunk_for(uplink, 3, 2, blocks=1, turn=Turn.WITHHELD)
    assert [link for link, _ in uplink.take_back(TAG, 1)] == [2] * 4 + [3] * 2
    assert [uplink.waiting(link) for link in (1, 2, 3)] == [4, 0, 1]
    assert not uplink.take_back(TAG, 1)


def test_more_receivers_are_tried_and_stay_as_long_as_more_leaves_by_it() -> None:
    breadth = Breadth()
    now = 0.0
    counts: list[int] = []
    for _ in range(200):
        now += 0.1
        counts.append(breadth.count(now, 1e6 * min(breadth.count(now, 0.0) if not counts else counts[-1], 6)))
    assert counts[0] == AT_LEAST and max(counts) <= 13
    assert 6 <= counts[-1] <= 9, "six narrow lines fill ours"


def test_where_more_receivers_bring_nothing_they_are_few_most_of_the_time() -> None:
    breadth = Breadth()
    counts = [breadth.count(tenth / 10, 1e6) for tenth in range(1000)]
    assert max(counts) == AT_LEAST + AT_LEAST // 2
    assert counts.count(AT_LEAST) > 0.8 * len(counts)
    assert LOOK_SECONDS < REST_SECONDS


# --- what has left is for the others to pass on ---


def origin_of(links: int) -> Seeding:
    seeding = Seeding(random.Random(1))
    for link in range(1, links + 1):
        seeding.join(link, TAG, storage=False, origin=True)
    return seeding


def send(seeding: Seeding, link: int, chunk: int, now: float) -> bool:
    seeding.asked(link, TAG, chunk, now)
    return seeding.sent(link, TAG, chunk, MIB, LAYOUT, now)


def test_what_has_left_is_held_for_some_times_as_long_as_a_chunk_takes() -> None:
    seeding = origin_of(3)
    assert not send(seeding, 1, 4, 1.0), "how long a chunk takes is not known yet"
    assert send(seeding, 1, 5, 2.0)
    assert seeding.is_held(2, TAG, 5) and not seeding.is_held(2, TAG, 4)
    hold_seconds = HOLD_CHUNKS + 3 / RECEIVERS_PER_CHUNK
    assert seeding.wait_seconds(2.0) == hold_seconds
    assert not seeding.released(1.9 + hold_seconds)
    assert seeding.released(2.0 + hold_seconds) == [(2, TAG, 5)], "who has not asked is not told"
    assert not seeding.is_held(2, TAG, 5)
    assert seeding.wait_seconds(99.0) == float("inf")


def test_nothing_is_held_for_long_because_nobody_asked_for_long() -> None:
    seeding = origin_of(2)
    send(seeding, 1, 4, 0.0)
    assert send(seeding, 1, 5, 3600.0)
    assert seeding.wait_seconds(3600.0) == HOLD_SECONDS_MAX


def test_storage_and_who_fetches_for_it_have_everything_at_once() -> None:
    seeding = origin_of(2)
    seeding.join(3, TAG, storage=True)
    seeding.relays(2, TAG)
    send(seeding, 1, 4, 1.0)
    assert send(seeding, 1, 5, 2.0)
    assert not seeding.is_held(2, TAG, 5) and not seeding.is_held(3, TAG, 5)


def test_when_a_receiver_is_lost_what_was_held_may_be_asked_for_at_once() -> None:
    seeding = origin_of(3)
    send(seeding, 1, 4, 1.0)
    send(seeding, 1, 5, 2.0)
    assert seeding.is_held(2, TAG, 5)
    seeding.drop(1)
    assert seeding.wait_seconds(2.0) == 0
    assert seeding.released(2.0) == [(2, TAG, 5)]


def test_who_has_all_it_needs_releases_nothing() -> None:
    seeding = origin_of(3)
    send(seeding, 1, 4, 1.0)
    send(seeding, 1, 5, 2.0)
    seeding.leave(1, TAG)
    assert seeding.is_held(2, TAG, 5) and not seeding.released(2.0)


def test_who_got_the_file_from_others_holds_nothing_back() -> None:
    seeding = seeding_for(3)
    send(seeding, 1, 4, 1.0)
    assert not send(seeding, 1, 5, 2.0)


def test_a_receiver_alone_is_never_sent_elsewhere() -> None:
    seeding = origin_of(1)
    send(seeding, 1, 4, 1.0)
    assert not send(seeding, 1, 5, 2.0)
