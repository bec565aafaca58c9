"""What the sayings about one tag add up to: its names, its size, its state. Pure, and the same for every index.

Claims are ranked: what a storage node holds completely was verified by it, so its word on size and name comes before a
peer's; among equals the newest ``since`` wins ("last put wins"), then the node id, so that nothing depends on order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from protocol.ids import NodeId, Role, Tag
from protocol.limits import NAMES_PER_TAG_MAX
from tracker.index.base import Holder, Job, TagState, TagView


def rank_of(holder: Holder) -> tuple[bool, int, NodeId]:
    """Return how much a holder's word counts; the highest counts most."""
    return (is_kept(holder), holder.since, holder.node.node)


def is_kept(holder: Holder) -> bool:
    """Whether this is a storage node that has all of it."""
    return holder.complete and holder.node.role is Role.STORAGE


def newest_of(claims: Iterable[tuple[Tag, Holder]]) -> Tag | None:
    """Return the tag that a name stands for, of all that claim it; see ``Index.named``."""
    best = max(claims, key=lambda claim: (is_kept(claim[1]), claim[1].since, claim[0]), default=None)
    return None if best is None else best[0]


def tag_view_of(tag: Tag, holders: Sequence[Holder], jobs: Sequence[Job]) -> TagView | None:
    """Return the sum of what is said of ``tag``; ``jobs`` are its open ones. None when nobody holds it."""
    if not holders:
        return None
    ranked = sorted(holders, key=rank_of, reverse=True)
    names = list(dict.fromkeys(name for holder in ranked for name in holder.names))
    state, storage = _state_of(ranked, jobs)
    return TagView(
        tag=tag,
        size_bytes=ranked[0].size_bytes,
        names=tuple(names[:NAMES_PER_TAG_MAX]),
        since=max(holder.since for holder in ranked),
        state=state,
        holders=sum(holder.complete for holder in ranked),
        storage=storage,
    )


def keepers_of(holders: Iterable[Holder], jobs: Iterable[Job]) -> list[Holder]:
    """Return the storage nodes that have stored the tag: all of it, and not in the middle of a job for it."""
    busy = {job.storage for job in jobs}
    return [holder for holder in holders if is_kept(holder) and holder.node.node not in busy]


def _state_of(ranked: Sequence[Holder], jobs: Sequence[Job]) -> tuple[TagState, NodeId | None]:
    keepers = keepers_of(ranked, jobs)
    if keepers:
        # A fresh one first: it is the one that people can get it from.
        keepers.sort(key=lambda holder: holder.node.fresh, reverse=True)
        return TagState.STORED, keepers[0].node.node
    if jobs:
        return TagState.OPEN, jobs[0].storage
    return TagState.SHARED, None
