"""The index in this process's memory: the default, rebuilt from heartbeats after every start.

Holds exactly what base.py demands, in plain dictionaries; every method runs without an await in its middle, which is
what makes it atomic. Costs: a message is applied in time linear in its own length, a page of tags is found by bisection
(order.py), and the newest tags are known (newest.py).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from protocol.bitmap import Bitmap
from protocol.ids import NodeId, Role, Tag
from protocol.messages import Heartbeat, Holding, Inventory, JobUpdate
from tracker.index.base import (
    ENDED_JOBS_MAX,
    HOLDINGS_MAX,
    OPEN_STATES,
    Counts,
    Holder,
    Job,
    NodeView,
    Patience,
    Profile,
    Standing,
    TagState,
    TagView,
    chunks_of,
)
from tracker.index.newest import NewestTags
from tracker.index.order import SortedTags
from tracker.index.summary import newest_of, tag_view_of


@dataclass(slots=True)
class _Held:
    bitmap: Bitmap | None
    size_bytes: int
    names: tuple[str, ...]
    since: int


@dataclass(slots=True)
class _Node:
    profile: Profile
    arrived_at: float
    heard_at: float
    silent_seconds: float
    arrivals: int = 0
    linked: bool = True
    # Of the last inventory message that was applied; None: we know nothing, or not everything.
    picture: tuple[int, int] | None = None
    room_bytes: int = 0
    lend: bool = False
    paused: bool = False
    held: dict[Tag, _Held] = field(default_factory=dict)


@dataclass(slots=True)
class _Job:
    update: JobUpdate
    opened_at: float
    updated_at: float
    arrival: int  # which of its node's arrivals it was told after


class MemoryIndex:
    """See ``base.Index``."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._nodes: dict[NodeId, _Node] = {}
        self._holders: dict[Tag, set[NodeId]] = {}
        self._order = SortedTags()  # the keys of _holders
        self._newest = NewestTags(self._since)
        self._named: dict[str, dict[Tag, int]] = {}  # how many holders call a tag so
        self._jobs: dict[tuple[Tag, NodeId], _Job] = {}
        self._jobs_by_tag: dict[Tag, set[NodeId]] = {}
        self._ended: deque[tuple[NodeId, _Job]] = deque(maxlen=ENDED_JOBS_MAX)

    # --- what nodes say ---

    async def arrived(self, profile: Profile, now: float) -> None:
        """See ``base.Index``."""
        entry = self._known(profile, now)
        # Jobs that it did not tell after its last arrival ended then; this arrival gives them no second chance.
        self._drop_unconfirmed([key for key in self._jobs if key[1] == profile.node], now)
        entry.arrived_at = now
        entry.arrivals += 1

    async def left(self, node: NodeId, now: float) -> None:
        """See ``base.Index``."""
        entry = self._living(node, now)
        if entry is not None:
            entry.linked = False

    async def beat(
        self, profile: Profile, heartbeat: Heartbeat, now: float, *, interval_seconds: float | None = None
    ) -> bool:
        """See ``base.Index``."""
        entry = self._known(profile, now)
        entry.silent_seconds = self._patience.silent_after(interval_seconds)
        entry.room_bytes = heartbeat.room_bytes
        entry.lend = heartbeat.lend
        entry.paused = heartbeat.paused
        return entry.picture != (heartbeat.epoch, heartbeat.sequence)

    async def take(self, node: NodeId, inventory: Inventory, now: float) -> tuple[Tag, ...] | None:
        """See ``base.Index``."""
        # All of it is checked before any of it is applied.
        news = [(holding, chunks_of(holding)) for holding in inventory.held]
        entry = self._living(node, now)
        if entry is None:
            return None
        entry.heard_at = now
        if not inventory.full and entry.picture != (inventory.epoch, inventory.sequence - 1):
            entry.picture = None
            return None
        before: dict[Tag, _Held] = {}
        if inventory.full:
            before = dict(entry.held)
            for tag in before:
                self._drop(node, entry, tag)
        for tag in inventory.dropped:
            self._drop(node, entry, tag)
        gained = []
        for holding, bitmap in news:
            old = before.get(holding.tag) or entry.held.get(holding.tag)
            if self._hold(node, entry, holding, bitmap) and _has_more(bitmap, old):
                gained.append(holding.tag)
        entry.picture = (inventory.epoch, inventory.sequence)
        return tuple(gained)

    async def job(self, storage: NodeId, update: JobUpdate, now: float) -> bool:
        """See ``base.Index``."""
        entry = self._living(storage, now)
        if entry is None:
            return False
        entry.heard_at = now
        key = (update.tag, storage)
        known = self._jobs.get(key)
        if known is not None and not self._counts(known, entry, now):
            known = None
        job = _Job(update, known.opened_at if known else now, now, entry.arrivals)
        if update.state not in OPEN_STATES:
            self._end(key)
            self._ended.appendleft((storage, job))
            return False
        is_news = known is None or known.arrival != entry.arrivals
        self._jobs[key] = job
        self._jobs_by_tag.setdefault(update.tag, set()).add(storage)
        return is_news

    async def forget(self, node: NodeId) -> None:
        """See ``base.Index``."""
        self._remove(node)

    async def sweep(self, now: float) -> tuple[NodeId, ...]:
        """See ``base.Index``."""
        gone = tuple(sorted(node for node in self._nodes if self._living(node, now) is None))
        for node in gone:
            self._remove(node)
        self._drop_unconfirmed(list(self._jobs), now)
        return gone

    # --- what is asked ---

    async def node(self, node: NodeId, now: float) -> NodeView | None:
        """See ``base.Index``."""
        return self._view(node, now)

    async def nodes(self, now: float, *, role: Role | None = None) -> tuple[NodeView, ...]:
        """See ``base.Index``."""
        found = (node for node, entry in self._nodes.items() if role in (None, entry.profile.role))
        views = (self._view(node, now) for node in sorted(found))
        return tuple(view for view in views if view is not None)

    async def holders(self, tag: Tag, now: float) -> tuple[Holder, ...]:
        """See ``base.Index``."""
        return self._holders_of(tag, now)

    async def holder(self, tag: Tag, node: NodeId, now: float) -> Holder | None:
        """See ``base.Index``."""
        return self._holder(tag, node, now)

    async def held_by(self, node: NodeId, now: float, limit: int) -> tuple[tuple[Tag, Holder], ...]:
        """See ``base.Index``."""
        entry = self._living(node, now)
        if entry is None:
            return ()
        newest = heapq.nsmallest(limit, ((-held.since, tag) for tag, held in entry.held.items()))
        found = ((tag, self._holder(tag, node, now)) for _, tag in newest)
        return tuple((tag, holder) for tag, holder in found if holder is not None)

    async def named(self, name: str, now: float) -> Tag | None:
        """See ``base.Index``."""
        return newest_of(
            (tag, holder)
            for tag in self._named.get(name, ())
            for holder in self._holders_of(tag, now)
            if name in holder.names
        )

    async def tag(self, tag: Tag, now: float) -> TagView | None:
        """See ``base.Index``."""
        return self._tag_view(tag, now)

    async def tags(self, now: float, *, after: Tag | None, limit: int, stored_only: bool) -> tuple[TagView, ...]:
        """See ``base.Index``."""
        page: list[TagView] = []
        for tag in self._order.behind(after):
            if len(page) == limit:
                break
            view = self._tag_view(tag, now)
            if view is not None and (not stored_only or view.state is TagState.STORED):
                page.append(view)
        return tuple(page)

    async def newest_tags(self, now: float, limit: int) -> tuple[TagView, ...]:
        """See ``base.Index``."""
        views = (self._tag_view(tag, now) for tag in self._newest.first(limit, now, self._holders))
        return tuple(view for view in views if view is not None)

    async def jobs(self, now: float) -> tuple[Job, ...]:
        """See ``base.Index``."""
        return self._jobs_now(self._jobs, now)

    async def jobs_of(self, tag: Tag, now: float) -> tuple[Job, ...]:
        """See ``base.Index``."""
        return self._open_jobs_of(tag, now)

    async def open_tags_of(self, node: NodeId, now: float) -> tuple[Tag, ...]:
        """See ``base.Index``."""
        entry = self._living(node, now)
        if entry is None or not self._jobs_by_tag:
            return ()
        return tuple(
            tag for tag in sorted(entry.held.keys() & self._jobs_by_tag.keys()) if self._open_jobs_of(tag, now)
        )

    async def ended_jobs(self, now: float) -> tuple[Job, ...]:
        """See ``base.Index``."""
        return tuple(_job_view(storage, job, now) for storage, job in self._ended)

    async def counts(self, now: float) -> Counts:
        """See ``base.Index``."""
        living = [entry for node, entry in self._nodes.items() if self._living(node, now) is not None]
        if len(living) == len(self._nodes):
            tags = len(self._holders)
        else:
            tags = len({tag for entry in living for tag in entry.held})
        return Counts(nodes=len(living), tags=tags, holdings=sum(len(entry.held) for entry in living))

    # --- nodes ---

    def _known(self, profile: Profile, now: float) -> _Node:
        """Return the entry of a node that was just heard of; a new one when it was forgotten, swept or not."""
        entry = self._living(profile.node, now)
        if entry is None:
            self._remove(profile.node)
            entry = self._nodes[profile.node] = _Node(
                profile, arrived_at=now, heard_at=now, silent_seconds=self._patience.silent_seconds
            )
        entry.profile = profile
        entry.heard_at = now
        entry.linked = True
        return entry

    def _remove(self, node: NodeId) -> None:
        entry = self._nodes.get(node)
        if entry is None:
            return
        for tag in list(entry.held):
            self._drop(node, entry, tag)
        for key in [key for key in self._jobs if key[1] == node]:
            self._end(key)
        del self._nodes[node]

    def _living(self, node: NodeId, now: float) -> _Node | None:
        entry = self._nodes.get(node)
        if entry is None or now - entry.heard_at > self._patience.forgotten_seconds:
            return None
        return entry

    def _view(self, node: NodeId, now: float) -> NodeView | None:
        entry = self._living(node, now)
        if entry is None:
            return None
        seconds = now - entry.heard_at
        fresh = entry.linked and seconds <= entry.silent_seconds
        profile = entry.profile
        return NodeView(
            node=node,
            role=profile.role,
            name=profile.name,
            addresses=profile.addresses,
            standing=Standing.FRESH if fresh else Standing.SILENT,
            seen_seconds_ago=seconds,
            tags=len(entry.held),
            room_bytes=entry.room_bytes,
            lend=entry.lend,
            paused=entry.paused,
        )

    # --- holdings ---

    def _hold(self, node: NodeId, entry: _Node, holding: Holding, bitmap: Bitmap | None) -> bool:
        tag = holding.tag
        if tag in entry.held:
            self._unname(tag, entry.held[tag].names)
        elif len(entry.held) >= HOLDINGS_MAX.get(entry.profile.role, 0):
            return False
        if tag not in self._holders:
            self._holders[tag] = set()
            self._order.add(tag)
        self._holders[tag].add(node)
        names = tuple(dict.fromkeys(holding.names))
        entry.held[tag] = _Held(bitmap, holding.size_bytes, names, holding.since)
        self._newest.note(tag, holding.since)
        for name in names:
            calls = self._named.setdefault(name, {})
            calls[tag] = calls.get(tag, 0) + 1
        return True

    def _drop(self, node: NodeId, entry: _Node, tag: Tag) -> None:
        held = entry.held.pop(tag, None)
        if held is None:
            return
        self._unname(tag, held.names)
        self._holders[tag].discard(node)
        if not self._holders[tag]:
            del self._holders[tag]
            self._order.remove(tag)

    def _unname(self, tag: Tag, names: Iterable[str]) -> None:
        for name in names:
            calls = self._named[name]
            calls[tag] -= 1
            if not calls[tag]:
                del calls[tag]
            if not calls:
                del self._named[name]

    def _holder(self, tag: Tag, node: NodeId, now: float) -> Holder | None:
        view = self._view(node, now)
        if view is None:
            return None
        held = self._nodes[node].held.get(tag)
        if held is None:
            return None
        return Holder(node=view, bitmap=held.bitmap, size_bytes=held.size_bytes, names=held.names, since=held.since)

    def _holders_of(self, tag: Tag, now: float) -> tuple[Holder, ...]:
        found = (self._holder(tag, node, now) for node in sorted(self._holders.get(tag, ())))
        return tuple(holder for holder in found if holder is not None)

    def _since(self, tag: Tag, now: float) -> int | None:
        return max(
            (
                self._nodes[node].held[tag].since
                for node in self._holders.get(tag, ())
                if self._living(node, now) is not None
            ),
            default=None,
        )

    def _tag_view(self, tag: Tag, now: float) -> TagView | None:
        return tag_view_of(tag, self._holders_of(tag, now), self._open_jobs_of(tag, now))

    # --- jobs ---

    def _drop_unconfirmed(self, keys: Iterable[tuple[Tag, NodeId]], now: float) -> None:
        for key in keys:
            if not self._counts(self._jobs[key], self._nodes[key[1]], now):
                self._end(key)

    def _counts(self, job: _Job, entry: _Node, now: float) -> bool:
        """Whether a job is still believed: told since its node arrived, or the node may yet tell it."""
        return job.arrival == entry.arrivals or now - entry.arrived_at <= self._patience.silent_seconds

    def _open_jobs_of(self, tag: Tag, now: float) -> tuple[Job, ...]:
        return self._jobs_now(((tag, storage) for storage in self._jobs_by_tag.get(tag, ())), now)

    def _jobs_now(self, keys: Iterable[tuple[Tag, NodeId]], now: float) -> tuple[Job, ...]:
        found = []
        for key in keys:
            entry = self._living(key[1], now)
            if entry is not None and self._counts(self._jobs[key], entry, now):
                found.append((self._jobs[key].opened_at, key))
        return tuple(_job_view(key[1], self._jobs[key], now) for _, key in sorted(found))

    def _end(self, key: tuple[Tag, NodeId]) -> None:
        if self._jobs.pop(key, None) is not None:
            storages = self._jobs_by_tag[key[0]]
            storages.discard(key[1])
            if not storages:
                del self._jobs_by_tag[key[0]]


def _has_more(bitmap: Bitmap | None, old: _Held | None) -> bool:
    if old is None:
        return bitmap is None or bool(bitmap)
    if old.bitmap is None:
        return False
    return bitmap is None or bool(bitmap - old.bitmap)


def _job_view(storage: NodeId, job: _Job, now: float) -> Job:
    update = job.update
    return Job(
        tag=update.tag,
        storage=storage,
        size_bytes=update.size_bytes,
        name=update.name,
        state=update.state,
        reason=update.reason,
        chunks_stored=update.chunks_stored,
        safe=update.safe,
        uploaders=update.uploaders,
        pushed=update.pushed,
        opened_seconds_ago=now - job.opened_at,
        updated_seconds_ago=now - job.updated_at,
    )
