"""The tracker link against a tracker that restarts, hangs, forgets, lies and answers late."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import trio
from support.memory_network import MemoryHub
from support.pairs import node, some_tag
from support.runtimes import TestClock, memory_runtime
from support.swarm import SwarmCa
from trio.testing import MockClock

from protocol import messages as m
from protocol.errors import CommandError, LinkLost, NotFound, StorageFull
from protocol.ids import NodeAddress, Role, Tag
from runtime.heartbeat import (
    ANSWER_SECONDS_MAX,
    ASK_SECONDS_MAX,
    BEAT_SECONDS,
    INVENTORY_SECONDS_MIN,
    RETRY_SECONDS_MAX,
    URGENT_SECONDS_MIN,
    BeatStatus,
    TrackerLink,
    lot_of,
)
from runtime.identity import Credentials
from runtime.inventory import InventoryBook
from runtime.link import Link
from runtime.links import Links
from runtime.renewal import RENEW_RETRY_SECONDS, renewal_due

PORT = 4100
TRACKER_HOST = "10.0.0.1"
DAY = 86400.0


@dataclass
class FakeTracker:
    """Answers as docs/protocol.md says; each vice can be switched on."""

    world: World
    interval_seconds: float = BEAT_SECONDS
    mute: bool = False
    answers: Callable[[m.Message], m.Message | None] = lambda message: None
    beats: list[tuple[float, m.Heartbeat]] = field(default_factory=list)
    inventories: list[tuple[float, m.Inventory]] = field(default_factory=list)
    others: list[m.Message] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    held: dict[Tag, m.Holding] = field(default_factory=dict)
    epoch: int = -1
    sequence: int = -1

    async def serve(self, link: Link) -> None:
        self.links.append(link)
        async for message in link.messages():
            if self.mute:
                continue
            if isinstance(message, m.Heartbeat):
                self.beats.append((trio.current_time(), message))
                wanted = (message.epoch, message.sequence) != (self.epoch, self.sequence)
                link.post(
                    m.HeartbeatAnswer(
                        number=message.number,
                        interval_milliseconds=int(self.interval_seconds * 1000),
                        inventory_wanted=wanted,
                    )
                )
            elif isinstance(message, m.Inventory):
                self.inventories.append((trio.current_time(), message))
                self.receive(message)
            else:
                self.others.append(message)
                answer = self.answers(message)
                if answer is not None:
                    link.post(answer)

    def receive(self, message: m.Inventory) -> None:
        if message.full:
            self.held = {}
        elif (message.epoch, message.sequence) != (self.epoch, self.sequence + 1):
            return
        self.epoch, self.sequence = message.epoch, message.sequence
        self.held.update({item.tag: item for item in message.held})
        for tag in message.dropped:
            self.held.pop(tag, None)

    def forget(self) -> None:
        self.epoch = self.sequence = -1
        self.held = {}

    def live(self) -> list[Link]:
        return [link for link in self.links if link.alive]


class World:
    """A tracker and a node of one swarm on a network in memory."""

    def __init__(self) -> None:
        self.clock = TestClock()
        self.ca = SwarmCa(now=self.clock.wall())
        self.hub = MemoryHub(1)
        self.tracker = FakeTracker(self)
        self.tracker_runtime = memory_runtime(self.hub.host(TRACKER_HOST), clock=self.clock, name="tracker")
        self.tracker_node = NodeAddress(self.ca.node("tracker"), Role.TRACKER, (f"{TRACKER_HOST}:{PORT}",))
        self.runtime = memory_runtime(self.hub.host("10.0.0.2"), clock=self.clock, name="node")
        self.links = Links(self.runtime, self.ca.credentials("node"), name="node", serve=self.serve)
        self.book = InventoryBook(epoch=self.runtime.random.getrandbits(52))
        self.status = BeatStatus(room_bytes=7, lend=True)
        self.heard: list[m.Message] = []
        self.connected_times: list[float] = []
        self.kept: list[Credentials] = []
        self.kept_addresses: list[NodeAddress] = []
        self.disk_full = False
        self.link = TrackerLink(
            self.runtime,
            self.links,
            (self.tracker_node,),
            lambda: self.status,
            self.book,
            self.heard.append,
            on_connected=lambda: self.connected_times.append(trio.current_time()),
            keep_credentials=self.keep,
            keep_trackers=self.keep_trackers,
        )
        self._tracker_scope: trio.CancelScope | None = None
        self.nursery: trio.Nursery

    async def serve(self, link: Link) -> None:
        assert link.peer.role is Role.TRACKER
        await self.link.serve(link)

    async def keep(self, credentials: Credentials) -> None:
        await trio.lowlevel.checkpoint()
        if self.disk_full:
            raise StorageFull("no room")
        self.kept.append(credentials)

    async def keep_trackers(self, trackers: tuple[NodeAddress, ...]) -> None:
        await trio.lowlevel.checkpoint()
        self.kept_addresses.append(trackers[0])

    async def start_tracker(self, port: int = PORT) -> None:
        scope = trio.CancelScope()

        async def run(task_status: trio.TaskStatus[None]) -> None:
            with scope:
                listener = await self.tracker_runtime.network.listen("0.0.0.0", port)
                credentials = self.ca.credentials("tracker", Role.TRACKER)
                links = Links(self.tracker_runtime, credentials, name="tracker", serve=self.tracker.serve)
                await links.run((listener,), task_status)

        await self.nursery.start(run)
        self._tracker_scope = scope

    async def stop_tracker(self, *, crash: bool = False) -> None:
        assert self._tracker_scope is not None
        if crash:
            self.hub.reset_all()
        self._tracker_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()

    def hold(self, number: int, state: int = 0) -> None:
        tag = some_tag(str(number))
        self.book.hold(m.Holding(tag=tag, size_bytes=1, names=(), since=state, bitmap=b""))

    def agrees(self) -> bool:
        return self.tracker.held == {item.tag: item for item in self.book}


@asynccontextmanager
async def world(*, tracker: bool = True) -> AsyncIterator[World]:
    one = World()
    async with trio.open_nursery() as nursery:
        one.nursery = nursery
        if tracker:
            await one.start_tracker()
        await nursery.start(one.links.run, ())
        nursery.start_soon(one.link.run)
        yield one
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object], seconds: float = 100.0) -> float:
    """Wait until ``condition()``; return how long it took. Virtual time."""
    begun = trio.current_time()
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(max(0.01, seconds / 5000))
    return trio.current_time() - begun


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


# --- questions ---


def where(number: int) -> m.Where:
    return m.Where(request=number, tag=some_tag(), name=None, size_bytes=0, to_put=False)


def answer_where(question: m.Message) -> m.Message:
    assert isinstance(question, m.Where)
    return m.WhereAnswer(
        request=question.request,
        tag=some_tag(),
        size_bytes=1,
        name="",
        state=m.Whereabouts.NONE,
        storage=None,
        holders=(),
    )


def fail(code: str) -> Callable[[m.Message], m.Message]:
    def answer(question: m.Message) -> m.Message:
        assert isinstance(question, m.Where)
        return m.Failure(request=question.request, code=code, reason=f"sorry, {code}")

    return answer


async def test_a_question_gets_its_own_answer_whatever_the_order(autojump_clock: MockClock) -> None:
    async with world() as w:
        await w.link.wait_connected()
        asked: list[m.Where] = []
        got: list[m.WhereAnswer] = []

        def listen(question: m.Message) -> None:
            assert isinstance(question, m.Where)
            asked.append(question)

        w.tracker.answers = listen

        async def ask() -> None:
            answer = await w.link.ask(where)
            assert isinstance(answer, m.WhereAnswer)
            got.append(answer)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await until(lambda: len(asked) == 3)
            for question in reversed(asked):
                w.tracker.links[-1].post(answer_where(question))
        assert sorted(answer.request for answer in got) == sorted(question.request for question in asked)


async def test_failures_become_our_errors(autojump_clock: MockClock) -> None:
    async with world() as w:
        await w.link.wait_connected()
        w.tracker.answers = fail("not-found")
        with pytest.raises(NotFound, match="sorry"):
            await w.link.ask(where)
        w.tracker.answers = fail("refused")
        with pytest.raises(CommandError) as caught:
            await w.link.ask(where)
        assert (caught.value.code, caught.value.exit_code) == ("refused", 6)


async def test_a_question_without_answer_a_link_or_time_is_lost(autojump_clock: MockClock) -> None:
    async with world() as w:
        with pytest.raises(LinkLost, match="not connected"):
            await w.link.ask(where)
        await w.link.wait_connected()
        begun = trio.current_time()
        with pytest.raises(LinkLost, match="no answer"):
            await w.link.ask(where)
        assert trio.current_time() - begun == pytest.approx(ASK_SECONDS_MAX)
        late = w.tracker.others[-1]
        w.tracker.links[-1].post(answer_where(late))
        await trio.sleep(1)
        assert w.link.connected, "a late answer is no crime"

        async def ask_and_lose() -> None:
            with pytest.raises(LinkLost):
                await w.link.ask(where)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_and_lose)
            await trio.testing.wait_all_tasks_blocked()
            begun = trio.current_time()
            w.hub.reset_all()
        assert trio.current_time() - begun < 1, "who asks hears of the loss at once"


async def test_an_answer_of_another_kind_ends_the_link(autojump_clock: MockClock) -> None:
    async with world() as w:
        await w.link.wait_connected()

        def answer(question: m.Message) -> m.Message:
            assert isinstance(question, m.Where)
            return m.NodesAnswer(request=question.request, nodes=())

        w.tracker.answers = answer
        with pytest.raises(LinkLost):
            await w.link.ask(where)
        await until(lambda: len(w.tracker.links) == 2)


async def test_orders_reach_the_program_and_posts_reach_the_tracker(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.link.post(m.Ping(number=1))  # not connected yet: dropped
        await w.link.wait_connected()
        await until(lambda: w.tracker.links)
        order = m.Order(tag=some_tag(), target=w.tracker_node, lifetime_seconds=9)
        w.tracker.links[-1].post(order)
        await until(lambda: w.heard == [order])
        w.link.post(m.ListNodes(request=1, after=None))
        await until(lambda: w.tracker.others == [m.ListNodes(request=1, after=None)])


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


# --- what nobody misses ---


async def test_what_nobody_misses_goes_to_a_tracker_that_likes_it_and_while_the_link_is_idle(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = m.JobMap(tag=some_tag("film"), senders=(), runs=b"")
    posted: list[m.Message] = []
    async with world() as w:
        assert not w.link.offer(shown, "job-maps"), "not connected yet"
        await w.link.wait_connected()
        link = next(iter(w.links))
        monkeypatch.setattr(link, "post", posted.append)
        assert not w.link.offer(shown, "no such feature") and posted == []
        assert w.link.offer(shown, "job-maps") and posted == [shown]
        monkeypatch.setattr(link, "_control_bytes", 1 << 20)
        assert not w.link.offer(shown, "job-maps") and posted == [shown]


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
