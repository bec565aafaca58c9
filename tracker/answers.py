"""What nodes ask the tracker, and what it answers: where is this, who is there, what files are there.

Each function takes a question and makes its answer from the index, bounded by protocol/limits.py. Nothing is sent from
here (access.py), and nothing is decided here that matchmaking.py decides.
"""

from __future__ import annotations

from collections.abc import Mapping

from protocol import messages as m
from protocol.ids import NodeId, Role
from protocol.limits import HOLDINGS_PER_FRAME_MAX, SENTENCE_BYTES_MAX
from tracker.index.base import Index, NodeView, TagView
from tracker.matchmaking import choose_holders, find_place
from tracker.membership import Member

# As many as NodesAnswer can carry.
NODES_PER_ANSWER = 128


def failure(request: int, code: str, reason: str) -> m.Failure:
    """Return a refusal, its reason cut to what a message can carry."""
    cut = reason.encode("utf-8", "replace")[:SENTENCE_BYTES_MAX].decode("utf-8", "ignore")
    return m.Failure(request=request, code=code, reason=cut)


async def answer_where(
    index: Index, asker: NodeId, where: m.Where, now: float, *, grace_seconds: float
) -> m.WhereAnswer | m.Failure:
    """Answer where a tag, or the newest file of a name, is stored or should be, and who holds some of it."""
    if (where.tag is None) == (where.name is None) or (where.to_put and where.tag is None):
        return failure(where.request, "invalid", "a tag or a name is asked for; what is to be put has a tag")
    tag = where.tag
    if tag is None:
        assert where.name is not None
        tag = await index.named(where.name, now)
        if tag is None:
            return failure(where.request, "not-found", f"nobody in the swarm has a file named {where.name!r:.100}")
    view = await index.tag(tag, now)
    jobs = await index.jobs_of(tag, now)
    if view is None and not jobs and not where.to_put:
        return failure(where.request, "not-found", f"nobody in the swarm has {tag}")
    holders = await index.holders(tag, now)
    size_bytes = view.size_bytes if view is not None else jobs[0].size_bytes if jobs else where.size_bytes
    names = view.names if view is not None else tuple(job.name for job in jobs)
    place = find_place(
        tag,
        size_bytes,
        to_put=where.to_put,
        jobs=jobs,
        holders=holders,
        storages=await index.nodes(now, role=Role.STORAGE),
        grace_seconds=grace_seconds,
    )
    return m.WhereAnswer(
        request=where.request,
        tag=tag,
        size_bytes=size_bytes,
        name=where.name or (names[0] if names else ""),
        state=place.state,
        storage=place.storage.address if place.storage is not None else None,
        holders=choose_holders(tag, asker, holders, seen=await index.node(asker, now)),
    )


async def answer_nodes(
    index: Index, question: m.ListNodes, revoked: Mapping[NodeId, Member], now: float
) -> m.NodesAnswer:
    """Answer who is in the swarm, and who was shut out, a page at a time."""
    after = question.after or ""
    records = {view.node: node_record(view) for view in await index.nodes(now) if view.node > after}
    records |= {node: revoked_record(member, now) for node, member in revoked.items() if node > after}
    return m.NodesAnswer(
        request=question.request, nodes=tuple(records[node] for node in sorted(records)[:NODES_PER_ANSWER])
    )


async def answer_tags(index: Index, question: m.ListTags, now: float) -> m.TagsAnswer:
    """Answer what files there are, a page at a time."""
    views = await index.tags(now, after=question.after, limit=HOLDINGS_PER_FRAME_MAX, stored_only=question.stored_only)
    return m.TagsAnswer(request=question.request, tags=tuple(tag_record(view) for view in views))


def node_record(view: NodeView) -> m.NodeRecord:
    """Return a node as the wire carries it."""
    return m.NodeRecord(
        node=view.node,
        role=view.role,
        name=view.name,
        addresses=view.addresses,
        state=view.standing.value,
        seen_seconds_ago=int(max(0.0, view.seen_seconds_ago)),
        tags=view.tags,
        room_bytes=view.room_bytes,
    )


def revoked_record(member: Member, now: float) -> m.NodeRecord:
    """Return a node that was shut out. Nothing else is known of it any more."""
    return m.NodeRecord(
        node=member.node,
        role=member.role,
        name=member.name,
        addresses=(),
        state="revoked",
        seen_seconds_ago=0,
        tags=0,
        room_bytes=0,
    )


def tag_record(view: TagView) -> m.TagRecord:
    """Return a tag as the wire carries it."""
    return m.TagRecord(
        tag=view.tag,
        size_bytes=view.size_bytes,
        names=view.names,
        since=view.since,
        state=view.state.value,
        holders=view.holders,
        storage=view.storage,
    )
