"""The index against the plainest model one can write: lists of what was said, gone through at every question."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from contract.index_contract import beat, holding, profile, said, update
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.pairs import node, some_tag

from protocol.ids import NodeId, Role, Tag
from protocol.messages import Holding, JobState
from tracker.index.base import OPEN_STATES, Patience, TagState
from tracker.index.memory import MemoryIndex

T = TypeVar("T")

SILENT, FORGOTTEN = 5, 20
NODES = {node("p1"): Role.PEER, node("p2"): Role.PEER, node("s1"): Role.STORAGE, node("s2"): Role.STORAGE}
STORES = [who for who, role in NODES.items() if role is Role.STORAGE]
TAGS = [some_tag("a", 1), some_tag("b", 3), some_tag("c", 9)]
NAMES = ("x", "y")


def done(work: Coroutine[Any, Any, T]) -> T:
    """Run what never waits."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("the index in memory waited for something")


@st.composite
def holdings(draw: st.DrawFn) -> Holding:
    tag = draw(st.sampled_from(TAGS))
    chunks = draw(st.none() | st.sets(st.integers(0, tag.chunks - 1)))
    names = draw(st.lists(st.sampled_from(NAMES), max_size=2))
    return holding(tag, None if chunks is None else sorted(chunks), names=tuple(names), since=draw(st.integers(0, 3)))


@dataclass
class ModelNode:
    arrived: int
    heard: int
    linked: bool = True
    arrivals: int = 0
    picture: tuple[int, int] | None = None
    held: dict[Tag, Holding] = field(default_factory=dict)


class IndexMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.index = MemoryIndex(Patience(SILENT, FORGOTTEN))
        self.nodes: dict[NodeId, ModelNode] = {}
        # tag, storage -> state, opened, arrival of the storage node it was last told after
        self.jobs: dict[tuple[Tag, NodeId], tuple[JobState, int, int]] = {}

    # --- what happens ---

    @rule(seconds=st.integers(0, 12))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        # The model forgets at the first moment; the index whenever it likes.
        for who in [who for who, one in self.nodes.items() if self.now - one.heard > FORGOTTEN]:
            self.lose(who)
        self.jobs = {
            key: job
            for key, job in self.jobs.items()
            if job[2] == self.nodes[key[1]].arrivals or self.now - self.nodes[key[1]].arrived <= SILENT
        }

    def lose(self, who: NodeId) -> None:
        self.nodes.pop(who, None)
        self.jobs = {key: job for key, job in self.jobs.items() if key[1] != who}

    @rule(who=st.sampled_from(list(NODES)))
    def arrive(self, who: NodeId) -> None:
        done(self.index.arrived(profile(who, NODES[who]), self.now))
        one = self.nodes.setdefault(who, ModelNode(self.now, self.now))
        one.arrived = one.heard = self.now
        one.arrivals += 1
        one.linked = True

    @rule(who=st.sampled_from(list(NODES)))
    def leave(self, who: NodeId) -> None:
        done(self.index.left(who, self.now))
        if who in self.nodes:
            self.nodes[who].linked = False

    @rule(who=st.sampled_from(list(NODES)), epoch=st.integers(1, 2), sequence=st.integers(0, 4))
    def beat(self, who: NodeId, epoch: int, sequence: int) -> None:
        wanted = done(self.index.beat(profile(who, NODES[who]), beat(epoch, sequence), self.now))
        one = self.nodes.setdefault(who, ModelNode(self.now, self.now))
        one.heard, one.linked = self.now, True
        assert wanted == (one.picture != (epoch, sequence))

    @rule(
        who=st.sampled_from(list(NODES)),
        held=st.lists(holdings(), max_size=3, unique_by=lambda one: one.tag),
        dropped=st.lists(st.sampled_from(TAGS), max_size=2, unique=True),
        full=st.booleans(),
        in_step=st.integers(0, 4),
        epoch=st.integers(1, 2),
    )
    def tell(self, who: NodeId, held: list[Holding], dropped: list[Tag], full: bool, in_step: int, epoch: int) -> None:
        one = self.nodes.get(who)
        known = one.picture if one is not None and one.picture is not None else (epoch, 0)
        said_epoch, sequence = (known[0], known[1] + 1) if in_step else (epoch, 3)
        dropped = [tag for tag in dropped if tag not in [news.tag for news in held]]
        message = said(*held, epoch=said_epoch, sequence=sequence, full=full, dropped=tuple(dropped))
        gained = done(self.index.take(who, message, self.now))
        if one is None:
            assert gained is None
            return
        one.heard = self.now
        if not full and one.picture != (said_epoch, sequence - 1):
            one.picture = None
            assert gained is None
            return
        before = {tag: chunks_of(held) for tag, held in one.held.items()}
        if full:
            one.held.clear()
        for tag in dropped:
            one.held.pop(tag, None)
        expected = []
        for news in held:
            one.held[news.tag] = news
            if chunks_of(news) - before.get(news.tag, set()):
                expected.append(news.tag)
        one.picture = (said_epoch, sequence)
        assert gained == tuple(expected)

    @rule(who=st.sampled_from(STORES), tag=st.sampled_from(TAGS), state=st.sampled_from(JobState))
    def job(self, who: NodeId, tag: Tag, state: JobState) -> None:
        news = done(self.index.job(who, update(tag, state), self.now))
        one = self.nodes.get(who)
        if one is None:
            assert not news
            return
        one.heard = self.now
        known = self.jobs.pop((tag, who), None)
        if state in OPEN_STATES:
            assert news == (known is None or known[2] != one.arrivals)
            self.jobs[tag, who] = (state, known[1] if known else self.now, one.arrivals)
        else:
            assert not news

    @rule(who=st.sampled_from(list(NODES)))
    def forget(self, who: NodeId) -> None:
        done(self.index.forget(who))
        self.lose(who)

    @rule()
    def sweep(self) -> None:
        assert not set(done(self.index.sweep(self.now))) & set(self.nodes)

    # --- what must be so ---

    @invariant()
    def nodes_agree(self) -> None:
        views = {view.node: view for view in done(self.index.nodes(self.now))}
        assert list(views) == sorted(self.nodes)
        for who, one in self.nodes.items():
            assert views[who].fresh == (one.linked and self.now - one.heard <= SILENT)
            assert views[who].tags == len(one.held)
            assert views[who].role is NODES[who]
        counts = done(self.index.counts(self.now))
        assert counts.nodes == len(self.nodes)
        assert counts.tags == len({tag for one in self.nodes.values() for tag in one.held})

    @invariant()
    def jobs_agree(self) -> None:
        expected = sorted((opened, tag, who) for (tag, who), (_, opened, _) in self.jobs.items())
        assert [(job.tag, job.storage) for job in done(self.index.jobs(self.now))] == [key[1:] for key in expected]
        for who in NODES:
            held = self.nodes[who].held if who in self.nodes else {}
            open_tags = sorted({tag for tag, _ in self.jobs} & set(held))
            assert list(done(self.index.open_tags_of(who, self.now))) == open_tags

    @invariant()
    def tags_agree(self) -> None:
        listed = {view.tag: view for view in done(self.index.tags(self.now, after=None, limit=9, stored_only=False))}
        assert list(listed) == sorted({tag for one in self.nodes.values() for tag in one.held})
        for tag in TAGS:
            held = {who: one.held[tag] for who, one in sorted(self.nodes.items()) if tag in one.held}
            holders = done(self.index.holders(tag, self.now))
            assert [holder.node.node for holder in holders] == list(held)
            for holder in holders:
                bitmap = set(range(tag.chunks)) if holder.bitmap is None else set(holder.bitmap)
                assert bitmap == chunks_of(held[holder.node.node])
            view = listed.get(tag)
            assert view == done(self.index.tag(tag, self.now))
            if view is not None:
                busy = {who for job_tag, who in self.jobs if job_tag == tag}
                stored = [who for who in held if who in STORES and who not in busy and is_whole(held[who])]
                state = TagState.STORED if stored else TagState.OPEN if busy else TagState.SHARED
                assert view.state is state and (not stored or view.storage in stored)
                assert view.since == max(one.since for one in held.values())
                assert view.holders == sum(map(is_whole, held.values()))
                assert set(view.names) == {name for one in held.values() for name in one.names}
        newest = sorted(listed.values(), key=lambda view: (-view.since, view.tag))
        assert list(done(self.index.newest_tags(self.now, 2))) == newest[:2]

    @invariant()
    def names_agree(self) -> None:
        for name in NAMES:
            claims = [
                (who in STORES and is_whole(held), held.since, tag)
                for who, one in self.nodes.items()
                for tag, held in one.held.items()
                if name in held.names
            ]
            assert done(self.index.named(name, self.now)) == (max(claims)[2] if claims else None)


def chunks_of(one: Holding) -> set[int]:
    if not one.bitmap:
        return set(range(one.tag.chunks))
    return {chunk for chunk in range(one.tag.chunks) if one.bitmap[chunk // 8] >> chunk % 8 & 1}


def is_whole(one: Holding) -> bool:
    return len(chunks_of(one)) == one.tag.chunks


TestIndex = IndexMachine.TestCase
