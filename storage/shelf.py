"""Everything this storage node has, in memory: stored files, live jobs, and jobs that rest until they are put again.

The ledger is the truth; this is what it says, kept where it can be asked without waiting, and what of it the tracker
hears (the inventory). Decides only how a holding is told: a stored file as "all of it", a live job by its durable
chunks, under the names of those uploaders that have delivered for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from exchange.spool import Spool
from exchange.swarm import Swarm
from protocol.bitmap import Bitmap
from protocol.ids import NodeId, Tag
from protocol.limits import NAMES_PER_TAG_MAX
from protocol.messages import Holding, JobMap
from runtime.inventory import InventoryBook
from runtime.link import Link
from storage.jobs import Job
from storage.ledger.base import StoredFile
from storage.maps import Makers
from storage.parts import PartUpload
from storage.shared import Shared


@dataclass(eq=False)
class LiveJob:
    """A job that is open or being committed, with what works on it. Belongs to intake.py."""

    job: Job
    spool: Shared[Spool]
    swarm: Swarm
    opened_at: int  # wall clock, for display and for the inventory
    moved_at: float  # wall clock of the last sign of life
    makers: Makers  # for people who look on
    audience: dict[Link, None] = field(default_factory=dict)  # who uploads or helps, and hears how it goes
    # Verified and not yet durable: chunk -> bytes by sender.
    pending: dict[int, dict[NodeId, int]] = field(default_factory=dict)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    all_durable: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    parts: PartUpload | None = None  # how it goes into a store of parts, where it does
    at_once: bool = False  # its one chunk is acknowledged by being stored, not before (passage.py)
    disowned: str = ""  # why it is another storage node's now
    gone: list[int] = field(default_factory=list)  # chunks that turned out lost or rotten, to be fetched again

    @property
    def tag(self) -> Tag:
        """Whose upload it is."""
        return self.job.tag

    def map(self) -> JobMap:
        """Return which chunks are missing, on their way or durable, and by whom."""
        under_way = self.swarm.under_way()
        under_way |= {
            chunk: max(makers, key=lambda node: (makers[node], node))
            for chunk, makers in self.pending.items()
            if makers
        }
        return self.makers.map_of(self.tag, self.job.durable, under_way)

    def disown(self, reason: str) -> None:
        """Another storage node has it: nothing more is done for it here."""
        self.disowned = self.disowned or reason
        self.scope.cancel()

    @property
    def working(self) -> bool:
        """Whether this is (still) what works on the job. The same job may be opened again after its end, by another."""
        return self.job.live and not self.scope.cancel_called and not self.ended.is_set()

    @property
    def readable(self) -> Bitmap:
        """The durable chunks that can be read here: not those that are parts in the store alone."""
        return self.job.durable if self.parts is None else self.job.durable & self.parts.begun.local

    @property
    def safe(self) -> bool:
        """Whether all uploaders may leave: each chunk is durable, or offered by somebody who is none of them.

        Chunks that are verified and not yet durable do not count: a power cut would take them.
        """
        missing = self.job.durable.missing()
        return not missing or not missing - self.swarm.offered(without=self.job.uploaders)


@dataclass(frozen=True, slots=True)
class RestingJob:
    """A job that ended unfinished; what is durable of it waits for a later put until it has rested long enough."""

    job: Job
    since: float  # wall clock


class Shelf:
    """See the module."""

    def __init__(self, book: InventoryBook) -> None:
        self.stored: dict[Tag, StoredFile] = {}
        self.live: dict[Tag, LiveJob] = {}
        self.resting: dict[Tag, RestingJob] = {}
        self.book = book

    def put_stored(self, files: list[StoredFile]) -> None:
        """These are stored, under these names (now)."""
        for file in files:
            self.stored[file.tag] = file
            self.book.hold(
                Holding(
                    tag=file.tag,
                    size_bytes=file.size_bytes,
                    names=file.names[:NAMES_PER_TAG_MAX],
                    since=file.since,
                    bitmap=b"",
                )
            )

    def drop_stored(self, tag: Tag) -> None:
        """It is not there any more."""
        if self.stored.pop(tag, None) is not None:
            self.book.drop(tag)

    def put_live(self, entry: LiveJob) -> None:
        """A job is live."""
        self.resting.pop(entry.tag, None)
        self.live[entry.tag] = entry
        self.note_progress(entry)

    def drop_live(self, entry: LiveJob, *, resting_since: float | None) -> None:
        """A job has ended; it rests, or is stored (``put_stored`` says so), or is forgotten."""
        del self.live[entry.tag]
        if resting_since is not None:
            self.put_resting(entry.job, resting_since)
        if entry.tag not in self.stored:
            self.book.drop(entry.tag)

    def put_resting(self, job: Job, since: float) -> None:
        """A job has ended unfinished; nobody claims it any more."""
        assert not job.live
        self.resting[job.tag] = RestingJob(job, since)

    def note_progress(self, entry: LiveJob) -> None:
        """More (or less) of a live job is durable."""
        job = entry.job
        readable = entry.readable
        if not readable:
            self.book.drop(entry.tag)
            return
        names = dict.fromkeys(name for _, name in job.grants() if name)
        self.book.hold(
            Holding(
                tag=entry.tag,
                size_bytes=job.manifest.size_bytes,
                names=tuple(names)[:NAMES_PER_TAG_MAX],
                since=entry.opened_at,
                bitmap=readable.to_bytes(),
            )
        )

    def name_of(self, tag: Tag) -> str | None:
        """Return the name to call ``tag`` by, maybe an empty one; None when it is not known here."""
        if tag in self.stored:
            return next(iter(self.stored[tag].names), "")
        job = self.job_of(tag)
        return None if job is None else job.name

    def live_jobs_of(self, node: NodeId) -> int:
        """Return how many live jobs ``node`` claims."""
        return sum(node in entry.job.uploaders for entry in self.live.values())

    def known_size_bytes(self, tag: Tag) -> int | None:
        """Return the size of ``tag`` when its manifest is known here."""
        if tag in self.stored:
            return self.stored[tag].size_bytes
        job = self.job_of(tag)
        return None if job is None else job.manifest.size_bytes

    def job_of(self, tag: Tag) -> Job | None:
        """Return the live or resting job of ``tag``."""
        if tag in self.live:
            return self.live[tag].job
        return self.resting[tag].job if tag in self.resting else None

    def durable(self, tag: Tag) -> Bitmap | None:
        """Return which chunks of a live or resting job are durable."""
        job = self.job_of(tag)
        return None if job is None else job.durable
