"""What happened: rates, chunk maps and events, made of what nodes tell as it passes by. Pure: no clock, no await.

Only for people who look on. The index (tracker/index/) knows what is; this knows what changed, and forgets it after a
while or with the process. It decides nothing, and what nodes claim here costs at worst a wrong picture.

Everything is bounded: jobs, events, one map a job. What a job is first seen with was pushed before, and is no flow of
today. ``now`` is the monotonic clock, ``wall`` the other one.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from protocol.ids import NodeId, Tag
from protocol.jobmap import decode_runs_untrusted
from protocol.messages import JobMap, JobState, JobUpdate
from tracker.flow import Hour, Meter, Point
from tracker.index.base import ENDED_JOBS_MAX, OPEN_STATES

JOBS_MAX = 4096
EVENTS_MAX = 2000
# Nodes that pushed lately, for their rates.
METERS_MAX = 4096

Key = tuple[Tag, NodeId]  # a job: its tag and its storage node


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened. ``what`` is one of EVENT_WORDS; ``at`` is wall clock, seconds since 1970.

    ``node``: who is meant, if anybody; ``file``: what the upload is called; it and ``reason`` are text of others.
    """

    at: int
    what: str
    node: NodeId | None = None
    tag: str | None = None
    file: str = ""
    reason: str = ""


EVENT_WORDS = {
    "opened": "the upload was opened",
    "seen": "the upload was found open",
    "ordered": "was ordered to help",
    "pushes": "began to push",
    "safe": "others hold every chunk: its uploaders may disconnect",
    "unsafe": "some chunks are held by its uploaders alone again",
    "committing": "all chunks are there; storage reads them back",
    "reopened": "chunks turned out wrong and are fetched again",
    "stored": "stored",
    "failed": "failed",
    "cancelled": "cancelled",
    "connected": "connected",
    "disconnected": "disconnected",
    "revoked": "was shut out",
}


@dataclass(frozen=True, slots=True)
class ChunkMap:
    """What a storage node last showed of a job. ``codes``: see protocol/jobmap.py."""

    senders: tuple[NodeId, ...]
    codes: array[int]


@dataclass(slots=True)
class _Track:
    name: str
    pushed: dict[NodeId, int]  # in the order in which they came
    state: JobState
    safe: bool
    meter: Meter
    meters: dict[NodeId, Meter] = field(default_factory=dict)
    map: ChunkMap | None = None
    ordered: set[NodeId] = field(default_factory=set)


