"""A tracker that is late answers beats and lets inventories wait, and knows everything as soon as it has caught up."""

from __future__ import annotations

from typing import Any, cast

from contract.index_contract import PATIENCE, PEER, STORE, TAG, beat, holding, profile, said, update

from protocol import messages as m
from protocol.ids import NodeAddress, NodeId, Role
from runtime.link import Link
from runtime.real import real_runtime
from tracker.access import Access
from tracker.index.memory import MemoryIndex
from tracker.pace import Pace, begin


class FakeLink:
    """Takes what is posted."""

    alive = True

    def __init__(self) -> None:
        self.posted: list[m.Message] = []

    def post(self, message: m.Message) -> None:
        self.posted.append(message)

    answer = post


class Desk:
    """An Access without anything around it."""

    def __init__(self) -> None:
        self.index = MemoryIndex(PATIENCE)
        self.access = Access(real_runtime(), self.index, cast(Any, None), interval_seconds=5.0, own_hosts=tuple)
        self.link = FakeLink()

    async def beats(self, sequence: int, now: float) -> m.HeartbeatAnswer:
        await self.access._beat(cast(Link, self.link), profile(PEER), beat(1, sequence), now)
        answer = self.link.posted[-1]
        assert isinstance(answer, m.HeartbeatAnswer)
        return answer

    async def says(self, *held: m.Holding, sequence: int, full: bool, now: float) -> None:
        await self.access._inventory(profile(PEER), said(*held, sequence=sequence, full=full), now)


async def test_inventories_wait_until_there_is_time_and_beats_do_not() -> None:
    desk = Desk()
    await desk.index.arrived(profile(PEER), 0)
    assert (await desk.beats(1, 0)).inventory_wanted
    desk.access._pace = Pace(20.0, 0.0, inventories=False, strain=4.0)
    answer = await desk.beats(1, 1)
    assert not answer.inventory_wanted and answer.interval_milliseconds == 20_000
    await desk.says(holding(), sequence=1, full=True, now=1)
    assert await desk.index.holders(TAG, 1) == () and desk.access.counts.shed == 1
    view = await desk.index.node(PEER, 50)
    assert view is not None and view.fresh, "it beats as seldom as it was told"
    desk.access._pace = begin(5.0)
    assert (await desk.beats(1, 51)).inventory_wanted, "the gap shows"
    await desk.says(holding(), sequence=1, full=True, now=51)
    assert len(await desk.index.holders(TAG, 51)) == 1


async def test_intervals_are_drawn_when_nodes_must_be_kept_apart() -> None:
    desk = Desk()
    await desk.index.arrived(profile(PEER), 0)
    desk.access._pace = Pace(10.0, 0.3, inventories=True)
    drawn = {(await desk.beats(1, number)).interval_milliseconds for number in range(50)}
    assert len(drawn) > 40 and min(drawn) >= 7000 and max(drawn) <= 10_000


async def test_an_order_for_a_node_that_is_linked_elsewhere_is_handed_on() -> None:
    desk = Desk()
    sent: list[tuple[NodeId, m.Message]] = []
    desk.access.post_elsewhere = lambda who, message: sent.append((who, message))
    await desk.index.arrived(profile(PEER), 0)
    await desk.index.take(PEER, said(holding()), 0)
    await desk.index.arrived(profile(STORE, Role.STORAGE), 0)
    await desk.access._job(profile(STORE, Role.STORAGE), update(), 0)
    ((who, order),) = sent
    assert who == PEER and isinstance(order, m.Order)
    assert order.target == NodeAddress(STORE, Role.STORAGE, profile(STORE).addresses)
