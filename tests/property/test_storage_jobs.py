"""The job as a state machine against the plainest model: a word for the state, a set of chunks, a dict of claims."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.errors import LocalProtocolError
from protocol.ids import NodeId, node_id_from_bytes
from protocol.limits import MIB
from protocol.manifest import Layout, Manifest
from protocol.messages import JobState
from storage.jobs import LIVE, MOVES, Job, bytes_in

NODES = [node_id_from_bytes(hashlib.sha256(name).digest()) for name in (b"anna", b"ben", b"carl")]
nodes = st.sampled_from(NODES)
names = st.sampled_from(["", "a", "b/c", "..", "\0\x1b[31m"])


def manifest(size: int) -> Manifest:
    layout = Layout.of_size(size)
    digests = [hashlib.sha256(b"%d" % chunk).digest() for chunk in range(layout.chunks)]
    return Manifest.of_digests(size, digests)


class JobMachine(RuleBasedStateMachine):
    @initialize(size=st.integers(0, 6 * MIB))
    def begin(self, size: int) -> None:
        self.job = Job(manifest(size))
        self.state = JobState.OPEN
        self.durable: set[int] = set()
        self.claims: dict[NodeId, list[str]] = {}
        self.given: dict[NodeId, int] = {}

    @property
    def chunks(self) -> int:
        return self.job.manifest.layout.chunks

    @precondition(lambda self: self.state is not JobState.STORED)
    @rule(node=nodes, name=names)
    def claim(self, node: NodeId, name: str) -> None:
        if self.state not in LIVE:
            self.state = JobState.OPEN
            self.claims = {}
        if name not in self.claims.setdefault(node, []):
            self.claims[node].append(name)
        self.job.claim(node, name)

    @rule(node=nodes)
    def withdraw(self, node: NodeId) -> None:
        had = self.claims.pop(node, None) is not None
        ends = had and not self.claims and self.state is JobState.OPEN
        assert self.job.withdraw(node) == ends
        if ends:
            self.state = JobState.CANCELLED

    @rule(data=st.data(), node=nodes)
    def acknowledge(self, data: st.DataObject, node: NodeId) -> None:
        chunks = data.draw(st.sets(st.integers(0, self.chunks - 1)))
        pushed = {node: sum(self.job.manifest.layout.bytes_of(chunk) for chunk in chunks)}
        if self.state in LIVE:
            self.job.acknowledge(chunks, pushed)
            self.durable |= chunks
            self.given[node] = self.given.get(node, 0) + pushed[node]
        else:
            with pytest.raises(LocalProtocolError):
                self.job.acknowledge(chunks, pushed)

    @rule()
    def commit(self) -> None:
        if self.state is JobState.OPEN and len(self.durable) == self.chunks:
            self.job.begin_commit()
            self.state = JobState.COMMITTING
        else:
            with pytest.raises(LocalProtocolError):
                self.job.begin_commit()

    @precondition(lambda self: self.state is JobState.COMMITTING)
    @rule(data=st.data())
    def find_rotten(self, data: st.DataObject) -> None:
        rotten = data.draw(st.sets(st.integers(0, self.chunks - 1), min_size=1))
        self.job.reopen(rotten)
        self.durable -= rotten
        self.state = JobState.OPEN

    @rule(state=st.sampled_from([JobState.STORED, JobState.FAILED, JobState.CANCELLED]))
    def end(self, state: JobState) -> None:
        act = {
            JobState.STORED: self.job.finish,
            JobState.FAILED: lambda: self.job.fail("no"),
            JobState.CANCELLED: lambda: self.job.cancel("no"),
        }[state]
        if state in MOVES[self.state]:
            act()
            self.state = state
        else:
            with pytest.raises(LocalProtocolError):
                act()

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "job"):
            return
        layout = self.job.manifest.layout
        shot = self.job.snapshot()
        assert self.job.state is self.state
        assert set(self.job.durable) == self.durable
        assert {node: list(names) for node, names in self.job.uploaders.items()} == self.claims
        assert shot.bytes_stored == sum(layout.bytes_of(chunk) for chunk in self.durable)
        assert {pushed.node: pushed.bytes_pushed for pushed in shot.pushed} == self.given
        enough = min(layout.chunk_bytes, layout.size_bytes)
        assert self.job.grants() == tuple(
            (node, name) for node, names in self.claims.items() for name in names if self.given.get(node, 0) >= enough
        )
        assert shot.name == next((name for names in self.claims.values() for name in names if name), "")

    @invariant()
    def what_is_stored_was_durable_as_a_whole(self) -> None:
        if hasattr(self, "job") and self.state is JobState.STORED:
            assert len(self.durable) == self.chunks
            assert bytes_in(self.job.manifest.layout, self.job.durable) == self.job.manifest.size_bytes


TestJobMachine = JobMachine.TestCase
