"""Each chunk leaves once before any leaves twice: what a sender suggests, and what it makes wait."""

from __future__ import annotations

import random

import pytest

from exchange.flow import Flow
from exchange.seeding import (
    AHEAD,
    PATIENCE_SECONDS,
    RECEIVERS_AT_ONCE,
    Seeding,
    Turn,
)
from exchange.uplink import FIRST_SECONDS, REPEATS_AT_ONCE, Purpose, Uplink, Wanted
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
        seeding.join(link, TAG, 0.0, storage=link == storage)
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
    assert seeding.asked(1, TAG, first, 0.0) is Turn.FIRST
    (third,) = seeding.suggestions(1, TAG, ALL, 0.0)
    assert third not in (first, second)


def test_what_another_one_is_getting_or_had_can_wait() -> None:
    seeding = seeding_for(2)
    assert seeding.asked(1, TAG, 5, 0.0) is Turn.FIRST
    assert seeding.asked(2, TAG, 5, 0.0) is Turn.AGAIN
    seeding.sent(1, TAG, 5, MIB, LAYOUT, 0.0)
    assert seeding.asked(2, TAG, 5, 0.0) is Turn.AGAIN


def test_storage_never_waits() -> None:
    seeding = seeding_for(2, storage=2)
    assert seeding.asked(1, TAG, 5, 0.0) is Turn.FIRST
    assert seeding.asked(2, TAG, 5, 0.0) is Turn.FIRST


def test_what_storage_was_suggested_nobody_else_takes_first() -> None:
    seeding = seeding_for(3, storage=2)
    first, second = seeding.suggestions(2, TAG, ALL, 0.0)
    assert seeding.asked(1, TAG, first, 0.1) is Turn.AGAIN
    assert seeding.asked(2, TAG, first, 0.2) is Turn.FIRST
    assert seeding.asked(2, TAG, second, 0.3) is Turn.FIRST


def test_who_fetches_for_storage_never_waits_and_is_suggested_nothing() -> None:
    seeding = seeding_for(3, storage=1)
    seeding.relays(2, TAG, 0.0)
    assert seeding.asked(3, TAG, 5, 0.0) is Turn.FIRST
    assert seeding.asked(2, TAG, 5, 0.0) is Turn.FIRST
    assert seeding.suggestions(2, TAG, ALL, 0.0) == []
    assert seeding.suggestions(3, TAG, ALL, 0.0)


def test_storage_has_an_origin_to_itself_also_when_a_relay_came_first() -> None:
    """A relay says that it is one before it is offered anything, and that may be before storage comes."""
    seeding = Seeding(random.Random(1))
    seeding.relays(2, TAG, 0.0, origin=True)
    for link in (1, 2, 3):
        seeding.join(link, TAG, 0.1, storage=link == 1, origin=True)
    assert seeding.asked(1, TAG, 4, 0.2) is Turn.FIRST
    assert seeding.asked(2, TAG, 5, 0.2) is Turn.FIRST
    assert seeding.asked(3, TAG, 6, 0.2) is Turn.ELSEWHERE


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
    assert seeding.asked(2, TAG, 5, 0.0) is Turn.FIRST


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
    uplink.add(9, Wanted(TAG, 9, 0, MIB), Purpose.OWN, again=True)
    assert uplink.next_grant(0.0) is not None  # and it never ends: something always leaves
    for tenth in range(100):
        uplink.flowed(100_000, tenth / 10)
    return uplink


def busy_flow() -> Flow:
    """Return that of a line on which something is always leaving."""
    flow = Flow(0.0)
    flow.begun(0.0)
    return flow


def test_what_leaves_again_waits_for_what_leaves_first() -> None:
    uplink = full_uplink()
    now = 9.9
    uplink.add(1, Wanted(TAG, 1, 0, 64 * KIB), Purpose.OWN, again=True)
    uplink.add(2, Wanted(TAG, 2, 0, 64 * KIB), Purpose.OWN)
    grant = uplink.next_grant(now)
    assert grant is not None and grant.link == 2
    assert uplink.next_grant(now) is None
    assert 0 < uplink.wait_seconds(now) < 1


