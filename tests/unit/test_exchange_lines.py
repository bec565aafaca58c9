"""Caps hold on the line; the LAN beside it goes on, in the same order of who goes first."""

from __future__ import annotations

import pytest

from exchange.lines import Lines
from exchange.uplink import Purpose, Wanted
from protocol.ids import Tag
from protocol.limits import MIB

TAG = Tag(b"t" * 32, 9)
FAR, NEAR = 1, 2


def wanted(chunk: int) -> Wanted:
    return Wanted(TAG, chunk, 0, MIB)


def lines(up: float | None, help: float | None = None, *, apart: bool = True) -> Lines:
    both = Lines(0.0)
    both.place(FAR, near=False)
    both.place(NEAR, near=True)
    both.change(0.0, up, help, apart=apart)
    return both


def drain(both: Lines, now: float) -> list[tuple[int, int]]:
    """Return link and chunk of all that may leave at ``now``, each sent at once."""
    left = []
    while (grant := both.next_grant(now)) is not None:
        left.append((grant.link, grant.wanted.chunk))
        both.sent(grant.link, grant.wanted, grant.wanted.length, now)
    return left


def ask(both: Lines, purpose: Purpose = Purpose.OWN) -> None:
    for chunk in range(3):
        for link in (FAR, NEAR):
            assert both.add(link, wanted(chunk), purpose)


def test_the_lan_is_exempt_from_the_cap_of_the_line() -> None:
    both = lines(up=MIB)
    ask(both)
    left = drain(both, 0.0)
    assert left.count((FAR, 0)) == 1 and [one for one in left if one[0] == NEAR] == [(NEAR, 0), (NEAR, 1), (NEAR, 2)]
    assert 0.9 < both.wait_seconds(0.0) <= 1.0
    assert drain(both, 1.1) == [(FAR, 1)]


def test_the_lan_is_exempt_from_the_cap_of_help() -> None:
    both = lines(up=None, help=0.0)
    ask(both, Purpose.HELP)
    assert drain(both, 0.0) == [(NEAR, 0), (NEAR, 1), (NEAR, 2)]
    assert both.wait_seconds(0.0) == float("inf")


@pytest.mark.parametrize("apart", [True, False])
def test_without_caps_or_without_exemption_all_share_one_queue(apart: bool) -> None:
    both = lines(up=None if apart else MIB, apart=apart)
    ask(both)
    assert drain(both, 0.0)[:2] == ([(FAR, 0), (NEAR, 0)] if apart else [(FAR, 0)])
    assert (both.waiting(NEAR) == 0) is apart


def test_a_pause_holds_everywhere() -> None:
    both = lines(up=MIB)
    ask(both)
    both.paused = True
    assert both.paused and both.next_grant(5.0) is None and both.wait_seconds(5.0) == float("inf")


def test_a_link_waits_in_one_queue_only_also_when_caps_come_and_go() -> None:
    both = lines(up=None)
    assert both.add(NEAR, wanted(0), Purpose.OWN)
    both.change(0.0, 1.0, None, apart=True)
    assert not both.add(NEAR, wanted(0), Purpose.OWN)
    assert both.add(NEAR, wanted(1), Purpose.OWN)
    assert both.waiting(NEAR) == 2
    assert both.cancel(NEAR, TAG, 1, 0) == wanted(1) and both.forget(NEAR, TAG) == [wanted(0)]
    assert both.add(NEAR, wanted(2), Purpose.OWN) and drain(both, 0.0) == [(NEAR, 2)]


def test_what_was_granted_on_a_link_that_is_gone_is_forgotten() -> None:
    both = lines(up=MIB)
    ask(both)
    grant = both.next_grant(0.0)
    assert grant is not None
    both.drop(grant.link, 0.0)
    both.sent(grant.link, grant.wanted, MIB, 0.0)
    assert both.waiting(grant.link) == 0 and not both.is_near(FAR)


def test_easing_the_cap_of_help_forgives_no_debt() -> None:
    both = lines(up=None, help=MIB / 8)
    for chunk in range(3):
        assert both.add(FAR, wanted(chunk), Purpose.HELP)
    assert drain(both, 0.0) == [(FAR, 0)]
    for tick in range(79):
        both.ease(tick / 10, MIB / 8)
        assert drain(both, tick / 10) == []
    assert drain(both, 8.2) == [(FAR, 1)]