class Journal:
    """See the module."""

    def __init__(self, now: float, wall: float) -> None:
        self._hour = Hour(now, wall)
        self._meter = Meter(now)
        self._open: dict[Key, _Track] = {}
        self._ended: OrderedDict[Key, _Track] = OrderedDict()
        self._nodes: OrderedDict[NodeId, Meter] = OrderedDict()
        self._job_events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._node_events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self.bytes_pushed = 0

    # --- what nodes tell ---

    def job(self, storage: NodeId, update: JobUpdate, now: float, wall: float) -> None:
        """A storage node told how a job stands."""
        key = (update.tag, storage)
        told = {one.node: one.bytes_pushed for one in update.pushed}
        track = self._open.get(key)
        if track is None:
            if len(self._open) >= JOBS_MAX:
                return
            self._ended.pop(key, None)
            track = self._open[key] = _Track(update.name, told, JobState.OPEN, update.safe, Meter(now))
            if update.state in OPEN_STATES:
                self._note(track, wall, "seen" if told else "opened", update.tag)
        self._count(track, told, update.tag, now, wall)
        self._note_change(track, update, wall)
        if update.state not in OPEN_STATES:
            del self._open[key]
            self._ended[key] = track
            while len(self._ended) > ENDED_JOBS_MAX:
                self._ended.popitem(last=False)

    def map(self, storage: NodeId, shown: JobMap) -> None:
        """A storage node showed the chunks of a job. One that nobody told us of is ignored.

        Raises:
            RemoteProtocolError: it cannot be the map of that file.
        """
        codes = decode_runs_untrusted(shown.runs, shown.tag.chunks, len(shown.senders))
        track = self._open.get((shown.tag, storage))
        if track is not None:
            track.map = ChunkMap(shown.senders, codes)

    def ordered(self, node: NodeId, tag: Tag, storage: NodeId, wall: float) -> None:
        """A node was ordered to help; told once for each job."""
        track = self._open.get((tag, storage))
        if track is not None and node not in track.ordered and len(track.ordered) < METERS_MAX:
            track.ordered.add(node)
            self._note(track, wall, "ordered", tag, node)

    def node(self, what: str, node: NodeId, wall: float, reason: str = "") -> None:
        """A node connected, left, or was shut out."""
        self._node_events.append(Event(at=int(wall), what=what, node=node, reason=reason))

    def keep(self, open_jobs: Iterable[Key]) -> None:
        """Only these are still open; what we think of others is forgotten, because nobody will tell their end."""
        known = set(open_jobs)
        for key in [key for key in self._open if key not in known]:
            del self._open[key]

    # --- what is asked ---

    def history(self, now: float) -> tuple[Point, ...]:
        """Return what flowed into storage in the last hour."""
        return self._hour.points(now)

    def rate(self, now: float) -> float:
        """Return what flows into storage now, in bytes per second."""
        return self._meter.rate(now)

    def job_rate(self, tag: Tag, storage: NodeId, now: float) -> float:
        """Return how fast a job moves, in bytes per second."""
        track = self._open.get((tag, storage))
        return 0.0 if track is None else track.meter.rate(now)

    def share_rate(self, tag: Tag, storage: NodeId, node: NodeId, now: float) -> float:
        """Return how fast ``node`` pushes for a job."""
        track = self._open.get((tag, storage))
        meter = None if track is None else track.meters.get(node)
        return 0.0 if meter is None else meter.rate(now)

    def node_rate(self, node: NodeId, now: float) -> float:
        """Return how fast ``node`` pushes for all jobs together."""
        meter = self._nodes.get(node)
        return 0.0 if meter is None else meter.rate(now)

    def order_of(self, tag: Tag, storage: NodeId) -> tuple[NodeId, ...]:
        """Return who pushed for a job, in the order in which they began: it does not change while they overtake each
        other."""
        track = self._track((tag, storage))
        return () if track is None else tuple(track.pushed)

    def map_of(self, tag: Tag, storage: NodeId) -> ChunkMap | None:
        """Return the last map of a job, also when it has ended."""
        track = self._track((tag, storage))
        return None if track is None else track.map

    def events(self, *, tag: Tag | None = None, node: NodeId | None = None, limit: int = 50) -> tuple[Event, ...]:
        """Return the newest events of a file, of a node, or of all files; newest first."""
        word = None if tag is None else str(tag)
        of_jobs = [
            event for event in self._job_events if word in (None, event.tag) and (node is None or node == event.node)
        ]
        of_nodes: Iterable[Event] = () if node is None else (e for e in self._node_events if e.node == node)
        # Sorted by second only, and Python's sort keeps the order within one.
        found = sorted([*of_jobs, *of_nodes], key=lambda event: event.at)
        return tuple(reversed(found[-limit:]))

    # --- ours ---

    def _track(self, key: Key) -> _Track | None:
        return self._open.get(key) or self._ended.get(key)

    def _count(self, track: _Track, told: dict[NodeId, int], tag: Tag, now: float, wall: float) -> None:
        for node, count in told.items():
            if node not in track.pushed:
                self._note(track, wall, "pushes", tag, node)
            gained = count - track.pushed.get(node, 0)
            track.pushed[node] = count
            if gained <= 0:
                continue
            self.bytes_pushed += gained
            self._hour.add(now, gained)
            self._meter.add(now, gained)
            track.meter.add(now, gained)
            # Meters that begin together add up: the shares of a job are its rate.
            track.meters.setdefault(node, Meter(track.meter.started)).add(now, gained)
            self._node_meter(node, now).add(now, gained)

    def _node_meter(self, node: NodeId, now: float) -> Meter:
        meter = self._nodes.setdefault(node, Meter(self._meter.started))
        self._nodes.move_to_end(node)
        if len(self._nodes) > METERS_MAX:
            self._nodes.popitem(last=False)
        return meter

    def _note_change(self, track: _Track, update: JobUpdate, wall: float) -> None:
        if update.state in OPEN_STATES and update.safe != track.safe:
            self._note(track, wall, "safe" if update.safe else "unsafe", update.tag)
        if update.state is not track.state:
            word = "reopened" if update.state is JobState.OPEN else update.state.value
            self._note(track, wall, word, update.tag, reason=update.reason)
        track.state, track.safe = update.state, update.safe

    def _note(
        self, track: _Track, wall: float, what: str, tag: Tag, node: NodeId | None = None, reason: str = ""
    ) -> None:
        self._job_events.append(Event(at=int(wall), what=what, node=node, tag=str(tag), file=track.name, reason=reason))
