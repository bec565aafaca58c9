"""Who hears how a job goes: its uploaders and helpers, and the tracker. Seldom enough to cost nothing.

``Stored`` goes out once a group of chunks is durable, and not before. Progress is told at most four times a second to
the links of a job and twice to the tracker; a change of state at once. Chunk maps are for people who look on: a few a
second in all, and none while the tracker's link is busy. Nothing here waits for anybody: a link that does not read is
ended by runtime/link.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from protocol import messages as m
from protocol.ids import NodeId, Tag
from protocol.limits import CHUNKS_PER_HAVE_MAX, PUSHED_NODES_MAX, SENTENCE_BYTES_MAX
from storage.jobs import Job
from storage.shelf import LiveJob, Shelf

LINKS_SECONDS_MIN = 0.25
# A job that waits for its commit, or for room, moves nothing for a long time; an uploader that hears nothing for half a
# minute proposes again (daemon/desk.py).
QUIET_SECONDS_MAX = 10.0
TRACKER_ROUNDS = 2  # every second round is one for the tracker as well: twice a second
MAPS_SECONDS_MIN = 1.0
# Each may be 32 KiB and takes about a millisecond to make; with more open jobs than that each has its turn.
MAPS_PER_ROUND_MAX = 8


def sentence(text: str) -> str:
    """Return ``text`` cut to what a reason on the wire may be long."""
    return text.encode("utf-8")[:SENTENCE_BYTES_MAX].decode("utf-8", "ignore")


class Reporter:
    """``tell_tracker`` posts to the tracker's link when there is one; who is not connected misses nothing, because all
    open jobs are announced again on connecting (``announce_all``). ``show_tracker`` sends a map, or returns False when
    the tracker does not care for maps or has no time for them now."""

    def __init__(
        self,
        shelf: Shelf,
        tell_tracker: Callable[[m.JobUpdate], None],
        show_tracker: Callable[[m.JobMap], bool] = lambda _: False,
    ) -> None:
        self._shelf = shelf
        self._tell_tracker = tell_tracker
        self._show_tracker = show_tracker
        self._shown: dict[Tag, m.JobMap] = {}  # the last map of each live job, the longest ago first
        self._for_links: dict[LiveJob, None] = {}
        self._for_tracker: dict[LiveJob, None] = {}
        self._wake = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell what moved, until cancelled."""
        async with trio.open_nursery() as telling:
            telling.start_soon(self._tell_moves, name="progress")
            telling.start_soon(self._tell_quiet, name="quiet jobs")
            telling.start_soon(self._show_maps, name="chunk maps")
            task_status.started()

    async def _tell_quiet(self) -> None:
        while True:
            await trio.sleep(QUIET_SECONDS_MAX)
            for entry in self._shelf.live.values():
                self._for_links[entry] = None
            self._wake.set()

    async def _show_maps(self) -> None:
        while True:
            await trio.sleep(MAPS_SECONDS_MIN)
            live = self._shelf.live
            self._shown = {tag: shown for tag, shown in self._shown.items() if tag in live}
            waiting = [tag for tag in live if tag not in self._shown] + list(self._shown)
            for tag in waiting[:MAPS_PER_ROUND_MAX]:
                self._show(live[tag])

    def _show(self, entry: LiveJob) -> None:
        shown = self._shown.pop(entry.tag, None)
        new = entry.map()
        if new == shown or self._show_tracker(new):
            self._shown[entry.tag] = new

    async def _tell_moves(self) -> None:
        rounds = 0
        while True:
            if not self._for_links and not self._for_tracker:
                self._wake = trio.Event()
                await self._wake.wait()
            for entry in self._take(self._for_links):
                self._post_progress(entry)
            if rounds % TRACKER_ROUNDS == 0:
                for entry in self._take(self._for_tracker):
                    self._tell_tracker(update_of(entry.job, safe=entry.safe))
            rounds += 1
            await trio.sleep(LINKS_SECONDS_MIN)

    def moved(self, entry: LiveJob) -> None:
        """Something about a live job changed; it is told soon."""
        self._for_links[entry] = None
        self._for_tracker[entry] = None
        self._wake.set()

    def turned(self, entry: LiveJob) -> None:
        """A live job's state, its reason or its uploaders changed; it is told at once."""
        self._for_links.pop(entry, None)
        self._for_tracker.pop(entry, None)
        self._post_progress(entry)
        self._tell_tracker(update_of(entry.job, safe=entry.safe))

    def stored(self, entry: LiveJob, chunks: Iterable[int]) -> None:
        """These chunks are durable from now on."""
        rest = tuple(chunks)
        while rest:
            message = m.Stored(tag=entry.tag, chunks=rest[:CHUNKS_PER_HAVE_MAX])
            rest = rest[CHUNKS_PER_HAVE_MAX:]
            for link in list(entry.audience):
                link.post(message)
        self.moved(entry)

    def closed(self, entry: LiveJob, granted: frozenset[NodeId]) -> None:
        """A job has ended. ``granted``: the uploaders whose file it is now."""
        if entry.at_once and entry.job.state is m.JobState.STORED:
            # Its only word on who gave it: there was no progress to tell of.
            self._post_progress(entry)
        self._for_links.pop(entry, None)
        self._for_tracker.pop(entry, None)
        for link in list(entry.audience):
            link.post(
                m.JobClosed(
                    tag=entry.tag,
                    state=entry.job.state,
                    proven=link.peer.node in granted,
                    reason=sentence(entry.job.reason),
                )
            )
        if entry.job.state is m.JobState.STORED and not entry.at_once:
            self._show(entry)
        self._tell_tracker(update_of(entry.job, safe=entry.job.state is m.JobState.STORED))

    def announce_all(self) -> None:
        """The tracker is there (again), and may have forgotten everything."""
        self._shown.clear()
        for entry in self._shelf.live.values():
            self._tell_tracker(update_of(entry.job, safe=entry.safe))

    def _post_progress(self, entry: LiveJob) -> None:
        message = progress_of(entry.job, safe=entry.safe)
        for link in list(entry.audience):
            link.post(message)

    def _take(self, entries: dict[LiveJob, None]) -> list[LiveJob]:
        taken = [entry for entry in entries if self._shelf.live.get(entry.tag) is entry]
        entries.clear()
        return taken


def progress_of(job: Job, *, safe: bool) -> m.JobProgress:
    """Return what the links of a job hear."""
    shot = job.snapshot()
    return m.JobProgress(
        tag=shot.tag,
        state=shot.state,
        chunks_stored=shot.chunks_stored,
        bytes_stored=shot.bytes_stored,
        safe=safe,
        pushed=shot.pushed,
    )


def update_of(job: Job, *, safe: bool) -> m.JobUpdate:
    """Return what the tracker hears."""
    shot = job.snapshot()
    return m.JobUpdate(
        tag=shot.tag,
        size_bytes=shot.size_bytes,
        name=shot.name,
        state=shot.state,
        reason=sentence(shot.reason),
        chunks_stored=shot.chunks_stored,
        safe=safe,
        uploaders=shot.uploaders[:PUSHED_NODES_MAX],
        pushed=shot.pushed,
    )
