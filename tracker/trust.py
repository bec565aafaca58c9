"""How much a node's word about what it holds is worth: what came of it when it was ordered to help. Pure.

Who says that it holds a file is ordered to push it; what storage then reports of the job shows whether it did. One who
was ordered, while others pushed and the job moved on without a byte of his, may be unlucky; one to whom that happens
again and again is lying, or has a line that leads nowhere, and for those who wait it is the same. Such nodes come last
when helpers are chosen (matchmaking.py), and are asked again from time to time: a line may be mended, and a lie costs
only what it is asked.

Trust is the share of trials that went well, as if each node had had two good ones before; old trials fade. So a node
that nobody knows is trusted, one miss is forgiven, and a liar is down to a fifth after eight.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.ids import NodeId, Tag
from protocol.limits import PUSHED_NODES_MAX
from protocol.messages import JobUpdate
from tracker.matchmaking import Repute

# As if each had helped twice already.
CREDIT = 2.0
# A trial counts half after so long.
HALF_LIFE_SECONDS = 1800.0
# A helper has so long to connect, offer and deliver a first chunk, before others' progress speaks against it.
TRIAL_SECONDS = 10.0
# So much of the job must have moved meanwhile: where nothing moves, nobody is to blame.
TRIAL_CHUNKS = 4
RETRY_SECONDS = 300.0
# What is remembered of nodes that come and go.
NODES_MAX = 20_000
TRIALS_MAX = 50_000
_UNKNOWN = Repute()


@dataclass(slots=True)
class _Record:
    good: float = 0.0
    bad: float = 0.0
    at: float = 0.0


@dataclass(slots=True)
class _Trial:
    since: float
    chunks: int  # that storage had when it began
    pushed: int  # bytes that the node had pushed by then


class Trust:
    """What is known of all nodes. ``now``: monotonic seconds, never less than before."""

    def __init__(self) -> None:
        self._records: dict[NodeId, _Record] = {}
        self._trials: dict[tuple[Tag, NodeId], dict[NodeId, _Trial]] = {}  # by job
        self._count = 0

    def of(self, node: NodeId, now: float) -> Repute:
        """Return how far ``node`` is trusted, from 0 to 1, and whether it was left alone for so long that it may be
        tried again if it is not."""
        record = self._records.get(node)
        if record is None:
            return _UNKNOWN
        fade = _fade(now - record.at)
        trust = (CREDIT + record.good * fade) / (CREDIT + (record.good + record.bad) * fade)
        return Repute(trust, due=now - record.at >= RETRY_SECONDS)

    def ordered(self, node: NodeId, job: tuple[Tag, NodeId], chunks: int, pushed: int, now: float) -> None:
        """``node`` was ordered to help ``job``, of which storage has ``chunks``, ``pushed`` bytes from this node."""
        trials = self._trials.setdefault(job, {})
        if node not in trials and self._count < TRIALS_MAX:
            trials[node] = _Trial(now, chunks, pushed)
            self._count += 1

    def reported(self, storage: NodeId, update: JobUpdate, now: float, *, is_open: bool) -> None:
        """A storage node tells how a job goes: trials that have shown something end, and a new one may begin."""
        job = (update.tag, storage)
        trials = self._trials.get(job)
        if trials is None:
            return
        pushed = {one.node: one.bytes_pushed for one in update.pushed}
        told_all = len(update.pushed) < PUSHED_NODES_MAX  # a longer list is cut, and speaks against nobody
        for node, trial in list(trials.items()):
            if pushed.get(node, 0) > trial.pushed:
                self._note(node, now, good=1.0)
            elif (
                told_all and now - trial.since >= TRIAL_SECONDS and update.chunks_stored - trial.chunks >= TRIAL_CHUNKS
            ):
                self._note(node, now, bad=1.0)
            else:
                continue
            del trials[node]
            self._count -= 1
        if not is_open:
            self._count -= len(self._trials.pop(job))

    def forget(self, node: NodeId) -> None:
        """It was shut out, or is gone for good."""
        self._records.pop(node, None)

    def _note(self, node: NodeId, now: float, *, good: float = 0.0, bad: float = 0.0) -> None:
        record = self._records.pop(node, None) or _Record(at=now)
        fade = _fade(now - record.at)
        # Put last: those that were heard of longest ago are forgotten first.
        self._records[node] = _Record(record.good * fade + good, record.bad * fade + bad, now)
        if len(self._records) > NODES_MAX:
            del self._records[next(iter(self._records))]


def _fade(seconds: float) -> float:
    return float(0.5 ** (max(0.0, seconds) / HALF_LIFE_SECONDS))
