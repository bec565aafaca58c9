"""The picker against a plain model: sources come, go, have more, answer, reject, lie and stall, and time passes.

The model is a dict of cells for each chunk and a list of requests for each source. A settled swarm in which honest
sources have everything completes in bounded time, whatever happened before and whatever liars still do.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from exchange.assembly import CELL_BYTES, Assembly, cells_of
from exchange.book import Withdrawal
from exchange.picker import Picker
from exchange.strikes import STRIKES_MAX
from protocol.bitmap import Bitmap
from protocol.ids import NodeId
from protocol.limits import MIB, REQUESTS_PER_LINK_MAX
from protocol.manifest import Layout

HONEST = [NodeId(f"honest{number}") for number in range(3)]
LIARS = [NodeId(f"liar{number}") for number in range(2)]
CHUNKS = 5


@dataclass
class Asked:
    """A request as its sender sees it."""

    chunk: int
    offset: int
    length: int
    cancelled: bool = False

    @property
    def cells(self) -> set[int]:
        first = self.offset // CELL_BYTES
        return set(range(first, first + max(1, -(-self.length // CELL_BYTES))))


@dataclass
class Link:
    """A sender's side: what it offered, what it was asked for."""

    node: NodeId
    have: set[int]
    queue: list[Asked] = field(default_factory=list)


