"""From what the index says to what is shown: copies, counts, lists cut to a bound. Pure; see statistics.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from protocol.bitmap import Bitmap
from protocol.ids import NodeId, Role, Tag
from protocol.jobmap import ChunkState, code_of, runs_of, sender_of, state_of
from protocol.manifest import Layout
from tracker import statistics as s
from tracker.index.base import Holder, Job, NodeView, TagView

STATE_WORDS = {ChunkState.MISSING: "missing", ChunkState.ON_ITS_WAY: "coming", ChunkState.STORED: "stored"}

Names = Mapping[NodeId, str]


def copies_of(tag: Tag, holders: Iterable[Holder], without: Sequence[NodeId] = ()) -> float:
    """Return how many whole copies the holders that are there have together, and of which part one more."""
    whole = 0
    levels: list[Bitmap] = []  # chunks that at least 1, 2, 3, ... partial holders have
    for holder in holders:
        if not holder.node.fresh or holder.node.node in without:
            continue
        if holder.bitmap is None:
            whole += 1
            continue
        carried = holder.bitmap
        for place, level in enumerate(levels):
            levels[place], carried = level | carried, level & carried
        if carried:
            levels.append(carried)
    for level in levels:
        if not level.complete:
            return round(whole + len(level) / tag.chunks, 2)
        whole += 1
    return float(whole)


def count_nodes(views: Sequence[NodeView]) -> s.NodeCounts:
    """Return how many there are of each kind."""
    states = [state_of_node(view) for view in views]
    return s.NodeCounts(
        fresh=states.count("fresh"),
        paused=states.count("paused"),
        silent=states.count("silent"),
        peers=sum(view.role is Role.PEER for view in views),
        storages=sum(view.role is Role.STORAGE for view in views),
    )


def node_of(view: NodeView, version: str, rate: float) -> s.NodeStatistics:
    """Return what is shown of a node."""
    return s.NodeStatistics(
        node=view.node,
        role=view.role.value,
        name=view.name,
        addresses=view.addresses,
        state=state_of_node(view),
        seen_seconds_ago=round(max(0.0, view.seen_seconds_ago), 1),
        tags=view.tags,
        room_bytes=view.room_bytes,
        lend=view.lend,
        paused=view.paused,
        version=version,
        bytes_per_second=round(rate),
    )


def tag_of(view: TagView, holders: Sequence[Holder], names: Names) -> s.TagStatistics:
    """Return what is shown of a file."""
    return s.TagStatistics(
        tag=str(view.tag),
        names=view.names,
        size_bytes=view.size_bytes,
        chunks=view.tag.chunks,
        since=view.since,
        state=view.state.value,
        storage=view.storage,
        storage_name=names.get(view.storage, "") if view.storage is not None else "",
        holders_complete=view.holders,
        holders_partial=len(holders) - view.holders,
        holders=shown_holders(view.tag, holders),
    )


def job_of(job: Job, names: Names, order: Sequence[NodeId]) -> s.JobStatistics:
    """Return what is shown of an upload, but for what flows now. ``order``: who began to push when."""
    layout = Layout.of_size(job.size_bytes)
    places = {node: place for place, node in enumerate(order)}
    for one in job.pushed:
        places.setdefault(one.node, len(places))
    open_seconds = max(0.0, job.opened_seconds_ago - (0.0 if job.is_open else job.updated_seconds_ago))
    return s.JobStatistics(
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
        copies=0.0,
        uploaders=job.uploaders,
        open_seconds=round(open_seconds, 1),
        updated_seconds_ago=round(max(0.0, job.updated_seconds_ago), 1),
        bytes_per_second=0,
        average_bytes_per_second=round(sum(one.bytes_pushed for one in job.pushed) / max(open_seconds, 1.0)),
        seconds_left=None,
        pushed=tuple(
            s.PushedStatistics(
                node=one.node,
                name=names.get(one.node, ""),
                place=places[one.node],
                bytes_pushed=one.bytes_pushed,
                bytes_per_second=0,
                is_uploader=one.node in job.uploaders,
            )
            for one in sorted(job.pushed, key=lambda one: places[one.node])
        ),
    )


def codes_of(tag: Tag, holder: Holder | None) -> list[int]:
    """Return a map of what a storage node says it holds, when it shows none."""
    stored = code_of(ChunkState.STORED)
    if holder is None:
        return [0] * tag.chunks
    return [stored if holder.bitmap is None or chunk in holder.bitmap else 0 for chunk in range(tag.chunks)]


def map_of(job: Job, codes: Sequence[int], senders: Sequence[NodeId], *, detailed: bool) -> s.MapStatistics:
    """Return a chunk map as it is shown."""
    counts = dict.fromkeys(ChunkState, 0)
    runs = []
    for count, code in runs_of(codes):
        counts[state_of(code)] += count
        sender = sender_of(code)
        runs.append(
            s.RunStatistics(
                chunks=count, state=STATE_WORDS[state_of(code)], node=senders[sender - 1] if sender else None
            )
        )
    return s.MapStatistics(
        tag=str(job.tag),
        size_bytes=job.size_bytes,
        chunk_bytes=Layout.of_size(job.size_bytes).chunk_bytes,
        chunks=job.tag.chunks,
        detailed=detailed,
        stored=counts[ChunkState.STORED],
        coming=counts[ChunkState.ON_ITS_WAY],
        missing=counts[ChunkState.MISSING],
        runs=tuple(runs),
    )


def state_of_node(view: NodeView) -> str:
    """Return fresh, paused or silent."""
    return "paused" if view.paused and view.fresh else view.standing.value


def held_of(tag: Tag, holder: Holder) -> s.HeldStatistics:
    """Return what is shown of what one node holds of a file."""
    return s.HeldStatistics(
        tag=str(tag),
        name=holder.names[0] if holder.names else "",
        size_bytes=holder.size_bytes,
        chunks=tag.chunks,
        chunks_held=_chunks(tag, holder),
        since=holder.since,
    )


def _chunks(tag: Tag, holder: Holder) -> int:
    return tag.chunks if holder.bitmap is None else len(holder.bitmap)


def shown_holders(tag: Tag, holders: Sequence[Holder]) -> tuple[s.HolderStatistics, ...]:
    """Return some holders of a file, those who are there and have most first."""
    shown = sorted(holders, key=lambda holder: (not holder.node.fresh, -_chunks(tag, holder), holder.node.node))
    return tuple(
        s.HolderStatistics(
            node=holder.node.node,
            name=holder.node.name,
            role=holder.node.role.value,
            chunks=_chunks(tag, holder),
            fresh=holder.node.fresh,
        )
        for holder in shown[: s.HOLDERS_SHOWN_MAX]
    )
