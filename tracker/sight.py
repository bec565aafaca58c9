"""What people and their programs may see of the tracker, taken from index and journal: see statistics.py.

Reads and never changes anything; every list is bounded. What many look at is taken once a second for all of them
(``overview``). How what the index says becomes what is shown, showing.py knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import trio

from protocol.ids import NodeId, Role, Tag
from protocol.invite import Link as FileLink
from runtime.link import Link
from runtime.seam import Clock
from tracker import statistics as s
from tracker.access import Access
from tracker.flow import BIN_SECONDS
from tracker.index.base import Index, Job, NodeView
from tracker.journal import EVENT_WORDS, Event, Journal
from tracker.showing import (
    Names,
    codes_of,
    copies_of,
    count_nodes,
    held_of,
    job_of,
    map_of,
    node_of,
    shown_holders,
    tag_of,
)

# A snapshot that many ask for is not made for each of them.
OVERVIEW_SECONDS = 1.0
# Below this a time left would be a guess of days that is wrong in a moment.
RATE_MIN = 1024


class Sight:
    """See the module. ``about`` and ``traffic`` say what only the tracker itself knows."""

    def __init__(
        self,
        clock: Clock,
        index: Index,
        access: Access,
        about: Callable[[], s.About],
        traffic: Callable[[], s.Traffic],
    ) -> None:
        self._clock = clock
        self._index = index
        self._access = access
        self._about = about
        self._traffic = traffic
        self._started_at = clock.monotonic()
        self._turn = trio.Lock()
        self._newest: tuple[float, s.TrackerStatistics] | None = None

    @property
    def _journal(self) -> Journal:
        return self._access.journal

    async def overview(self) -> s.TrackerStatistics:
        """Return all at a glance; a second old at most."""
        async with self._turn:
            now = self._clock.monotonic()
            if self._newest is None or now - self._newest[0] > OVERVIEW_SECONDS:
                self._newest = (now, await self._take_overview(now))
            return self._newest[1]

    def history(self) -> s.History:
        """Return the throughput of the last hour."""
        return s.History(step_seconds=int(BIN_SECONDS), points=self._journal.history(self._clock.monotonic()))

    async def jobs(self) -> s.JobList:
        """Return open uploads and those that ended lately."""
        now = self._clock.monotonic()
        names = await self._names(now)
        found = await self._index.jobs(now)
        ended = await self._index.ended_jobs(now)
        return s.JobList(
            count=len(found),
            jobs=tuple([await self._job(job, names, now) for job in found[: s.PAGE_ROWS]]),
            ended=tuple([await self._job(job, names, now) for job in ended]),
        )

    async def job(self, tag: Tag) -> s.JobDetail | None:
        """Return the open upload of ``tag``, or else the last one that ended; None when there is neither."""
        now = self._clock.monotonic()
        job = await self._find_job(tag, now)
        if job is None:
            return None
        names = await self._names(now)
        holders = await self._index.holders(tag, now)
        return s.JobDetail(
            job=await self._job(job, names, now),
            holders=shown_holders(tag, holders),
            holder_count=len(holders),
            events=self._events(self._journal.events(tag=tag, limit=s.EVENTS_SHOWN_MAX), names),
        )

    async def job_map(self, tag: Tag) -> s.MapStatistics | None:
        """Return the chunks of the upload that ``job`` returns."""
        now = self._clock.monotonic()
        job = await self._find_job(tag, now)
        if job is None:
            return None
        shown = self._journal.map_of(tag, job.storage)
        if shown is not None:
            return map_of(job, shown.codes, shown.senders, detailed=True)
        held = await self._index.holder(tag, job.storage, now)
        return map_of(job, codes_of(tag, held), (), detailed=False)

    async def nodes(self, after: NodeId | None = None) -> s.NodeList:
        """Return a page of nodes."""
        views = await self._index.nodes(self._clock.monotonic())
        rest = [view for view in views if after is None or view.node > after]
        page = rest[: s.PAGE_ROWS]
        return s.NodeList(
            count=len(views),
            nodes=tuple(self._node(view) for view in page),
            after=page[-1].node if len(rest) > len(page) else None,
        )

    async def node(self, node: NodeId) -> s.NodeDetail | None:
        """Return all about a node; None when it is not there."""
        now = self._clock.monotonic()
        view = await self._index.node(node, now)
        if view is None:
            return None
        names = await self._names(now)
        jobs = await self._index.jobs(now)
        ours = [job for job in jobs if node == job.storage or node in job.uploaders][: s.JOBS_SHOWN_MAX]
        open_jobs = {(job.tag, job.storage): job for job in jobs}
        link = self._link(node)
        return s.NodeDetail(
            node=self._node(view),
            remote=link.remote if link is not None else "",
            round_trip_seconds=link.round_trip_seconds if link is not None else None,
            orders=tuple(
                self._order(open_jobs[key], node, names, now)
                for key in self._access.orders_of(node)[: s.JOBS_SHOWN_MAX]
                if key in open_jobs
            ),
            jobs=tuple([await self._job(job, names, now) for job in ours]),
            held=tuple(held_of(tag, holder) for tag, holder in await self._index.held_by(node, now, s.HELD_SHOWN_MAX)),
            events=self._events(self._journal.events(node=node, limit=s.EVENTS_SHOWN_MAX), names),
        )

    async def files(self, after: Tag | None = None, *, stored_only: bool = False) -> s.FileList:
        """Return a page of files."""
        now = self._clock.monotonic()
        names = await self._names(now)
        views = await self._index.tags(now, after=after, limit=s.PAGE_ROWS + 1, stored_only=stored_only)
        page = views[: s.PAGE_ROWS]
        return s.FileList(
            count=(await self._index.counts(now)).tags,
            files=tuple([tag_of(view, await self._index.holders(view.tag, now), names) for view in page]),
            after=str(page[-1].tag) if len(views) > len(page) else None,
        )

    async def file(self, tag: Tag) -> s.FileDetail | None:
        """Return all about a file; None when nobody holds any of it."""
        now = self._clock.monotonic()
        view = await self._index.tag(tag, now)
        if view is None:
            return None
        names = await self._names(now)
        holders = await self._index.holders(tag, now)
        job = await self._find_job(tag, now)
        return s.FileDetail(
            file=tag_of(view, holders, names),
            link=str(FileLink(tag=tag, name=view.names[0] if view.names else "", size_bytes=view.size_bytes)),
            copies=copies_of(tag, holders),
            job=await self._job(job, names, now) if job is not None else None,
            events=self._events(self._journal.events(tag=tag, limit=s.EVENTS_SHOWN_MAX), names),
        )

    async def answers(self) -> bool:
        """Return True once the index has answered."""
        await self._index.counts(self._clock.monotonic())
        return True

    # --- ours ---

    async def _take_overview(self, now: float) -> s.TrackerStatistics:
        views = await self._index.nodes(now)
        counts = await self._index.counts(now)
        names = {view.node: view.name for view in views}
        jobs = await self._index.jobs(now)
        ended = await self._index.ended_jobs(now)
        tags = await self._index.newest_tags(now, s.TAGS_SHOWN_MAX)
        # Those that are there come first when the list is cut.
        shown = sorted(views, key=lambda view: (not view.fresh, view.role != Role.STORAGE, view.name, view.node))
        storages = [view for view in shown if view.role is Role.STORAGE]
        return s.TrackerStatistics(
            about=self._about(),
            uptime_seconds=now - self._started_at,
            taken_at=int(self._clock.wall()),
            traffic=self._traffic(),
            node_count=counts.nodes,
            nodes_by_state=count_nodes(views),
            tag_count=counts.tags,
            holding_count=counts.holdings,
            job_count=len(jobs),
            bytes_per_second=round(self._journal.rate(now)),
            bytes_pushed=self._journal.bytes_pushed,
            room_bytes=sum(view.room_bytes for view in storages if view.fresh),
            storages=tuple(self._node(view) for view in storages[: s.NODES_SHOWN_MAX]),
            nodes=tuple(self._node(view) for view in shown[: s.NODES_SHOWN_MAX]),
            tags=tuple([tag_of(view, await self._index.holders(view.tag, now), names) for view in tags]),
            jobs=tuple([await self._job(job, names, now) for job in jobs[: s.JOBS_SHOWN_MAX]]),
            ended_jobs=tuple([await self._job(job, names, now) for job in ended[: s.ENDED_SHOWN_MAX]]),
        )

    async def _names(self, now: float) -> Names:
        return {view.node: view.name for view in await self._index.nodes(now)}

    async def _find_job(self, tag: Tag, now: float) -> Job | None:
        jobs = await self._index.jobs_of(tag, now)
        if jobs:
            return jobs[0]
        return next((job for job in await self._index.ended_jobs(now) if job.tag == tag), None)

    async def _job(self, job: Job, names: Names, now: float) -> s.JobStatistics:
        holders = await self._index.holders(job.tag, now)
        shown = job_of(job, names, self._journal.order_of(job.tag, job.storage))
        rate = self._journal.job_rate(job.tag, job.storage, now) if job.is_open else 0.0
        left = shown.size_bytes - shown.bytes_stored
        return replace(
            shown,
            copies=copies_of(job.tag, holders, without=job.uploaders),
            bytes_per_second=round(rate),
            seconds_left=round(left / rate, 1) if rate >= RATE_MIN and left else None,
            pushed=tuple(
                replace(
                    one,
                    bytes_per_second=round(self._journal.share_rate(job.tag, job.storage, NodeId(one.node), now))
                    if job.is_open
                    else 0,
                )
                for one in shown.pushed
            ),
        )

    def _link(self, node: NodeId) -> Link | None:
        return next(iter(self._access.links_of(node)), None)

    def _node(self, view: NodeView) -> s.NodeStatistics:
        link = self._link(view.node)
        rate = self._journal.node_rate(view.node, self._clock.monotonic())
        return node_of(view, link.hello.agent if link is not None else "", rate)

    def _order(self, job: Job, node: NodeId, names: Names, now: float) -> s.OrderStatistics:
        return s.OrderStatistics(
            tag=str(job.tag),
            name=job.name,
            storage=job.storage,
            storage_name=names.get(job.storage, ""),
            bytes_pushed=sum(one.bytes_pushed for one in job.pushed if one.node == node),
            bytes_per_second=round(self._journal.share_rate(job.tag, job.storage, node, now)),
        )

    @staticmethod
    def _events(events: Iterable[Event], names: Names) -> tuple[s.EventStatistics, ...]:
        return tuple(
            s.EventStatistics(
                at=event.at,
                what=event.what,
                words=EVENT_WORDS[event.what],
                node=event.node,
                name=names.get(event.node, "") if event.node is not None else "",
                tag=event.tag,
                file=event.file,
                reason=event.reason,
            )
            for event in events
        )
