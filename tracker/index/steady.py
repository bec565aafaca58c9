"""An index that goes on when the one it shares is away, with what it heard itself, and says so.

Everything is told to both: the shared one, and one in this process's memory. Answers come from the shared one; while
that is away, from ours, which knows the nodes that are linked to this tracker and nothing of the others'. So a tracker
whose Redis has died is a tracker alone: its nodes go on, orders reach whoever is linked here, and the only thing that
is worse is that nodes of different trackers do not find each other until it is back.

When it comes back, empty perhaps, nodes tell their inventories again (their next beat finds that nobody knows them),
and open jobs are told to it from here: storage nodes would only tell those that move.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

import structlog

from protocol.errors import StorageUnavailable
from protocol.ids import NodeId, Role, Tag
from protocol.messages import Heartbeat, Inventory, JobUpdate
from tracker.index.base import Counts, Holder, Index, Job, NodeView, Profile, TagView

T = TypeVar("T")

log = structlog.get_logger()


class SharedIndex(Index, Protocol):
    """An index that others use as well."""

    async def agree_on_time(self, now: float) -> None:
        """See ``RedisIndex``."""
        ...


class SteadyIndex:
    """See ``base.Index``. Never raises ``StorageUnavailable``."""

    def __init__(self, shared: SharedIndex, own: Index) -> None:
        self.away: str | None = None  # why the shared one was not there when it was last needed; None: it was
        self._shared = shared
        self._own = own
        self._in_time = False  # whether the shared one and we agree on the time

    async def agree_on_time(self, now: float) -> None:
        """Look at the shared clock again, or for the first time since it was away; tell it of our open jobs then."""
        try:
            await self._shared.agree_on_time(now)
            if not self._in_time:
                for job in await self._own.jobs(now):
                    await self._shared.job(job.storage, _update_of(job), now)
        except StorageUnavailable as error:
            self._note(error)
            return
        self._in_time = True
        self._note(None)

    # --- what nodes say ---

    async def arrived(self, profile: Profile, now: float) -> None:
        """See ``base.Index``."""
        await self._own.arrived(profile, now)
        await self._both(self._shared.arrived(profile, now), None)

    async def left(self, node: NodeId, now: float) -> None:
        """See ``base.Index``."""
        await self._own.left(node, now)
        await self._both(self._shared.left(node, now), None)

    async def beat(
        self, profile: Profile, heartbeat: Heartbeat, now: float, *, interval_seconds: float | None = None
    ) -> bool:
        """See ``base.Index``."""
        wanted = await self._own.beat(profile, heartbeat, now, interval_seconds=interval_seconds)
        also = self._shared.beat(profile, heartbeat, now, interval_seconds=interval_seconds)
        return await self._both(also, False) or wanted

    async def take(self, node: NodeId, inventory: Inventory, now: float) -> tuple[Tag, ...] | None:
        """See ``base.Index``."""
        gained = await self._own.take(node, inventory, now)
        return await self._both(self._shared.take(node, inventory, now), gained)

    async def job(self, storage: NodeId, update: JobUpdate, now: float) -> bool:
        """See ``base.Index``."""
        is_news = await self._own.job(storage, update, now)
        return await self._both(self._shared.job(storage, update, now), is_news)

    async def forget(self, node: NodeId) -> None:
        """See ``base.Index``."""
        await self._own.forget(node)
        await self._both(self._shared.forget(node), None)

    async def sweep(self, now: float) -> tuple[NodeId, ...]:
        """See ``base.Index``."""
        gone = await self._own.sweep(now)
        return await self._both(self._shared.sweep(now), gone)

    # --- what is asked ---

    async def node(self, node: NodeId, now: float) -> NodeView | None:
        """See ``base.Index``."""
        return await self._either(self._shared.node(node, now), lambda: self._own.node(node, now))

    async def nodes(self, now: float, *, role: Role | None = None) -> tuple[NodeView, ...]:
        """See ``base.Index``."""
        return await self._either(self._shared.nodes(now, role=role), lambda: self._own.nodes(now, role=role))

    async def holders(self, tag: Tag, now: float) -> tuple[Holder, ...]:
        """See ``base.Index``."""
        return await self._either(self._shared.holders(tag, now), lambda: self._own.holders(tag, now))

    async def holder(self, tag: Tag, node: NodeId, now: float) -> Holder | None:
        """See ``base.Index``."""
        return await self._either(self._shared.holder(tag, node, now), lambda: self._own.holder(tag, node, now))

    async def held_by(self, node: NodeId, now: float, limit: int) -> tuple[tuple[Tag, Holder], ...]:
        """See ``base.Index``."""
        return await self._either(self._shared.held_by(node, now, limit), lambda: self._own.held_by(node, now, limit))

    async def named(self, name: str, now: float) -> Tag | None:
        """See ``base.Index``."""
        return await self._either(self._shared.named(name, now), lambda: self._own.named(name, now))

    async def tag(self, tag: Tag, now: float) -> TagView | None:
        """See ``base.Index``."""
        return await self._either(self._shared.tag(tag, now), lambda: self._own.tag(tag, now))

    async def tags(self, now: float, *, after: Tag | None, limit: int, stored_only: bool) -> tuple[TagView, ...]:
        """See ``base.Index``."""
        return await self._either(
            self._shared.tags(now, after=after, limit=limit, stored_only=stored_only),
            lambda: self._own.tags(now, after=after, limit=limit, stored_only=stored_only),
        )

    async def newest_tags(self, now: float, limit: int) -> tuple[TagView, ...]:
        """See ``base.Index``."""
        return await self._either(self._shared.newest_tags(now, limit), lambda: self._own.newest_tags(now, limit))

    async def jobs(self, now: float) -> tuple[Job, ...]:
        """See ``base.Index``."""
        return await self._either(self._shared.jobs(now), lambda: self._own.jobs(now))

    async def jobs_of(self, tag: Tag, now: float) -> tuple[Job, ...]:
        """See ``base.Index``."""
        return await self._either(self._shared.jobs_of(tag, now), lambda: self._own.jobs_of(tag, now))

    async def open_tags_of(self, node: NodeId, now: float) -> tuple[Tag, ...]:
        """See ``base.Index``."""
        return await self._either(self._shared.open_tags_of(node, now), lambda: self._own.open_tags_of(node, now))

    async def ended_jobs(self, now: float) -> tuple[Job, ...]:
        """See ``base.Index``."""
        return await self._either(self._shared.ended_jobs(now), lambda: self._own.ended_jobs(now))

    async def counts(self, now: float) -> Counts:
        """See ``base.Index``."""
        return await self._either(self._shared.counts(now), lambda: self._own.counts(now))

    # --- which of both ---

    async def _both(self, work: Coroutine[Any, Any, T], otherwise: T) -> T:
        """Return what came of it in the shared index; ``otherwise`` when that is away."""
        if not self._in_time:
            work.close()
            return otherwise
        try:
            return await work
        except StorageUnavailable as error:
            self._note(error)
            return otherwise

    async def _either(self, question: Coroutine[Any, Any, T], ours: Callable[[], Awaitable[T]]) -> T:
        if not self._in_time:
            question.close()
            return await ours()
        try:
            return await question
        except StorageUnavailable as error:
            self._note(error)
            return await ours()

    def _note(self, error: StorageUnavailable | None) -> None:
        if error is not None:
            if self.away is None:
                log.warning("shared index is away; going on alone", reason=str(error))
            self.away = str(error)
            self._in_time = False
        elif self.away is not None:
            log.info("shared index is back")
            self.away = None


def _update_of(job: Job) -> JobUpdate:
    return JobUpdate(
        tag=job.tag,
        size_bytes=job.size_bytes,
        name=job.name,
        state=job.state,
        reason=job.reason,
        chunks_stored=job.chunks_stored,
        safe=job.safe,
        uploaders=job.uploaders,
        pushed=job.pushed,
    )
