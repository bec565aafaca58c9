"""A third of all nodes claim to hold what they do not have: uploads hardly notice, and liars are soon left alone.

The tracker's side alone, as fast as arithmetic: helpers are chosen and ordered, storage reports what came, trust
follows (tracker/matchmaking.py, tracker/trust.py). Every helper that is ordered and honest pushes a chunk a second;
what storage makes of wrong bytes and broken promises on a link is told in other stories.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from support.pairs import node, some_tag

from protocol.ids import NodeId, Role, Tag
from protocol.messages import JobState, JobUpdate, Pushed
from tracker.index.base import Holder, Job, NodeView, Standing
from tracker.matchmaking import Repute, choose_helpers
from tracker.trust import Trust

MIB = 1024 * 1024
CHUNKS = 1024
NODES = 60
SLOTS = 12
BEAT_SECONDS = 5
STORE = node("store")


@dataclass
class Story:
    """One swarm that puts one file after another. ``trusting``: everybody is believed, always."""

    liars: set[NodeId]
    nodes: list[NodeId]
    trusting: bool = False
    now: float = 0.0
    trust: Trust = field(default_factory=Trust)
    orders: dict[NodeId, int] = field(default_factory=dict)

    def put(self, tag: Tag) -> float:
        """Return how many seconds it took."""
        begun, stored, chosen = self.now, 0, []
        pushed = dict.fromkeys(self.nodes, 0)
        while stored < CHUNKS:
            if (self.now - begun) % BEAT_SECONDS == 0:
                job = self.job(tag, stored)
                chosen = choose_helpers(job, self.holders(tag), self.repute, limit=SLOTS)
                for helper in chosen:
                    self.orders[helper] = self.orders.get(helper, 0) + 1
                    self.trust.ordered(helper, (tag, STORE), stored, pushed[helper], self.now)
            for helper in chosen:
                if helper not in self.liars and stored < CHUNKS:
                    pushed[helper] += MIB
                    stored += 1
            self.now += 1
            update = self.update(tag, stored, pushed)
            self.trust.reported(STORE, update, self.now, is_open=stored < CHUNKS)
            assert self.now - begun < 10 * CHUNKS, "it does not end"
        return self.now - begun

    def repute(self, who: NodeId) -> Repute:
        return Repute() if self.trusting else self.trust.of(who, self.now)

    def holders(self, tag: Tag) -> list[Holder]:
        return [Holder(node=view(who), bitmap=None, size_bytes=CHUNKS * MIB, names=(), since=1) for who in self.nodes]

    def update(self, tag: Tag, stored: int, pushed: dict[NodeId, int]) -> JobUpdate:
        shares = tuple(Pushed(node=who, bytes_pushed=count) for who, count in pushed.items() if count)
        return JobUpdate(
            tag=tag,
            size_bytes=CHUNKS * MIB,
            name="",
            state=JobState.OPEN,
            reason="",
            chunks_stored=stored,
            safe=False,
            uploaders=(),
            pushed=shares,
        )

    def job(self, tag: Tag, stored: int) -> Job:
        return Job(
            tag=tag,
            storage=STORE,
            size_bytes=CHUNKS * MIB,
            name="",
            state=JobState.OPEN,
            reason="",
            chunks_stored=stored,
            safe=False,
            uploaders=(),
            pushed=(),
            opened_seconds_ago=0,
            updated_seconds_ago=0,
        )


def view(who: NodeId) -> NodeView:
    return NodeView(
        node=who,
        role=Role.PEER,
        name="",
        addresses=("127.0.0.1:1",),
        standing=Standing.FRESH,
        seen_seconds_ago=0,
        tags=1,
        room_bytes=0,
        lend=False,
        paused=False,
    )


def story(seed: int, share: float, *, trusting: bool = False) -> Story:
    nodes = [node(f"{seed} {number}") for number in range(NODES)]
    liars = set(random.Random(seed).sample(nodes, round(share * NODES)))
    return Story(liars, nodes, trusting)


FILES = [some_tag(f"file {number}", CHUNKS) for number in range(6)]


def test_with_thirty_percent_liars_every_upload_takes_at_most_half_as_long_again() -> None:
    believed = []
    for seed in range(30):
        alone = sum(story(seed, 0).put(tag) for tag in FILES)
        told = story(seed, 0.3)
        seconds = [told.put(tag) for tag in FILES]
        assert max(seconds) <= 1.5 * alone / len(FILES), (seed, seconds)
        assert sum(seconds) <= 1.25 * alone
        naive = story(seed, 0.3, trusting=True)
        believed.append(max(naive.put(tag) for tag in FILES) / (alone / len(FILES)))
    assert max(believed) > 1.5, "or this proves nothing: without trust it would be as good"


def test_liars_get_fewer_orders_the_longer_they_lie() -> None:
    told = story(7, 0.3)
    shares = []
    for tag in FILES:
        told.orders = {}
        told.put(tag)
        shares.append(sum(told.orders.get(who, 0) for who in told.liars) / sum(told.orders.values()))
    assert shares[-1] < 0.05 and shares[-1] < shares[0]


def test_a_lie_is_forgotten_after_some_hours() -> None:
    told = story(3, 0.3)
    for tag in FILES:
        told.put(tag)
    caught = [who for who in told.liars if told.trust.of(who, told.now).trust < 0.7]
    assert len(caught) > len(told.liars) / 4, "a word that was not kept once is worth less already"
    honest = [who for who in told.nodes if who not in told.liars]
    assert all(told.trust.of(who, told.now).trust == 1.0 for who in honest)
    assert all(told.trust.of(who, told.now + 6 * 3600).trust > 0.95 for who in caught)
