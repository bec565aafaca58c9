"""The uplink against a plain list of requests: each is given out exactly once, own before help, and links share."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from exchange.uplink import GRANTS_PER_LINK_MAX, Purpose, Uplink, Wanted
from protocol.ids import Tag
from protocol.limits import KIB, MIB

TAGS = [Tag(bytes([number]) * 32, 4) for number in range(3)]
LINKS = st.integers(1, 4)
CAPS = st.one_of(st.none(), st.just(0.0), st.floats(1e5, 1e8))


class UplinkMachine(RuleBasedStateMachine):
    @initialize(up=CAPS, help=CAPS)
    def begin(self, up: float | None, help: float | None) -> None:
        self.now = 0.0
        self.up, self.help = up, help
        self.uplink = Uplink(self.now, up, help)
        self.waiting: list[tuple[int, Wanted, Purpose]] = []
        self.granted: dict[int, int] = {}
        self.in_turn: set[int] = set()

    @rule(
        link=LINKS,
        tag=st.sampled_from(TAGS),
        chunk=st.integers(0, 3),
        offset=st.integers(0, 2),
        length=st.integers(0, MIB),
        purpose=st.sampled_from(Purpose),
    )
    def add(self, link: int, tag: Tag, chunk: int, offset: int, length: int, purpose: Purpose) -> None:
        wanted = Wanted(tag, chunk, offset, length)
        known = [(w.tag, w.chunk, w.offset) for other, w, _ in self.waiting if other == link]
        assert self.uplink.add(link, wanted, purpose) == ((tag, chunk, offset) not in known)
        if (tag, chunk, offset) not in known:
            self.waiting.append((link, wanted, purpose))
            self.granted.setdefault(link, 0)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.waiting))
        link, wanted, _ = entry
        assert self.uplink.cancel(link, wanted.tag, wanted.chunk, wanted.offset) == wanted
        assert self.uplink.cancel(link, wanted.tag, wanted.chunk, wanted.offset) is None
        self.waiting.remove(entry)

    @rule(link=LINKS, tag=st.sampled_from(TAGS))
    def forget(self, link: int, tag: Tag) -> None:
        expected = [wanted for other, wanted, _ in self.waiting if other == link and wanted.tag == tag]
        gone = self.uplink.forget(link, tag)
        assert len(gone) == len(expected) and set(gone) == set(expected)
        self.waiting = [entry for entry in self.waiting if entry[0] != link or entry[1].tag != tag]

    @rule(link=LINKS)
    def drop(self, link: int) -> None:
        self.uplink.drop(link, self.now)
        self.waiting = [entry for entry in self.waiting if entry[0] != link]
        self.granted.pop(link, None)
        self.in_turn.discard(link)

    @rule(link=LINKS)
    def serve_in_turn(self, link: int) -> None:
        self.uplink.in_turn(link)
        self.in_turn.add(link)

    @rule(link=LINKS)
    def sent(self, link: int) -> None:
        if self.granted.get(link):
            self.uplink.sent(link, self.now)
            self.granted[link] -= 1

    @rule(seconds=st.floats(0, 2))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(up=CAPS, help=CAPS)
    def change(self, up: float | None, help: float | None) -> None:
        self.uplink.change(self.now, up, help)
        self.up, self.help = up, help

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.uplink.paused = paused

    def eligible(self, purpose: Purpose) -> list[tuple[int, Wanted, Purpose]]:
        return [entry for entry in self.waiting if entry[2] is purpose and self.granted[entry[0]] < GRANTS_PER_LINK_MAX]

    @rule()
    def grant(self) -> None:
        grant = self.uplink.next_grant(self.now)
        if grant is None:
            # Nothing may go, and it says when to ask again: at that moment something may.
            wait_seconds = self.uplink.wait_seconds(self.now)
            own, help = self.eligible(Purpose.OWN), self.eligible(Purpose.HELP)
            never = self.uplink.paused or self.up == 0 or (not own and self.help == 0) or not (own or help)
            assert (wait_seconds == float("inf")) == never
            if not never:
                assert wait_seconds > 0
                self.now += wait_seconds + 1e-6
                self.grant()
                assert self.granted_one
            return
        self.granted_one = True
        assert not self.uplink.paused and self.up != 0
        (entry,) = [entry for entry in self.waiting if entry[0] == grant.link and entry[1] == grant.wanted]
        same = [other for other in self.waiting if other[0] == grant.link and other[2] is entry[2]]
        assert same[0] == entry, "a link's own order is kept"
        if entry[2] is Purpose.HELP:
            assert self.help != 0
            assert all(link in self.in_turn for link, _, _ in self.eligible(Purpose.OWN)), "own goes before help"
        self.waiting.remove(entry)
        self.granted[grant.link] += 1
        assert self.granted[grant.link] <= GRANTS_PER_LINK_MAX

    granted_one = False

    @invariant()
    def counts_agree(self) -> None:
        for link in range(1, 5):
            waiting = sum(1 for other, _, _ in getattr(self, "waiting", ()) if other == link)
            assert not hasattr(self, "uplink") or self.uplink.waiting(link) == waiting


UplinkMachine.TestCase.settings = settings(stateful_step_count=60)
TestUplink = UplinkMachine.TestCase


def endless(uplink: Uplink, link: int, length: int, purpose: Purpose) -> Iterator[None]:
    """Keep four requests of ``link`` waiting."""
    number = 0
    while True:
        while uplink.waiting(link) < 4:
            number += 1
            uplink.add(link, Wanted(TAGS[0], number, 0, length), purpose)
        yield


@given(lengths=st.lists(st.integers(32 * KIB, MIB), min_size=2, max_size=5), purpose=st.sampled_from(Purpose))
def test_hungry_links_get_the_same_number_of_bytes_whatever_their_blocks(lengths: list[int], purpose: Purpose) -> None:
    uplink = Uplink(0.0, None, None)
    hungry = {link: endless(uplink, link, length, purpose) for link, length in enumerate(lengths)}
    served = dict.fromkeys(hungry, 0)
    while max(served.values()) < 8 * MIB:
        for more in hungry.values():
            next(more)
        grant = uplink.next_grant(0.0)
        assert grant is not None
        served[grant.link] += grant.wanted.length
        uplink.sent(grant.link, 0.0)
    assert max(served.values()) - min(served.values()) <= 2 * max(lengths)


def test_who_asked_for_nothing_for_long_has_not_saved_up_turns() -> None:
    uplink = Uplink(0.0, None, None)
    uplink.add(1, Wanted(TAGS[0], 0, 0, KIB), Purpose.OWN)
    assert uplink.next_grant(0.0) is not None
    uplink.sent(1, 0.0)
    second = endless(uplink, 2, MIB, Purpose.OWN)
    for _ in range(50):
        next(second)
        assert uplink.next_grant(0.0) is not None
        uplink.sent(2, 0.0)
    first = endless(uplink, 1, MIB, Purpose.OWN)
    order = []
    for _ in range(20):
        next(first)
        next(second)
        grant = uplink.next_grant(0.0)
        assert grant is not None
        uplink.sent(grant.link, 0.0)
        order.append(grant.link)
    assert 9 <= order.count(1) <= 11


@given(up=st.floats(1e5, 1e7), share=st.floats(0.05, 0.95))
def test_own_transfers_go_before_help_and_the_cap_is_kept(up: float, share: float) -> None:
    uplink = Uplink(0.0, up, up * share)
    own, help = endless(uplink, 1, 64 * KIB, Purpose.OWN), endless(uplink, 2, 64 * KIB, Purpose.HELP)
    now, sent = 0.0, {1: 0, 2: 0}
    for _ in range(300):
        next(help)
        next(own)
        grant = uplink.next_grant(now)
        if grant is None:
            now += uplink.wait_seconds(now) + 1e-9
            continue
        uplink.sent(grant.link, 0.0)
        sent[grant.link] += grant.wanted.length
    assert sent[1] > sent[2] == 0, "own goes first, and it is never satisfied"
    assert sent[1] + sent[2] <= up * now + 64 * KIB + up * 0.02


@given(up=st.floats(1e5, 1e7), share=st.floats(0.05, 0.95))
def test_help_alone_keeps_its_own_smaller_cap(up: float, share: float) -> None:
    uplink = Uplink(0.0, up, up * share)
    help = endless(uplink, 2, 64 * KIB, Purpose.HELP)
    now, sent = 0.0, 0
    for _ in range(100):
        next(help)
        grant = uplink.next_grant(now)
        if grant is None:
            now += uplink.wait_seconds(now) + 1e-9
            continue
        uplink.sent(grant.link, 0.0)
        sent += grant.wanted.length
    assert up * share * now - 64 * KIB <= sent <= up * share * (now + 0.02) + 64 * KIB
