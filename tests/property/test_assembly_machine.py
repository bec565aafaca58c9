"""Assembly against a dict of bytes: blocks in any order make the chunk, and each byte has one sender."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from exchange.assembly import CELL_BYTES, Assembly, cells_of, first_run, last_run, run_bytes, run_mask
from protocol.ids import NodeId
from protocol.manifest import Layout

NODES = [NodeId(name) for name in ("a", "b", "c")]


class AssemblyMachine(RuleBasedStateMachine):
    @initialize(cells=st.integers(1, 8), chunks=st.integers(1, 3), last=st.integers(1, 8 * CELL_BYTES))
    def begin(self, cells: int, chunks: int, last: int) -> None:
        chunk_bytes = cells * CELL_BYTES
        self.layout = Layout((chunks - 1) * chunk_bytes + min(last, chunk_bytes), chunk_bytes, chunks)
        self.assembly = Assembly(self.layout)
        self.sent: dict[int, dict[int, NodeId]] = {}  # open chunk -> cell -> who sent it

    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        chunk = data.draw(st.integers(0, self.layout.chunks - 1))
        self.assembly.open(chunk)
        self.sent.setdefault(chunk, {})

    def missing(self, chunk: int) -> list[int]:
        return [cell for cell in range(cells_of(self.layout, chunk)) if cell not in self.sent[chunk]]

    @precondition(lambda self: any(self.missing(chunk) for chunk in self.sent))
    @rule(data=st.data(), sender=st.sampled_from(NODES))
    def arrive(self, data: st.DataObject, sender: NodeId) -> None:
        chunk = data.draw(st.sampled_from([chunk for chunk in self.sent if self.missing(chunk)]))
        first = data.draw(st.sampled_from(self.missing(chunk)))
        count = 1
        while first + count in self.missing(chunk) and data.draw(st.booleans()):
            count += 1
        whole = self.assembly.arrived(chunk, first, count, sender)
        self.sent[chunk].update(dict.fromkeys(range(first, first + count), sender))
        assert whole == (not self.missing(chunk))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), whole=st.booleans())
    def close(self, data: st.DataObject, whole: bool) -> None:
        chunk = data.draw(st.sampled_from(sorted(self.sent)))
        expected = self.bytes_by_sender(chunk)
        if not self.missing(chunk):
            assert self.assembly.finish(chunk) == expected
            assert sum(expected.values()) == self.layout.bytes_of(chunk)
        else:
            self.assembly.reset(chunk)
        del self.sent[chunk]

    def bytes_by_sender(self, chunk: int) -> dict[NodeId, int]:
        size_bytes = self.layout.bytes_of(chunk)
        by_sender: dict[NodeId, int] = {}
        for cell, sender in self.sent[chunk].items():
            cell_bytes = min(CELL_BYTES, size_bytes - cell * CELL_BYTES)
            by_sender[sender] = by_sender.get(sender, 0) + cell_bytes
        return by_sender

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "assembly"):
            return
        assert self.assembly.chunks() == list(self.sent)
        for chunk in range(self.layout.chunks):
            assert (chunk in self.assembly) == (chunk in self.sent)
        for chunk in self.sent:
            assert self.assembly.missing(chunk) == sum(1 << cell for cell in self.missing(chunk))
            assert self.assembly.senders(chunk) == self.bytes_by_sender(chunk)
            assert self.assembly.arrived_bytes(chunk) == sum(self.bytes_by_sender(chunk).values())


AssemblyMachine.TestCase.settings = settings(stateful_step_count=30)
TestAssembly = AssemblyMachine.TestCase


def test_an_empty_file_is_one_empty_cell_and_whole_when_it_came() -> None:
    layout = Layout.of_size(0)
    assembly = Assembly(layout)
    assembly.open(0)
    assert cells_of(layout, 0) == 1 and assembly.missing(0) == 1 and run_bytes(layout, 0, 0, 1) == 0
    assert assembly.arrived(0, 0, 1, NODES[0])
    assert assembly.finish(0) == {NODES[0]: 0}


@given(bits=st.integers(1, 1 << 200), cells=st.integers(1, 16))
def test_runs_lie_within_the_bits_at_their_ends(bits: int, cells: int) -> None:
    first, count = first_run(bits, cells)
    assert 1 <= count <= cells and run_mask(first, count) & ~bits == 0
    assert bits & run_mask(0, first) == 0
    assert count == cells or not bits >> (first + count) & 1
    first, count = last_run(bits, cells)
    assert 1 <= count <= cells and run_mask(first, count) & ~bits == 0
    assert bits >> (first + count) == 0
    assert count == cells or first == 0 or not bits >> (first - 1) & 1


@given(size_bytes=st.integers(0, 5 * CELL_BYTES * 16), data=st.data())
def test_the_runs_of_a_chunk_have_its_bytes_however_it_is_cut(size_bytes: int, data: st.DataObject) -> None:
    layout = Layout.of_size(size_bytes)
    for chunk in range(layout.chunks):
        total, first, cells = 0, 0, cells_of(layout, chunk)
        while first < cells:
            count = data.draw(st.integers(1, cells - first))
            total += run_bytes(layout, chunk, first, count)
            first += count
        assert total == layout.bytes_of(chunk)
