"""The tracker link against a tracker that restarts, hangs, forgets and lies: beats, inventory, and one link, always."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
from support.fake_tracker import PORT, TRACKER_HOST, until, world
from support.pairs import some_tag
from support.runtimes import memory_runtime
from support.swarm import SwarmCa
from trio.testing import MockClock

from protocol.ids import NodeAddress, Role
from runtime.heartbeat import (
    ANSWER_SECONDS_MAX,
    BEAT_SECONDS,
    INVENTORY_SECONDS_MIN,
    RETRY_SECONDS_MAX,
    URGENT_SECONDS_MIN,
    BeatStatus,
)
from runtime.link import Link
from runtime.links import Links

# --- beats and inventory ---


async def test_the_first_beat_comes_at_once_and_the_others_at_the_interval_the_tracker_gives(
    autojump_clock: MockClock,
) -> None:
    async with world() as w:
        w.tracker.interval_seconds = 2.0
        await until(lambda: len(w.tracker.beats) > 10)
        times = [time for time, _ in w.tracker.beats]
        assert times[0] < 0.5
        assert all(1.5 <= later - sooner <= 2.1 for sooner, later in pairwise(times[1:]))
        assert len({round(later - sooner, 3) for sooner, later in pairwise(times[1:])}) > 3, "jitter"
        beat = w.tracker.beats[-1][1]
        assert (beat.room_bytes, beat.lend, beat.paused) == (7, True, False)
        assert w.connected_times and w.link.connected and w.link.statistics().beats_answered >= 10


async def test_an_interval_of_nothing_is_no_busy_loop(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.tracker.interval_seconds = 0
        await trio.sleep(20)
        assert len(w.tracker.beats) <= 20 / 0.1 * 1.3


async def test_a_new_status_is_told_at_once_on_demand(autojump_clock: MockClock) -> None:
    async with world() as w:
        await until(lambda: w.tracker.beats)
        w.status = BeatStatus(paused=True)
        w.link.beat_soon()
        assert await until(lambda: w.tracker.beats[-1][1].paused) < 1


async def test_changes_are_told_at_once_and_then_twice_a_second_at_most(autojump_clock: MockClock) -> None:
    async with world() as w:
        await until(lambda: w.tracker.inventories)
        await trio.sleep(3)
        w.hold(1)
        assert await until(w.agrees) < 0.1
        before = len(w.tracker.inventories)
        for number in range(1000):
            w.hold(1, number)
            await trio.sleep(0.01)
        assert len(w.tracker.inventories) - before <= 10 / INVENTORY_SECONDS_MIN + 1
        await until(w.agrees, 1)
        w.book.drop(some_tag("1"))
        await until(w.agrees, 1)


async def test_what_becomes_whole_is_told_without_waiting_for_the_changes_before_it(autojump_clock: MockClock) -> None:
    async with world() as w:
        await until(lambda: w.tracker.inventories)
        await trio.sleep(3)
        before = len(w.tracker.inventories)
        for number in range(100):
            w.hold(number)
            assert await until(w.agrees) <= 0.05
        for number in range(100, 1100):
            w.hold(number)
            await trio.sleep(0.001)
        assert len(w.tracker.inventories) - before <= 101 + 1 / URGENT_SECONDS_MIN + 1, "those that come together"


async def test_a_tracker_that_restarts_knows_everything_again_within_two_beats(autojump_clock: MockClock) -> None:
    async with world() as w:
        for number in range(300):
            w.hold(number)
        await until(w.agrees)
        await w.stop_tracker(crash=True)
        w.tracker.forget()
        w.hold(5000)
        w.book.drop(some_tag("7"))
        await trio.sleep(60)
        assert not w.link.connected and w.link.statistics().trouble
        await w.start_tracker()
        await until(lambda: w.link.connected, RETRY_SECONDS_MAX + 1)
        assert await until(w.agrees, 2 * BEAT_SECONDS) <= 2 * BEAT_SECONDS
        assert len(w.connected_times) == 2


async def test_a_tracker_that_forgets_while_the_link_stands_is_told_everything(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.hold(1)
        await until(w.agrees)
        w.tracker.forget()
        await until(w.agrees, 2 * BEAT_SECONDS)


async def test_what_was_lost_with_a_link_is_told_again(autojump_clock: MockClock) -> None:
    async with world() as w:
        await until(lambda: w.tracker.inventories)
        for round_ in range(5):
            w.hold(round_)
            w.hub.freeze_all()  # they leave us and never arrive
            await trio.sleep(2)
            w.hub.reset_all()
            await until(w.agrees, 40)


async def test_a_list_of_twenty_thousand_is_told_without_being_taken_for_a_flood(autojump_clock: MockClock) -> None:
    async with world() as w:
        for number in range(20_000):
            w.hold(number)
        await until(w.agrees, 60)
        assert len(w.tracker.links) == 1
        assert sum(message.full for _, message in w.tracker.inventories) <= 2, "beats meanwhile promise nothing unsaid"


# --- one link, always ---


async def test_the_first_try_after_a_loss_is_quick_and_later_ones_are_rarer_with_jitter(
    autojump_clock: MockClock,
) -> None:
    async with world() as w:
        await until(lambda: w.link.connected)
        await w.stop_tracker()
        begun = trio.current_time()
        dials: list[float] = []
        while trio.current_time() < begun + 300:
            count = len(w.hub.dials)
            await trio.sleep(0.05)
            dials.extend([trio.current_time()] * (len(w.hub.dials) - count))
        gaps = [later - sooner for sooner, later in pairwise(dials)]
        assert dials[0] - begun < 1
        # On average half of the longest wait.
        assert 300 / RETRY_SECONDS_MAX < len(dials) < 4 * 300 / RETRY_SECONDS_MAX
        assert max(gaps) <= RETRY_SECONDS_MAX + 0.1 and len({round(gap, 1) for gap in gaps}) > 5
        await w.start_tracker()
        await until(lambda: w.link.connected, RETRY_SECONDS_MAX + 1)


async def test_a_tracker_that_lets_in_and_throws_out_is_not_hammered(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world() as w:

        async def throw_out(link: Link) -> None:
            w.tracker.links.append(link)
            link.close("no", "go away")

        monkeypatch.setattr(w.tracker, "serve", throw_out)
        await w.stop_tracker()
        await w.start_tracker()
        await trio.sleep(300)
        assert len(w.tracker.links) < 60
        assert "go away" in (w.link.statistics().trouble or "")


async def test_a_half_open_link_is_replaced(autojump_clock: MockClock) -> None:
    async with world() as w:
        await until(lambda: w.link.connected and w.tracker.beats)
        w.hub.freeze_all()
        assert await until(lambda: len(w.tracker.links) == 2) <= 75
        await until(lambda: w.link.connected)


async def test_a_tracker_that_hangs_is_dialled_again(autojump_clock: MockClock) -> None:
    async with world() as w:
        await until(lambda: w.tracker.beats)
        w.tracker.mute = True  # it reads and answers pings, and nothing else
        await until(lambda: len(w.tracker.links) == 2, ANSWER_SECONDS_MAX + 2 * BEAT_SECONDS)
        w.tracker.mute = False
        count = w.link.statistics().beats_answered
        await until(lambda: w.link.statistics().beats_answered > count)


async def test_there_is_never_more_than_one_link_to_the_tracker(autojump_clock: MockClock) -> None:
    async with world() as w:
        await until(lambda: w.tracker.beats)
        await w.links.dial(w.tracker_node)
        assert len(w.tracker.live()) == 1, "dial returns the live one"
        second = await w.links.dial_role(w.tracker_node.addresses, Role.TRACKER)
        await second.wait_ended()
        for _ in range(30):
            w.hub.reset_all()
            await until(lambda: w.link.connected, 10)
            assert len(w.tracker.live()) <= 1


async def test_another_tracker_of_the_swarm_that_dials_us_is_sent_away(autojump_clock: MockClock) -> None:
    async with world() as w:
        listener = await w.runtime.network.listen("0.0.0.0", 4200)
        w.nursery.start_soon(w.links.run, (listener,))
        runtime = memory_runtime(w.hub.host("10.0.0.3"), clock=w.clock)

        async def listen(link: Link) -> None:
            while await link.receive() is not None:
                pass

        other = Links(runtime, w.ca.credentials("other", Role.TRACKER), name="other", serve=listen)
        await w.nursery.start(other.run, ())
        link = await other.dial(NodeAddress(w.ca.node("node"), Role.PEER, ("10.0.0.2:4200",)))
        await link.wait_ended()
        assert "unexpected" in (link.lost or "")
        assert w.link.connected


async def test_an_address_found_on_the_lan_is_tried_at_once_and_remembered(autojump_clock: MockClock) -> None:
    async with world(tracker=False) as w:
        await trio.sleep(120)
        await w.start_tracker(port=4999)  # elsewhere than the invite said
        w.link.add_address(f"{TRACKER_HOST}:4999")
        assert await until(lambda: w.link.connected) < 1
        await until(lambda: w.kept_addresses)
        assert w.kept_addresses == [w.link.tracker]
        assert w.link.tracker.addresses == (f"{TRACKER_HOST}:4999", f"{TRACKER_HOST}:{PORT}")


async def test_an_impostor_at_the_trackers_address_gets_nothing(autojump_clock: MockClock) -> None:
    async with world(tracker=False) as w:
        stranger = SwarmCa("another swarm", now=w.clock.wall())
        runtime = memory_runtime(w.hub.host("10.0.0.66"), clock=w.clock)
        met: list[Link] = []

        async def serve(link: Link) -> None:
            met.append(link)

        links = Links(runtime, stranger.credentials("tracker", Role.TRACKER), name="x", serve=serve)
        await w.nursery.start(links.run, (await runtime.network.listen("0.0.0.0", PORT),))
        w.link.add_address(f"10.0.0.66:{PORT}")
        await trio.sleep(30)
        assert not met and not w.link.connected
        assert "another swarm" in (w.link.statistics().trouble or "")
        await w.start_tracker()
        await until(lambda: w.link.connected, 60)