def test_what_leaves_again_leaves_when_nothing_left_first_for_a_while() -> None:
    uplink = full_uplink()
    uplink.add(2, Wanted(TAG, 2, 0, 64 * KIB), Purpose.OWN)
    assert uplink.next_grant(9.9) is not None
    uplink.add(1, Wanted(TAG, 1, 0, 64 * KIB), Purpose.OWN, again=True)
    grant = uplink.next_grant(9.9 + FIRST_SECONDS)
    assert grant is not None and grant.link == 1


def test_a_slow_first_reader_does_not_hold_up_the_others() -> None:
    uplink = full_uplink()
    for number in range(4):
        uplink.add(2, Wanted(TAG, 2, number * 64 * KIB, 64 * KIB), Purpose.OWN)
    uplink.add(1, Wanted(TAG, 1, 0, 64 * KIB), Purpose.OWN, again=True)
    granted = [uplink.next_grant(12.0 + second / 10) for second in range(4)]
    assert [grant.link for grant in granted if grant is not None] == [2, 2, 1]


def test_own_first_and_again_go_before_help() -> None:
    uplink = Uplink(0.0, None, None)
    uplink.flowed(1, 0.0)
    uplink.add(1, Wanted(TAG, 1, 0, KIB), Purpose.HELP)
    uplink.add(2, Wanted(TAG, 2, 0, KIB), Purpose.OWN, again=True)
    uplink.add(3, Wanted(TAG, 3, 0, KIB), Purpose.OWN)
    order = []
    now = 0.0
    while len(order) < 3:
        grant = uplink.next_grant(now)
        if grant is None:
            now += uplink.wait_seconds(now)
        else:
            order.append(grant.link)
    assert order[0] == 3 and set(order) == {1, 2, 3}


def test_the_burst_into_the_kernels_buffers_is_no_rate() -> None:
    flow = busy_flow()
    flow.left(10_000_000, 0.0)
    for tenth in range(1, 60):
        flow.left(100_000, tenth / 10)
    assert flow.is_full(5.9)


def test_a_line_that_carries_far_less_than_before_is_not_full() -> None:
    flow = busy_flow()
    for tenth in range(60):
        flow.left(100_000, tenth / 10)
    for tenth in range(60, 80):
        flow.left(10_000, tenth / 10)
    assert not flow.is_full(7.9)


def test_a_line_on_which_nothing_waits_is_not_full_however_steady_it_is() -> None:
    """A storage node of 1 Gbit/s that is asked for a megabyte a second, always."""
    flow = Flow(0.0)
    for tenth in range(100):
        flow.begun(tenth / 10)
        flow.left(100_000, tenth / 10)
        flow.ended(tenth / 10 + 0.001)
    assert not flow.is_full(9.95)


def test_a_line_is_idle_when_nothing_leaves_nor_has_left_for_a_second() -> None:
    flow = Flow(0.0)
    assert flow.is_idle(0.0)
    flow.begun(1.0)
    assert not flow.is_idle(5.0), "it is on its way, however slowly"
    flow.left(1000, 5.0)
    flow.ended(5.0)
    assert not flow.is_idle(5.9)
    assert flow.is_idle(6.1)


def test_what_leaves_again_need_not_wait_where_nothing_else_does() -> None:
    uplink = Uplink(0.0, None, None)
    for tenth in range(100):
        now = tenth / 10
        uplink.add(1, Wanted(TAG, tenth % CHUNKS, tenth, 64 * KIB), Purpose.OWN)
        uplink.add(2, Wanted(TAG, tenth % CHUNKS, tenth, 64 * KIB), Purpose.OWN, again=True)
        for link in (1, 2):
            grant = uplink.next_grant(now)
            if grant is None:
                assert link == 2 and now <= 0.2, "nothing is known of the line yet"
                uplink.cancel(2, TAG, tenth % CHUNKS, tenth)
                continue
            assert grant.link == link
            uplink.flowed(64 * KIB, now)
            uplink.sent(link, now + 0.001)


