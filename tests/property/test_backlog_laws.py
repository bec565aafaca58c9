"""Laws of the blocks that wait for several writers: each is written once, those of a chunk in order and by one."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from exchange.backlog import BATCH_BYTES, Backlog
from exchange.spool import Write

CHUNKS = 4
LENGTHS = [0, 1, 64 * 1024, BATCH_BYTES // 2, BATCH_BYTES, BATCH_BYTES + 1]
BYTES = memoryview(bytes(max(LENGTHS)))


class Writers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog()
        self.come = 0
        self.waiting: dict[int, list[int]] = defaultdict(list)  # chunk -> numbers of its blocks, in order
        self.at_work: list[list[Write]] = []

    def taken(self) -> set[int]:
        return {write.chunk for batch in self.at_work for write in batch}

    @rule(chunk=st.integers(0, CHUNKS - 1), length=st.sampled_from(LENGTHS))
    def a_block_comes(self, chunk: int, length: int) -> None:
        free = self.backlog.add(Write(chunk, self.come, BYTES[:length], False))
        assert free == (chunk not in self.taken())
        self.waiting[chunk].append(self.come)
        self.come += 1

    @rule()
    def a_writer_takes(self) -> None:
        before = self.taken()
        batch = self.backlog.take()
        free = {chunk: blocks[0] for chunk, blocks in self.waiting.items() if blocks and chunk not in before}
        assert bool(batch) == bool(free)
        assert not {write.chunk for write in batch} & before
        for write in batch:
            assert self.waiting[write.chunk].pop(0) == write.offset
        if batch:
            assert len(batch) == 1 or sum(len(write.data) for write in batch) <= BATCH_BYTES
            self.at_work.append(batch)

    @precondition(lambda self: self.at_work)
    @rule(data=st.data())
    def a_writer_is_done(self, data: st.DataObject) -> None:
        self.backlog.done(self.at_work.pop(data.draw(st.integers(0, len(self.at_work) - 1))))

    @rule()
    def what_waits_is_forgotten(self) -> None:
        assert sorted(write.offset for write in self.backlog.forget()) == sorted(
            number for blocks in self.waiting.values() for number in blocks
        )
        self.waiting.clear()

    @invariant()
    def no_chunk_has_two_writers(self) -> None:
        chunks = [chunk for batch in self.at_work for chunk in {write.chunk for write in batch}]
        assert len(chunks) == len(set(chunks))

    def teardown(self) -> None:
        for batch in self.at_work:
            self.backlog.done(batch)
        self.at_work.clear()
        while batch := self.backlog.take():
            for write in batch:
                assert self.waiting[write.chunk].pop(0) == write.offset
            self.backlog.done(batch)
        assert not any(self.waiting.values())


Writers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWriters = Writers.TestCase


def test_who_waited_longest_is_written_first_whatever_came_since() -> None:
    backlog = Backlog()
    for chunk, offset in [(2, 0), (1, 0), (2, 1), (0, 0)]:
        backlog.add(Write(chunk, offset, BYTES[:1], False))
    assert [(write.chunk, write.offset) for write in backlog.take()] == [(2, 0), (2, 1), (1, 0), (0, 0)]
