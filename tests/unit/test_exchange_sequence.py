"""Relays on the LAN are served one after the other: each has its first chunk as early as it can."""

from __future__ import annotations

import math

import pytest

from exchange.lines import Lines
from exchange.sequence import TURN_SECONDS
from exchange.uplink import GRANTS_PER_LINK_MAX, Purpose, Uplink, Wanted
from protocol.ids import Tag
from protocol.limits import MIB

TAG = Tag(b"t" * 32, 64)
BLOCKS = 8  # of a chunk


def ask(uplink: Uplink | Lines, link: int, chunk: int, blocks: int = BLOCKS) -> None:
    for place in range(blocks):
        assert uplink.add(link, Wanted(TAG, chunk, place * MIB, MIB), Purpose.OWN)


def served(uplink: Uplink, *, seconds: float = 0.001) -> list[int]:
    """Let everything leave over one port, a block in ``seconds``; return whose blocks they were."""
    now = 0.0
    order: list[int] = []
    port: list[int] = []
    while True:
        while (grant := uplink.next_grant(now)) is not None:
            port.append(grant.link)
        if not port:
            return order
        now += seconds
        order.append(port[0])
        uplink.sent(port.pop(0), now)


def relays(*links: int) -> Uplink:
    uplink = Uplink(0.0, None, None)
    for link in links:
        uplink.in_turn(link)
    return uplink


def test_whoever_asked_first_has_its_whole_chunk_before_the_next_one_gets_any() -> None:
    uplink = relays(1, 2, 3)
    for link in (2, 3, 1):
        ask(uplink, link, chunk=link)
    assert served(uplink) == [2] * BLOCKS + [3] * BLOCKS + [1] * BLOCKS


def test_a_second_chunk_comes_after_the_first_ones_of_others() -> None:
    uplink = relays(1, 2)
    ask(uplink, 1, chunk=1)
    ask(uplink, 2, chunk=2)
    ask(uplink, 1, chunk=3)
    assert served(uplink) == [1] * BLOCKS + [2] * BLOCKS + [1] * BLOCKS


def test_who_has_asked_for_nothing_more_leaves_the_line_to_the_next() -> None:
    uplink = relays(1, 2)
    ask(uplink, 1, chunk=1, blocks=1)
    ask(uplink, 2, chunk=2)
    assert [uplink.next_grant(0.0), uplink.next_grant(0.0)].count(None) == 1
    uplink.sent(1, 0.01)
    grant = uplink.next_grant(0.01)
    assert grant is not None and grant.link == 2
    # It goes on as soon as it asks for more of the same.
    uplink.add(1, Wanted(TAG, 1, 7 * MIB, MIB), Purpose.OWN)
    grant = uplink.next_grant(0.02)
    assert grant is not None and grant.link == 1


def test_who_does_not_take_it_in_holds_up_nobody_for_long() -> None:
    uplink = relays(1, 2)
    ask(uplink, 1, chunk=1)
    ask(uplink, 2, chunk=2)
    for _ in range(GRANTS_PER_LINK_MAX):
        assert uplink.next_grant(0.0) is not None
    assert uplink.next_grant(0.0) is None and uplink.wait_seconds(0.0) == pytest.approx(TURN_SECONDS)
    grant = uplink.next_grant(TURN_SECONDS)
    assert grant is not None and grant.link == 2
    # Nor with each block: its time is that of the chunk.
    uplink.sent(1, TURN_SECONDS + 0.1)
    assert {one.link for one in iter(lambda: uplink.next_grant(TURN_SECONDS + 0.1), None)} == {1, 2}


def test_who_leaves_frees_the_line_at_once() -> None:
    uplink = relays(1, 2)
    ask(uplink, 1, chunk=1)
    ask(uplink, 2, chunk=2)
    uplink.next_grant(0.0)
    uplink.drop(1, 0.1)
    grant = uplink.next_grant(0.1)
    assert grant is not None and grant.link == 2


def test_storage_and_downloaders_do_not_wait_for_relays() -> None:
    uplink = relays(1, 2)
    for link in (1, 2, 3):
        ask(uplink, link, chunk=link)
    first = [grant.link for grant in iter(lambda: uplink.next_grant(0.0), None)]
    assert sorted(first) == [1] * GRANTS_PER_LINK_MAX + [3] * GRANTS_PER_LINK_MAX
    assert uplink.wait_seconds(0.0) == pytest.approx(TURN_SECONDS)
    uplink.forget(2, TAG)
    assert uplink.wait_seconds(0.0) == math.inf


def test_only_nodes_on_the_lan_take_turns() -> None:
    lines = Lines(0.0)
    lines.place(1, near=True)
    lines.place(2, near=True)
    for link in (1, 2, 3, 4):
        lines.in_turn(link)
        ask(lines, link, chunk=link)
    links = {grant.link for grant in iter(lambda: lines.next_grant(0.0), None)}
    assert links == {1, 3, 4}
