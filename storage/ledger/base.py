"""What the storage node must not forget: jobs with their acknowledged chunks, and what is stored under which names.

The interface of all ledgers; the comments are law, and tests/contract/ holds the ledgers to it. sqlite.py keeps a file
for one node, postgres.py a database that several nodes share; both speak the SQL of sql.py.

Decides nothing: which chunks may be acknowledged (intake.py makes them durable first), when a job is stored (commit.py)
and who is granted a name (jobs.py) is decided elsewhere. It does keep the rule of names: per name the newest file
counts, earlier ones stay as versions. Newest is who was written last, not whose wall clock says so: clocks jump.

Laws: each method is one transaction, which happened wholly or not at all; when it has returned, its effect survives a
power cut; all methods happen one after the other in *some* order, whoever calls them from wherever. Each may raise
``StorageFull`` (nothing happened) or ``StorageBroken`` (nobody knows; the process must end).

Where several nodes share a ledger, a job belongs to one of them at a time: to who opened it or took it over, under an
epoch that counts up with each change of hands. Whatever is written about a job is written in a transaction that sees
owner and epoch as they were when this process got it, or is not written at all (``LeaseLost``): a node that was frozen,
and wakes up when another one has its job, can spoil nothing. A node that has not beaten for ``lease_seconds`` of the
database's clock may lose its jobs; until somebody takes one, it is still its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from protocol.bitmap import Bitmap
from protocol.errors import StorageError
from protocol.ids import NodeId, Tag
from protocol.manifest import Manifest
from protocol.messages import JobState
from storage.jobs import Job


class LeaseLost(StorageError):
    """The job belongs to another storage node (now). Nothing was written."""

    def __init__(self, tag: Tag, reason: str) -> None:
        super().__init__(f"the job of {tag} is not ours (any more): {reason}")
        self.tag = tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """Newly durable chunks of one job: the whole bitmap as it is now, and what each sender has given in all.

    ``apart``: those of the durable ones that are in the store as parts of an upload, and not in the spool file; None
    when that has not changed.
    """

    tag: Tag
    durable: Bitmap
    pushed: Mapping[NodeId, int] = field(default_factory=dict)
    apart: Bitmap | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """Something stored. ``names``: those whose newest file this is, newest first; ``since`` is the wall clock's."""

    tag: Tag
    size_bytes: int
    names: tuple[str, ...]
    since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One file that was stored under a name."""

    tag: Tag
    size_bytes: int
    name: str
    node: NodeId
    stored_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A file that was stored under a name. ``position`` counts up, over all names. ``until``: how long it holds (wall
    clock); -1: for ever; None: nobody said."""

    position: int
    tag: Tag
    name: str
    node: NodeId
    stored_at: int
    until: int | None


