"""One upload as the storage node sees it: a pure state machine. No clock, no disk, no link, no await.

    open ── all chunks durable ──> committing ── verified and handed over ──> stored
     ^  ^                              │
     │  └──── rotten chunks ───────────┘
     └── proposed again ── cancelled (the last uploader withdrew) | failed (the store refused)

Who *claims* a job (its uploaders, each with the names it wants: a folder may hold the same bytes twice) and who has
*delivered* for it are kept apart: a claim is a word, a delivery is bytes that matched their digests. Only who delivered
a chunk's worth is granted the file when it is stored; the others propose again and are challenged
(storage/possession.py).

What is durable is said from outside (``acknowledge``); that it really is, storage/intake.py and storage/ledger/ see
to. "committing" is not kept in the ledger: after a crash an open job with all chunks commits again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from protocol.bitmap import Bitmap
from protocol.errors import LocalProtocolError
from protocol.ids import NodeId, Tag
from protocol.limits import PUSHED_NODES_MAX
from protocol.manifest import Layout, Manifest
from protocol.messages import JobState, Pushed

MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.OPEN: frozenset((JobState.COMMITTING, JobState.CANCELLED, JobState.FAILED)),
    JobState.COMMITTING: frozenset((JobState.OPEN, JobState.STORED, JobState.FAILED)),
    JobState.CANCELLED: frozenset((JobState.OPEN,)),
    JobState.FAILED: frozenset((JobState.OPEN,)),
    JobState.STORED: frozenset(),
}
LIVE = frozenset((JobState.OPEN, JobState.COMMITTING))
# More people than this do not put one file at one time; later ones are told to come again.
CLAIMS_MAX = PUSHED_NODES_MAX
# The same bytes under so many names at once; further ones are proposed again when the job has ended.
NAMES_PER_CLAIM_MAX = 64
NOTHING: Mapping[NodeId, int] = MappingProxyType({})


def bytes_in(layout: Layout, chunks: Bitmap) -> int:
    """Return how many bytes ``chunks`` are."""
    last = layout.chunks - 1
    missing_at_end = layout.chunk_bytes - layout.bytes_of(last) if last in chunks else 0
    return len(chunks) * layout.chunk_bytes - missing_at_end


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSnapshot:
    """A job at one moment, for reports, pages and tests. Uploaders in the order of their claims."""

    tag: Tag
    size_bytes: int
    name: str
    state: JobState
    reason: str
    chunks: int
    chunks_stored: int
    bytes_stored: int
    uploaders: tuple[NodeId, ...]
    pushed: tuple[Pushed, ...]


class Job:
    """The upload of one tag. ``durable`` is what was acknowledged and survives a power cut."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        state: JobState = JobState.OPEN,
        reason: str = "",
        durable: Bitmap | None = None,
        claims: Iterable[tuple[NodeId, str]] = (),
        pushed: Mapping[NodeId, int] | None = None,
    ) -> None:
        self.manifest = manifest
        self.state = state
        self.reason = reason  # why it ended, or why it does not move
        self.durable = Bitmap(manifest.layout.chunks) if durable is None else durable.copy()
        self._claims: dict[NodeId, tuple[str, ...]] = {}
        for node, name in claims:
            self._claims[node] = (*self._claims.get(node, ()), name)
        self._pushed: dict[NodeId, int] = dict(pushed or {})

    @property
    def tag(self) -> Tag:
        """Whose upload this is."""
        return self.manifest.tag

    @property
    def live(self) -> bool:
        """Whether it can still end well without anybody proposing it again."""
        return self.state in LIVE

    @property
    def name(self) -> str:
        """The first name anybody wants it to have; empty when nobody wants one."""
        return next((name for _, name in self.claims if name), "")

    @property
    def uploaders(self) -> Mapping[NodeId, tuple[str, ...]]:
        """Who claims it, with the names each wants, in the order of the claims."""
        return self._claims

    @property
    def claims(self) -> tuple[tuple[NodeId, str], ...]:
        """All claims one by one: who, and under which name (maybe none: empty)."""
        return tuple((node, name) for node, names in self._claims.items() for name in names)

    @property
    def pushed(self) -> Mapping[NodeId, int]:
        """Verified and durable bytes by who delivered them."""
        return self._pushed

    def proven(self, node: NodeId, arrived: int = 0) -> bool:
        """Whether ``node`` has shown by delivering that it has the file: a whole chunk's worth of verified bytes.
        ``arrived``: what it gave that is not acknowledged yet."""
        layout = self.manifest.layout
        return self._pushed.get(node, 0) + arrived >= min(layout.chunk_bytes, layout.size_bytes)

    def grants(self, arrived: Mapping[NodeId, int] = NOTHING) -> tuple[tuple[NodeId, str], ...]:
        """Return the uploaders that are granted the file when it is stored, with their names. ``arrived``: what each
        gave that will be acknowledged by that."""
        return tuple((node, name) for node, name in self.claims if self.proven(node, arrived.get(node, 0)))

    # --- who wants it ---

    def may_claim(self, node: NodeId, name: str) -> bool:
        """Whether there is room for this claim."""
        names = self._claims.get(node)
        if not self.live:
            return True
        if names is None:
            return len(self._claims) < CLAIMS_MAX
        return name in names or len(names) < NAMES_PER_CLAIM_MAX

    def claim(self, node: NodeId, name: str) -> None:
        """``node`` wants this stored under ``name`` (too). A job that had ended opens again, without those who claimed
        it then."""
        assert self.may_claim(node, name)
        if not self.live:
            self._move(JobState.OPEN)
            self._claims.clear()
        names = self._claims.get(node, ())
        if name not in names:
            self._claims[node] = (*names, name)

    def withdraw(self, node: NodeId) -> bool:
        """``node`` no longer wants it, under any name. Return whether that ended the job: the last one's word cancels.

        A job that is being committed has all its bytes already and becomes stored.
        """
        if self._claims.pop(node, None) is None or self._claims or self.state is not JobState.OPEN:
            return False
        self._move(JobState.CANCELLED, "withdrawn by its uploader")
        return True

    # --- bytes ---

    def acknowledge(self, chunks: Iterable[int], pushed: Mapping[NodeId, int]) -> None:
        """These chunks are verified and durable; ``pushed`` says how many bytes each sender gave for them."""
        if not self.live:
            raise LocalProtocolError(f"chunks acknowledged for a job that is {self.state}")
        for chunk in chunks:
            self.durable.add(chunk)
        for node, count in pushed.items():
            self._pushed[node] = self._pushed.get(node, 0) + count

    def pause(self, reason: str) -> None:
        """It stays open but does not move, for this reason; an empty one says that it moves again."""
        if self.state is JobState.OPEN:
            self.reason = reason

    # --- its end ---

    def begin_commit(self, *, arrived: Iterable[int] = ()) -> None:
        """All chunks are durable, but for those that have ``arrived`` and will be by its end; they are now read
        again."""
        if self.durable.missing() - Bitmap.of(self.durable.length, arrived):
            raise LocalProtocolError("commit of a job that is not complete")
        self._move(JobState.COMMITTING)

    def reopen(self, rotten: Iterable[int]) -> None:
        """What was durable does not read back as what it was: these chunks are fetched again."""
        self._move(JobState.OPEN)
        for chunk in rotten:
            self.durable.discard(chunk)

    def lose(self, chunks: Iterable[int]) -> None:
        """These chunks are not durable any more, whatever was thought; they are fetched again."""
        if self.state is JobState.COMMITTING:
            self.reopen(chunks)
        else:
            for chunk in chunks:
                self.durable.discard(chunk)

    def finish(self) -> None:
        """It is stored."""
        self._move(JobState.STORED)

    def cancel(self, reason: str) -> None:
        """It ends unfinished, by nobody's fault; proposed again it goes on from what is durable."""
        self._move(JobState.CANCELLED, reason)

    def fail(self, reason: str) -> None:
        """It ends because the store refuses it."""
        self._move(JobState.FAILED, reason)

    def snapshot(self) -> JobSnapshot:
        """Return what it looks like now. Who pushed most comes first; the list is bounded as on the wire."""
        ranked = sorted(self._pushed.items(), key=lambda item: (-item[1], item[0]))
        return JobSnapshot(
            tag=self.tag,
            size_bytes=self.manifest.size_bytes,
            name=self.name,
            state=self.state,
            reason=self.reason,
            chunks=self.manifest.layout.chunks,
            chunks_stored=len(self.durable),
            bytes_stored=bytes_in(self.manifest.layout, self.durable),
            uploaders=tuple(self._claims),
            pushed=tuple(Pushed(node=node, bytes_pushed=count) for node, count in ranked[:PUSHED_NODES_MAX]),
        )

    def _move(self, state: JobState, reason: str = "") -> None:
        if state not in MOVES[self.state]:
            raise LocalProtocolError(f"a job cannot go from {self.state} to {state}")
        self.state = state
        self.reason = reason
