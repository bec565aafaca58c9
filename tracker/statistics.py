"""What the tracker shows of itself: frozen snapshots that the page, the control socket and tests read.

Taken from the index in one go and bounded, so that looking cannot disturb the swarm; only plain values, so that they
are JSON as they are. Nothing decides by them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from protocol.ids import NodeId
from protocol.manifest import Layout
from runtime.seam import Clock
from tracker.index.base import Holder, Index, Job, NodeView, TagView

NODES_SHOWN_MAX = 500
TAGS_SHOWN_MAX = 200
JOBS_SHOWN_MAX = 100
HOLDERS_SHOWN_MAX = 16
# A page that is reloaded by many is not made for each of them.
SNAPSHOT_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatistics:
    """A node. ``name`` is what it calls itself: text of a stranger's."""

    node: str
    role: str
    name: str
    addresses: tuple[str, ...]
    state: str
    seen_seconds_ago: float
    tags: int
    room_bytes: int
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderStatistics:
    """How many chunks of a tag a node holds."""

    node: str
    name: str
    role: str
    chunks: int
    fresh: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TagStatistics:
    """A tag and some of its holders. ``holders_complete`` and ``holders_partial`` count all of them."""

    tag: str
    names: tuple[str, ...]
    size_bytes: int
    chunks: int
    since: int
    state: str
    storage: str | None
    holders_complete: int
    holders_partial: int
    holders: tuple[HolderStatistics, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedStatistics:
    """What one node contributed to a job, in verified bytes."""

    node: str
    name: str
    bytes_pushed: int
    is_uploader: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatistics:
    """An upload. ``bytes_per_second`` is the average since it opened."""

    tag: str
    name: str
    size_bytes: int
    chunks: int
    state: str
    reason: str
    storage: str
    storage_name: str
    chunks_stored: int
    bytes_stored: int
    safe: bool
    open_seconds: float
    updated_seconds_ago: float
    bytes_per_second: float
    pushed: tuple[PushedStatistics, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What does not change while a tracker runs."""

    swarm: str
    node: str
    name: str
    version: str
    listen: str
    http: str | None
    addresses: tuple[str, ...]
    heartbeat_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Counts since the start."""

    links: int
    heartbeats: int
    inventories: int
    questions: int
    orders: int
    joined: int
    joins_refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerStatistics:
    """All of it. The counts are of everything; the lists may be cut (``*_SHOWN_MAX``)."""

    about: About
    uptime_seconds: float
    taken_at: int  # wall clock
    traffic: Traffic
    node_count: int
    tag_count: int
    holding_count: int
    job_count: int
    nodes: tuple[NodeStatistics, ...]
    tags: tuple[TagStatistics, ...]
    jobs: tuple[JobStatistics, ...]
    ended_jobs: tuple[JobStatistics, ...]


async def take_statistics(
    index: Index, about: About, traffic: Traffic, *, started_at: float, now: float, wall: float
) -> TrackerStatistics:
    """Return a snapshot. ``started_at`` and ``now`` are of the monotonic clock, ``wall`` of the other."""
    views = await index.nodes(now)
    counts = await index.counts(now)
    names = {view.node: view.name for view in views}
    jobs = await index.jobs(now)
    tags = []
    for view in await index.newest_tags(now, TAGS_SHOWN_MAX):
        tags.append(_tag(view, await index.holders(view.tag, now)))
    # Those that are there come first when the list is cut.
    shown = sorted(views, key=lambda view: (not view.fresh, view.role != "storage", view.name, view.node))
    return TrackerStatistics(
        about=about,
        uptime_seconds=now - started_at,
        taken_at=int(wall),
        traffic=traffic,
        node_count=counts.nodes,
        tag_count=counts.tags,
        holding_count=counts.holdings,
        job_count=len(jobs),
        nodes=tuple(_node(view) for view in shown[:NODES_SHOWN_MAX]),
        tags=tuple(tags),
        jobs=tuple(_job(job, names) for job in jobs[:JOBS_SHOWN_MAX]),
        ended_jobs=tuple(_job(job, names) for job in await index.ended_jobs(now)),
    )


class Snapshots:
    """Hands out the newest snapshot; takes another one when it is older than SNAPSHOT_SECONDS."""

    def __init__(self, clock: Clock, take: Callable[[], Awaitable[TrackerStatistics]]) -> None:
        self._clock = clock
        self._take = take
        self._turn = trio.Lock()
        self._newest: tuple[float, TrackerStatistics] | None = None

    async def newest(self) -> TrackerStatistics:
        """Return it."""
        async with self._turn:
            now = self._clock.monotonic()
            if self._newest is None or now - self._newest[0] > SNAPSHOT_SECONDS:
                self._newest = (now, await self._take())
            return self._newest[1]


def _node(view: NodeView) -> NodeStatistics:
    return NodeStatistics(
        node=view.node,
        role=view.role.value,
        name=view.name,
        addresses=view.addresses,
        state="paused" if view.paused and view.fresh else view.standing.value,
        seen_seconds_ago=round(max(0.0, view.seen_seconds_ago), 1),
        tags=view.tags,
        room_bytes=view.room_bytes,
        paused=view.paused,
    )


def _tag(view: TagView, holders: tuple[Holder, ...]) -> TagStatistics:
    def chunks(holder: Holder) -> int:
        return view.tag.chunks if holder.bitmap is None else len(holder.bitmap)

    shown = sorted(holders, key=lambda holder: (not holder.node.fresh, -chunks(holder), holder.node.node))
    return TagStatistics(
        tag=str(view.tag),
        names=view.names,
        size_bytes=view.size_bytes,
        chunks=view.tag.chunks,
        since=view.since,
        state=view.state.value,
        storage=view.storage,
        holders_complete=view.holders,
        holders_partial=len(holders) - view.holders,
        holders=tuple(
            HolderStatistics(
                node=holder.node.node,
                name=holder.node.name,
                role=holder.node.role.value,
                chunks=chunks(holder),
                fresh=holder.node.fresh,
            )
            for holder in shown[:HOLDERS_SHOWN_MAX]
        ),
    )


def _job(job: Job, names: dict[NodeId, str]) -> JobStatistics:
    layout = Layout.of_size(job.size_bytes)
    pushed = sorted(job.pushed, key=lambda one: (-one.bytes_pushed, one.node))
    open_seconds = max(0.0, job.opened_seconds_ago - (0.0 if job.is_open else job.updated_seconds_ago))
    return JobStatistics(
        tag=str(job.tag),
        name=job.name,
        size_bytes=job.size_bytes,
        chunks=job.tag.chunks,
        state=job.state.value,
        reason=job.reason,
        storage=job.storage,
        storage_name=names.get(job.storage, ""),
        chunks_stored=min(job.chunks_stored, job.tag.chunks),
        bytes_stored=min(job.chunks_stored * layout.chunk_bytes, job.size_bytes),
        safe=job.safe,
        open_seconds=round(open_seconds, 1),
        updated_seconds_ago=round(max(0.0, job.updated_seconds_ago), 1),
        bytes_per_second=round(sum(one.bytes_pushed for one in pushed) / open_seconds) if open_seconds >= 1 else 0,
        pushed=tuple(
            PushedStatistics(
                node=one.node,
                name=names.get(one.node, ""),
                bytes_pushed=one.bytes_pushed,
                is_uploader=one.node in job.uploaders,
            )
            for one in pushed
        ),
    )