@dataclass(frozen=True, slots=True)
class Collected:
    """What became of files: those that are stored no longer, and those (still) stored whose names may have changed."""

    doomed: list[Tag]
    changed: list[StoredFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrub:
    """How far a stored file has been read again: ``chunk`` is the next one. ``due_at``: when (wall clock)."""

    chunk: int
    due_at: int


@dataclass(frozen=True, slots=True)
class KeptUpload:
    """An upload in parts that the store has begun for a job. ``apart`` as in ``Acknowledgement``."""

    id: str
    apart: Bitmap


@dataclass(frozen=True, slots=True)
class KeptJob:
    """A job that is not stored, as it was last written, and when (wall clock)."""

    job: Job
    moved_at: int
    upload: KeptUpload | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What became of stored files since ``mark``: those that are (still) stored, and tags that are not."""

    mark: str
    stored: list[StoredFile]
    gone: list[Tag]


class Ledger(Protocol):
    """See the module. ``now`` is the wall clock, kept in whole seconds."""

    @property
    def shared(self) -> bool:
        """Whether other storage nodes may write to it, too."""
        ...

    async def aclose(self) -> None:
        """Close; what was written stays."""
        ...

    # --- jobs ---

    async def open_job(self, manifest: Manifest, node: NodeId, names: Sequence[str], now: float) -> None:
        """A job for ``manifest``, claimed by ``node``; one that ended unfinished opens again with what it had.

        What is stored already stays stored. In a shared ledger it is this node's own from now on.

        Raises:
            LeaseLost: it is another live node's.
        """
        ...

    async def claim(self, tag: Tag, node: NodeId, name: str) -> None:
        """``node`` wants this under ``name`` (too)."""
        ...

    async def withdraw(self, tag: Tag, node: NodeId) -> None:
        """``node`` no longer wants this."""
        ...

    async def acknowledge(self, batch: Sequence[Acknowledgement], now: float) -> None:
        """These chunks are durable, all of them in one transaction. A job that is not open is left as it is.

        Raises:
            LeaseLost: one of the jobs is another node's. Nothing of the batch was written.
        """
        ...

    async def set_upload(self, tag: Tag, upload: str) -> None:
        """The store has begun an upload in parts, nothing of which is apart yet. In place of an earlier one."""
        ...

    async def drop_upload(self, tag: Tag) -> None:
        """Nobody will count on the upload of this job any more. Only then may it be aborted: whoever gets the job
        next must not find parts of it acknowledged and on their way out."""
        ...

    async def uploads(self) -> dict[Tag, str]:
        """Return the uploads of all jobs, whoever's they are."""
        ...

    async def set_durable(self, tag: Tag, durable: Bitmap) -> None:
        """Fewer chunks are durable than was thought: some turned out rotten, or the spool file is gone."""
        ...

    async def end_job(self, tag: Tag, state: JobState, reason: str, now: float) -> None:
        """It failed or was cancelled. What is durable stays for a later put; all claims end."""
        ...

    async def lose(self, tag: Tag, reason: str, now: float) -> None:
        """What was stored is not there any more: a failed job without chunks, until somebody puts it again."""
        ...

    async def forget_job(self, tag: Tag) -> None:
        """Remove a job that ended unfinished, with all that belongs to it. Others are left alone."""
        ...

    async def jobs(self) -> list[KeptJob]:
        """Return all jobs that are not stored, by tag; of a shared ledger this node's own, which it takes anew: an
        earlier process of this node, should it wake up, has lost them.

        Raises:
            ConfigError: a row cannot be; the ledger was damaged or edited.
        """
        ...

    async def manifest(self, tag: Tag) -> Manifest | None:
        """Return the manifest of a job or of something stored."""
        ...

    # --- shared with other nodes ---

    async def beat(self) -> None:
        """This node lives."""
        ...

    async def orphans(self) -> list[Tag]:
        """Return the open jobs of nodes that have not beaten for too long."""
        ...

    async def take(self, tag: Tag) -> KeptJob | None:
        """Make a job this node's own, if it is nobody's or its owner's lease has run out. None: it is not to be had.

        What comes back is as its last owner wrote it, spool file and all; what of that this node has is for the caller
        to find out.
        """
        ...

    async def changes(self, mark: str) -> Changes:
        """Return what changed since ``mark`` ("": since ever), at least; some of it may come twice."""
        ...

    # --- what is stored ---

    async def store(self, tag: Tag, grants: Iterable[tuple[NodeId, str]], now: float) -> list[StoredFile]:
        """The job's file is in the backend: job state and names in one transaction.

        Return it and every other file that a name was taken from by this.
        """
        ...

    async def add_name(self, tag: Tag, node: NodeId, name: str, now: float) -> list[StoredFile]:
        """``node`` proved that it has what is stored as ``tag`` and wants this name for it. Returns as ``store``."""
        ...

    async def file(self, tag: Tag) -> StoredFile | None:
        """Return what is stored as ``tag``."""
        ...

    async def stored(self) -> list[StoredFile]:
        """Return everything stored, by tag."""
        ...

    async def versions(self, name: str) -> list[Version]:
        """Return every file that was stored under ``name``, newest first."""
        ...

    # --- keeping ---

    async def bindings(self) -> list[Binding]:
        """Return everything that was stored under a name and is still known by it, in the order of positions."""
        ...

    async def set_term(self, tag: Tag, name: str, node: NodeId | None, until: int | None) -> bool:
        """``name`` holds until then; None: for ever. False: its newest file is not ``tag``, or not ``node``'s.

        Put again, it holds anew as long as the settings say.
        """
        ...

    async def collect(self, positions: Iterable[int], tags: Iterable[Tag]) -> Collected:
        """Remove these names, and of ``tags`` those stored files that no name is left for.

        They are doomed: their objects are still there, until ``cleared``.
        """
        ...

    async def remove(self, tag: Tag) -> bool:
        """A stored file is stored no longer, whoever names it; it is doomed. False: it was not stored."""
        ...

    async def doomed(self) -> list[Tag]:
        """Return what was removed or collected and not cleared since, by tag; not what is put again just now. Stored
        again it is doomed no longer."""
        ...

    async def cleared(self, tag: Tag) -> None:
        """Its object is gone."""
        ...

    async def used_bytes(self, *, node: NodeId | None = None, prefix: str = "", without: Tag | None = None) -> int:
        """Return how many bytes files (and open jobs) take that ``node`` put, or without one, whose name begins with
        ``prefix``; ``without`` is not counted. Files that have lost all their names count for nobody."""
        ...

    async def scrubs(self) -> dict[Tag, Scrub]:
        """Return how far stored files have been read again; nothing is known of others. Storing forgets it."""
        ...

    async def set_scrub(self, tag: Tag, scrub: Scrub) -> None:
        """Remember how far a stored file has been read again."""
        ...

    async def reopen(self, tag: Tag, durable: Bitmap, node: NodeId, now: float) -> bool:
        """A stored file has rotten chunks: it is an open job again, this node's own, which has ``durable``, and keeps
        its names. ``node``, the storage node itself, claims it, so that nobody else's word ends it. False: it was not
        stored.

        Raises:
            LeaseLost: another live node has done that already.
        """
        ...

    async def mending(self) -> set[Tag]:
        """Return the jobs that ``reopen`` made; they end by being stored, or removed."""
        ...