def test_what_two_got_in_part_has_not_left() -> None:
    seeding = seeding_for(2)
    assert seeding.asked(1, TAG, 5, 0.0) is Turn.FIRST
    seeding.sent(1, TAG, 5, MIB // 2, LAYOUT, 0.0)
    assert seeding.asked(2, TAG, 5, 0.0) is Turn.AGAIN
    seeding.sent(2, TAG, 5, MIB // 2, LAYOUT, 0.0)
    assert seeding.asked(1, TAG, 5, 0.0) is Turn.FIRST, "nobody has the whole chunk: its owner goes first"
    seeding.sent(1, TAG, 5, MIB // 2, LAYOUT, 0.0)
    assert seeding.asked(1, TAG, 5, 0.0) is Turn.AGAIN


def test_of_a_large_crowd_only_a_few_get_first_copies_at_a_time() -> None:
    tag = Tag(b"l" * 32, 200)
    seeding = Seeding(random.Random(1))
    for link in range(1, 51):
        seeding.join(link, tag, 0.0, storage=link == 50)
    held = Bitmap.full(200)
    suggested = [link for link in range(1, 51) if seeding.suggestions(link, tag, held, 0.0)]
    assert suggested == [*range(1, RECEIVERS_AT_ONCE + 1), 50], "storage is one of them always"
    assert seeding.asked(20, tag, 199, 0.0) is Turn.AGAIN
    for link in range(1, 9):
        seeding.leave(link, tag)
    assert seeding.suggestions(20, tag, held, 0.0), "somebody else's turn has come"


def test_who_has_no_turn_takes_nothing_that_another_one_has_in_reserve() -> None:
    tag = Tag(b"l" * 32, 200)
    seeding = Seeding(random.Random(1))
    for link in range(1, 51):
        seeding.join(link, tag, 0.0, storage=link == 50)
    held = Bitmap.full(200)
    reserves = [seeding.suggestions(link, tag, held, 0.0)[-1] for link in range(1, RECEIVERS_AT_ONCE + 1)]
    assert all(seeding.asked(20, tag, chunk, 0.1) is Turn.AGAIN for chunk in reserves)
    assert seeding.asked(2, tag, reserves[0], 0.1) is Turn.FIRST, "one whose turn it is may"


def test_a_fast_line_that_is_asked_for_nine_tenths_is_not_full() -> None:
    flow = Flow(0.0)
    for hundredth in range(1000):
        flow.begun(hundredth / 100)
        flow.left(100_000, hundredth / 100)
        flow.ended(hundredth / 100 + 0.009)
    assert not flow.is_full(9.995)
    for hundredth in range(1000, 1200):
        flow.begun(hundredth / 100)
        flow.left(100_000, hundredth / 100)
        flow.ended(hundredth / 100 + 0.01)
    assert flow.is_full(11.995)


def test_of_hundreds_of_links_only_a_few_get_something_again_while_something_leaves_first() -> None:
    uplink = Uplink(0.0, None, None)
    for link in range(1, 201):
        uplink.add(link, Wanted(TAG, 1, 0, 64 * KIB), Purpose.OWN, again=True)
    uplink.add(201, Wanted(TAG, 2, 0, 64 * KIB), Purpose.OWN)
    granted = [grant.link for grant in iter(lambda: uplink.next_grant(0.0), None)]
    assert granted == [201]
    later = [grant.link for grant in iter(lambda: uplink.next_grant(0.5), None)]
    assert len(later) <= REPEATS_AT_ONCE
    rest = [grant.link for grant in iter(lambda: uplink.next_grant(FIRST_SECONDS + 0.1), None)]
    assert len(later) + len(rest) == 200


@pytest.mark.parametrize(("arriving", "outruns"), [(0, True), (400_000, True), (900_000, False)])
def test_a_line_outruns_what_comes_when_two_copies_of_it_can_leave(arriving: float, outruns: bool) -> None:
    flow = Flow(0.0)
    assert flow.outruns(arriving, 0.0), "nothing is known"
    for tenth in range(50):
        flow.left(100_000, tenth / 10)
    assert flow.outruns(arriving, 5.0) is outruns
