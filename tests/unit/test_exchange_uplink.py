"""Nobody who does not read holds up the others, also when nothing is known of the line."""

from __future__ import annotations

from exchange.uplink import GRANTS_PER_LINK_MAX, STUCK_SECONDS, Grant, Purpose, Uplink, Wanted
from protocol.ids import Tag
from protocol.limits import MIB

TAG = Tag(b"t" * 32, 8)
FROZEN, OTHER = 1, 2


def stuck() -> Uplink:
    """Return one from which all has gone to somebody that could, who takes none of it in and has asked for more."""
    uplink = Uplink(0.0, None, None)
    for number in range(GRANTS_PER_LINK_MAX + 1):
        uplink.add(FROZEN, Wanted(TAG, 0, number * MIB, MIB), Purpose.OWN)
    while uplink.next_grant(0.0) is not None:
        pass
    return uplink


def next_grant(uplink: Uplink, now: float) -> tuple[Grant, float]:
    """Return what leaves next, and when, if somebody looks as often as the uplink says."""
    while (grant := uplink.next_grant(now)) is None:
        now += uplink.wait_seconds(now)
    return grant, now


def test_a_first_reader_that_reads_no_more_holds_up_what_leaves_again_for_seconds_only() -> None:
    uplink = stuck()
    uplink.add(OTHER, Wanted(TAG, 1, 0, MIB), Purpose.OWN, again=True)
    assert uplink.next_grant(STUCK_SECONDS - 0.1) is None, "nothing is known of the line: it may be slow"
    grant, now = next_grant(uplink, STUCK_SECONDS - 0.1)
    assert grant.link == OTHER and now <= STUCK_SECONDS + 0.2
    for number in range(1, 6):
        uplink.sent(OTHER, now)
        uplink.add(OTHER, Wanted(TAG, 1, number * MIB, MIB), Purpose.OWN, again=True)
        grant, later = next_grant(uplink, now)
        assert grant.link == OTHER and later == now, "it is stuck still"


def test_who_reads_again_goes_first_again() -> None:
    uplink = stuck()
    for number in range(2):
        uplink.add(OTHER, Wanted(TAG, 1, number * MIB, MIB), Purpose.OWN, again=True)
    uplink.sent(FROZEN, 2 * STUCK_SECONDS)
    grant, _ = next_grant(uplink, 2 * STUCK_SECONDS)
    assert grant.link == FROZEN
    assert uplink.next_grant(2 * STUCK_SECONDS) is None
