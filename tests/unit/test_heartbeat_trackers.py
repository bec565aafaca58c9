"""Whom the tracker link trusts and dials: revocations, certificates that run out, and several trackers."""

from __future__ import annotations

from itertools import pairwise

import trio
from support.fake_tracker import DAY, PORT, FakeTracker, until, world
from support.pairs import node
from support.runtimes import memory_runtime
from support.swarm import SwarmCa
from trio.testing import MockClock

from protocol import messages as m
from protocol.ids import NodeAddress, Role
from runtime.heartbeat import (
    RETRY_SECONDS_MAX,
    lot_of,
)
from runtime.links import Links
from runtime.renewal import RENEW_RETRY_SECONDS, renewal_due

# --- membership ---


async def test_revocations_are_applied_to_links_and_kept(autojump_clock: MockClock) -> None:
    async with world() as w:
        await until(lambda: w.tracker.beats)
        w.tracker.links[-1].post(m.Revocations(revocations=w.ca.revocations(5, ["mallory"])))
        await until(lambda: w.kept)
        assert w.links.credentials is w.kept[0] and w.links.credentials.is_revoked(w.ca.node("mallory"))
        w.tracker.links[-1].post(m.Revocations(revocations=w.ca.revocations(4)))
        await trio.sleep(1)
        assert len(w.kept) == 1 and w.links.credentials.revocations_number == 5, "an older list changes nothing"
        w.disk_full = True
        w.tracker.links[-1].post(m.Revocations(revocations=w.ca.revocations(6, ["mallory", "eve"])))
        await until(lambda: w.links.credentials.revocations_number == 6)
        await trio.sleep(1)
        assert w.link.connected, "a full disk costs the file, not the swarm"


async def test_a_list_that_our_authority_did_not_sign_ends_the_link(autojump_clock: MockClock) -> None:
    async with world() as w:
        await until(lambda: w.tracker.beats)
        forged = SwarmCa("another swarm", now=w.clock.wall()).revocations(99, ["node"])
        w.tracker.links[-1].post(m.Revocations(revocations=forged))
        await until(lambda: len(w.tracker.links) == 2)
        assert not w.kept and w.links.credentials.revocations_number == 1


async def test_an_old_certificate_is_renewed_and_a_failed_try_is_repeated(autojump_clock: MockClock) -> None:
    async with world() as w:
        tries: list[float] = []
        fresh: list[bytes] = []

        def renew(message: m.Message) -> m.Message | None:
            assert isinstance(message, m.Renew)
            tries.append(trio.current_time())
            if len(tries) == 1:
                return m.Failure(request=message.request, code="busy", reason="later")
            if len(tries) == 2:
                other = w.ca.credentials("somebody else", issued=w.clock.wall()).certificate
                return m.Renewed(request=message.request, certificate=other)
            fresh.append(w.ca.credentials("node", issued=w.clock.wall()).certificate)
            return m.Renewed(request=message.request, certificate=fresh[0])

        w.tracker.answers = renew
        await trio.sleep(10)
        assert not tries, "it is young"
        old = w.links.credentials.certificate
        w.clock.skew_seconds = 61 * DAY
        await until(lambda: w.kept, 3700 + 3 * RENEW_RETRY_SECONDS)
        assert len(tries) == 3 and all(later - sooner < 100 for sooner, later in pairwise(tries))
        assert w.links.credentials.certificate == fresh[0] != old
        assert renewal_due(fresh[0]) > w.clock.wall()
        await trio.sleep(4000)
        assert len(tries) == 3


async def test_stopping_says_goodbye_to_the_tracker(autojump_clock: MockClock) -> None:
    async with world() as w:
        await until(lambda: w.tracker.beats)
        link = w.tracker.links[-1]
        w.nursery.start_soon(link.wait_ended)
        w.links.drop(w.tracker_node.node, "leaving", "the program ends")
        await link.wait_ended()
        assert "leaving" in (link.lost or "")


# --- several trackers ---


async def test_trackers_that_were_told_are_kept_and_the_next_one_is_dialled_when_ours_is_gone(
    autojump_clock: MockClock,
) -> None:
    async with world() as w:
        await until(lambda: w.tracker.beats)
        other = NodeAddress(w.ca.node("other"), Role.TRACKER, (f"10.0.0.3:{PORT}",))
        nameless = NodeAddress(w.ca.node("nameless"), Role.TRACKER, ())
        listed = m.Trackers(trackers=(other, w.tracker_node, nameless))
        w.tracker.live()[0].post(listed)
        await until(lambda: len(w.link.trackers) == 2)
        assert set(w.link.trackers) == {other, w.tracker_node} and w.link.tracker == w.tracker_node

        met = FakeTracker(w)
        runtime = memory_runtime(w.hub.host("10.0.0.3"), clock=w.clock, name="other")
        links = Links(runtime, w.ca.credentials("other", Role.TRACKER), name="other", serve=met.serve)
        listener = await runtime.network.listen("0.0.0.0", PORT)
        async with trio.open_nursery() as elsewhere:
            await elsewhere.start(links.run, (listener,))
            await w.stop_tracker(crash=True)
            assert await until(lambda: met.beats) < 3
            assert w.link.tracker.node == other.node and w.link.connected
            await until(lambda: met.held == {item.tag: item for item in w.book})
            before = len(w.tracker.beats)
            await w.start_tracker()
            w.hub.reset_all()
            elsewhere.cancel_scope.cancel()
        assert await until(lambda: len(w.tracker.beats) > before) < 6, "and back"


async def test_a_list_without_the_tracker_that_answers_does_not_make_us_forget_it(autojump_clock: MockClock) -> None:
    async with world() as w:
        await until(lambda: w.tracker.beats)
        other = NodeAddress(w.ca.node("other"), Role.TRACKER, (f"10.0.0.3:{PORT}",))
        w.tracker.live()[0].post(m.Trackers(trackers=(other,)))
        await until(lambda: len(w.link.trackers) == 2)
        await w.stop_tracker(crash=True)
        await trio.sleep(30)
        await w.start_tracker()
        assert await until(lambda: w.link.connected) <= RETRY_SECONDS_MAX


def test_nodes_begin_with_different_trackers_and_each_with_the_same_one_always() -> None:
    trackers = [node(f"tracker {number}") for number in range(3)]
    first = [min(trackers, key=lambda tracker: lot_of(node(f"n{number}"), tracker)) for number in range(300)]
    assert all(70 < first.count(tracker) < 130 for tracker in trackers)