class PickerMachine(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1000), cells=st.sampled_from([1, 3, 16]), last=st.integers(1, CELL_BYTES + 1))
    def begin(self, seed: int, cells: int, last: int) -> None:
        chunk_bytes = cells * CELL_BYTES
        size_bytes = (CHUNKS - 1) * chunk_bytes + min(last, chunk_bytes)
        self.layout = Layout(size_bytes, chunk_bytes, CHUNKS)
        self.assembly = Assembly(self.layout)
        self.picker = Picker(self.layout, self.assembly, Bitmap.full(CHUNKS), random.Random(seed))
        self.now = 100.0
        self.numbers = 0
        self.links: dict[int, Link] = {}
        self.nodes: dict[int, NodeId] = {}  # of all links that ever were
        self.wanted = set(range(CHUNKS))
        self.arrived: dict[int, dict[int, tuple[int, bool]]] = {}  # chunk -> cell -> (source, whether it is right)
        self.whole: list[int] = []
        self.once_wrong: set[int] = set()
        self.ever_wrong = False
        self.doubted: dict[NodeId, list[int]] = {}  # node -> [times, needed]
        self.strikes: dict[NodeId, int] = {}

    # --- what the model says ---

    def is_doubted(self, node: NodeId) -> bool:
        return self.doubted.get(node, [0, 0])[1] > 0

    def asked_of_others(self, source: int) -> set[tuple[int, int]]:
        return {
            (asked.chunk, cell)
            for other, link in self.links.items()
            if other != source
            for asked in link.queue
            if not asked.cancelled
            for cell in asked.cells
        }

    def could_be_asked(self, source: int) -> set[tuple[int, int]]:
        """Cells that are surely free for ``source``: nobody was asked, nobody makes their chunk alone."""
        link = self.links[source]
        taken = self.asked_of_others(source) | {(asked.chunk, cell) for asked in link.queue for cell in asked.cells}
        free = set()
        for chunk in self.wanted & link.have - set(self.whole):
            cells = {(chunk, cell) for cell in range(cells_of(self.layout, chunk))}
            arrived = {(chunk, cell) for cell in self.arrived.get(chunk, ())}
            untouched = not arrived and not any(touched == chunk for touched, _ in taken)
            if untouched or not self.ever_wrong:
                free |= cells - taken - arrived
        return free

    def forget_started_over(self) -> None:
        """Take note of chunks that the picker began anew."""
        for chunk in list(self.arrived):
            if chunk in self.assembly:
                missing = self.assembly.missing(chunk)
                if not any(missing >> cell & 1 for cell in self.arrived[chunk]):
                    continue
            assert self.ever_wrong, f"chunk {chunk} was begun anew for no reason"
            assert chunk not in self.whole
            del self.arrived[chunk]

    def withdraw(self, withdrawals: list[Withdrawal]) -> None:
        for one in withdrawals:
            (asked,) = [
                asked
                for asked in self.links[one.source].queue
                if (asked.chunk, asked.offset) == (one.chunk, one.offset) and not asked.cancelled
            ]
            asked.cancelled = True

    def tick(self) -> None:
        self.withdraw(self.picker.stalled(self.now))

    def pump(self) -> None:
        for source in self.picker.sources():
            self.request_from(source)

    def request_from(self, source: int) -> None:
        link = self.links[source]
        for pick in self.picker.picks(source, self.now):
            self.forget_started_over()
            asked = Asked(pick.chunk, pick.offset, pick.length)
            assert pick.source == source and pick.chunk in link.have and pick.chunk in self.wanted
            assert pick.chunk not in self.whole
            assert pick.offset % CELL_BYTES == 0
            assert pick.length > 0 and pick.offset + pick.length <= self.layout.bytes_of(pick.chunk)
            assert not asked.cells & self.arrived.get(pick.chunk, {}).keys()
            assert not any(asked.chunk == other.chunk and asked.cells & other.cells for other in link.queue)
            twice = self.asked_of_others(source) & {(pick.chunk, cell) for cell in asked.cells}
            if twice:
                assert not self.could_be_asked(source), "doubled before the tail"
            link.queue.append(asked)
            assert len(link.queue) <= REQUESTS_PER_LINK_MAX // 2
        assert sum(asked.length for asked in link.queue) <= 17 * MIB

    def deliver(self, source: int, place: int, lie: bool) -> None:
        link = self.links[source]
        asked = link.queue.pop(place)
        if not self.picker.accepts(source, asked.chunk, asked.offset, asked.length):
            self.picker.answered(source, asked.chunk, asked.offset, self.now, gone=False, came=True)
            self.tick()
            self.pump()
            return
        whole, superfluous = self.picker.arrived(source, asked.chunk, asked.offset, self.now)
        arrived = self.arrived.setdefault(asked.chunk, {})
        assert not arrived.keys() & asked.cells, "a cell was accepted twice"
        others = {sender for sender, _ in arrived.values()} - {source}
        if asked.chunk in self.once_wrong:
            assert not others, "a chunk that was wrong once is made by one source alone"
        if self.is_doubted(link.node):
            nodes = {self.nodes[other] for other in others}
            assert nodes <= {link.node}, "a doubted node shares a chunk"
        for cell in asked.cells:
            arrived[cell] = (source, not lie)
        assert whole == (len(arrived) == cells_of(self.layout, asked.chunk))
        if whole:
            self.whole.append(asked.chunk)
        self.withdraw(superfluous)
        for one in superfluous:
            assert one.chunk == asked.chunk
        self.request_from(source)

    def judge_one(self) -> None:
        chunk = self.whole.pop(0)
        cells = self.arrived.pop(chunk)
        if all(right for _, right in cells.values()):
            makers = self.picker.verified(chunk)
            self.wanted.discard(chunk)
            self.once_wrong.discard(chunk)
            assert sum(makers.values()) == self.layout.bytes_of(chunk)
            if len(makers) == 1:
                doubt = self.doubted.get(*makers)
                if doubt and doubt[1]:
                    doubt[1] -= 1
            return
        self.ever_wrong = True
        self.once_wrong.add(chunk)
        makers = self.picker.wrong(chunk)
        for node in makers:
            times, needed = self.doubted.get(node, [0, 0])
            self.doubted[node] = [times + 1, max(needed, 2**times)]
        if len(makers) == 1:
            (node,) = makers
            assert node in LIARS
            for link in self.links.values():
                if link.node == node:
                    link.have.discard(chunk)
            self.strikes[node] = self.strikes.get(node, 0) + 1
            if self.strikes[node] >= STRIKES_MAX:
                for number in [number for number, link in self.links.items() if link.node == node]:
                    self.leave_as(number)
        self.tick()
        self.pump()

    def leave_as(self, source: int) -> None:
        del self.links[source]
        self.picker.remove_source(source)
        self.tick()
        self.pump()

    def join_as(self, node: NodeId, have: set[int]) -> None:
        if self.strikes.get(node, 0) >= STRIKES_MAX:
            return
        self.numbers += 1
        self.links[self.numbers] = Link(node, set(have))
        self.nodes[self.numbers] = node
        self.picker.add_source(self.numbers, node, Bitmap.of(CHUNKS, have), self.now)
        self.request_from(self.numbers)

    # --- what happens ---

    @rule(node=st.sampled_from(HONEST + LIARS), have=st.sets(st.integers(0, CHUNKS - 1)), everything=st.booleans())
    def join(self, node: NodeId, have: set[int], everything: bool) -> None:
        if len(self.links) < 6:
            self.join_as(node, set(range(CHUNKS)) if everything else have)

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.leave_as(data.draw(st.sampled_from(sorted(self.links))))

    @precondition(lambda self: self.links)
    @rule(data=st.data(), chunks=st.sets(st.integers(0, CHUNKS - 1)))
    def have_more(self, data: st.DataObject, chunks: set[int]) -> None:
        source = data.draw(st.sampled_from(sorted(self.links)))
        self.links[source].have |= chunks
        self.picker.add_have(source, chunks)
        self.request_from(source)

    def busy(self) -> list[int]:
        return [number for number, link in self.links.items() if link.queue]

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), count=st.integers(1, 20), lies=st.booleans(), in_turn=st.booleans())
    def answer(self, data: st.DataObject, count: int, lies: bool, in_turn: bool) -> None:
        source = data.draw(st.sampled_from(self.busy()))
        for _ in range(count):
            link = self.links.get(source)
            if link is None or not link.queue:
                return
            place = 0 if in_turn else data.draw(st.integers(0, len(link.queue) - 1))
            self.deliver(source, place, lies and link.node in LIARS)

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), gone=st.booleans())
    def reject(self, data: st.DataObject, gone: bool) -> None:
        source = data.draw(st.sampled_from(self.busy()))
        link = self.links[source]
        asked = link.queue.pop(data.draw(st.integers(0, len(link.queue) - 1)))
        if gone:
            link.have.discard(asked.chunk)
        self.picker.answered(source, asked.chunk, asked.offset, self.now, gone=gone)
        self.tick()
        self.pump()

    @precondition(lambda self: self.busy())
    @rule()
    def reject_what_was_cancelled(self) -> None:
        for source in self.busy():
            self.reject_cancelled_of(source)

    def reject_cancelled_of(self, source: int) -> None:
        for asked in [asked for asked in self.links[source].queue if asked.cancelled]:
            self.links[source].queue.remove(asked)
            self.picker.answered(source, asked.chunk, asked.offset, self.now, gone=False)
            self.tick()
            self.pump()

    @precondition(lambda self: self.whole)
    @rule()
    def judge(self) -> None:
        self.judge_one()

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.1, 1.0, 5.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.tick()
        self.pump()

    @precondition(lambda self: len(self.wanted) < CHUNKS)
    @rule(data=st.data())
    def rot(self, data: st.DataObject) -> None:
        chunk = data.draw(st.sampled_from(sorted(set(range(CHUNKS)) - self.wanted)))
        self.wanted.add(chunk)
        self.picker.want_again([chunk])
        self.tick()
        self.pump()

    @rule()
    def writes_fail(self) -> None:
        """As swarm.py after a full disk: everything that is open begins anew."""
        self.picker.want_again(self.assembly.chunks())
        self.arrived.clear()
        self.whole.clear()
        self.tick()
        self.pump()

    # --- what always holds ---

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "picker"):
            return
        self.forget_started_over()
        assert set(self.picker.wanted) == self.wanted
        arrived = sum(
            min(CELL_BYTES, self.layout.bytes_of(chunk) - cell * CELL_BYTES)
            for chunk, cells in self.arrived.items()
            for cell in cells
        )
        assert self.picker._left_bytes == sum(map(self.layout.bytes_of, self.wanted)) - arrived
        assert self.picker.complete == (not self.wanted)
        assert self.picker.sources() == list(self.links)
        for source, link in self.links.items():
            assert set(self.picker.have_of(source)) == link.have
        # Chunks that were whole when their maker was shut out are judged yet.
        assert all(strikes <= STRIKES_MAX + CHUNKS for strikes in self.strikes.values())

    @invariant()
    def nobody_idles_while_there_is_work(self) -> None:
        for source, link in getattr(self, "links", {}).items():
            if link.queue or self.ever_wrong:
                continue
            self.request_from(source)
            resting = self.now < self.picker._sources[source].rests_until
            assert link.queue or resting or not self.could_be_asked(source)

    def teardown(self) -> None:
        """Honest sources with everything stay; liars lie on, or go silent. It completes."""
        if not hasattr(self, "picker"):
            return
        quiet = self.numbers % 2 == 0
        for node in HONEST[:2]:
            self.join_as(node, set(range(0, CHUNKS, 2)))
            self.join_as(node, set(range(1, CHUNKS, 2)))
        for _ in range(4000):
            if not self.wanted:
                break
            self.now += 0.5
            self.tick()
            self.pump()
            for source in list(self.links):
                link = self.links.get(source)
                if link is None or (link.node in LIARS and quiet):
                    continue
                self.reject_cancelled_of(source)
                for _ in range(len(link.queue)):
                    if source in self.links and link.queue:
                        self.deliver(source, 0, link.node in LIARS)
            while self.whole:
                self.judge_one()
            self.agrees_with_the_model()
        assert not self.wanted and self.picker.complete, f"never completes: {self.wanted}"
        assert not self.assembly.chunks()


PickerMachine.TestCase.settings = settings(stateful_step_count=40)


class TestPicker(PickerMachine.TestCase):
    """Found by hypothesis; see the machine."""

    pytestmark = pytest.mark.timeout(300)
