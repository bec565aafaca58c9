"""Where files come to rest: the interface of all backends. The comments are law; tests/contract/ holds them to it.

A backend takes *finished* files: every chunk was verified before ``store`` is called. It knows tags and bytes, never
names, nodes, jobs or chunks; a tag is the only thing it may make a path or a key of.

Errors: ``ChunkMissing`` (not there), ``StorageFull`` (no room; nothing changed), ``StorageUnavailable`` (ask again
after its seconds; nothing is known to have changed), ``StorageBroken`` (never retried: the process ends and starts
from what is durable). No other exception leaves a backend.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from protocol.ids import Tag
from protocol.manifest import Manifest


class StoredObject(Protocol):
    """One stored object, open for reading. Several tasks may read at the same time.

    What it reads never changes while it is open. ``delete`` of its tag may make later reads raise ``ChunkMissing``,
    or not be noticed until it is closed; it MUST NOT make a read return other bytes.
    """

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        ...

    async def read_into(self, target: memoryview, offset: int) -> None:
        """Fill ``target`` from ``offset``, wholly.

        MUST raise ``ChunkMissing`` rather than fill it in part. May be retried.
        """
        ...

    async def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each (offset, length), in this order; a few hundred small ranges at a time.

        MUST raise ``ChunkMissing`` when one of them is not all there. May be retried.
        """
        ...

    async def aclose(self) -> None:
        """Let it go. Called once nothing reads any more; may be called again."""
        ...

    async def __aenter__(self) -> StoredObject: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Grant:
    """What lets its holder put one part by one HTTP request: PUT ``url`` with exactly these headers beside the host."""

    url: str
    headers: Mapping[str, str]


class PartBody(Protocol):
    """The bytes of a part. Iterated once a try."""

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class Parts(Protocol):
    """Objects made of parts, a chunk each, while the file is still coming, and by whomever.

    An upload is named by a word of the store's; whoever knows the word may go on with it, in another process too. A
    part is there wholly or not at all, durable, and has the digest it was announced with: the store refuses all others.
    A part may be put again. Nothing is an object before ``complete``.

    ``ChunkMissing``: the store knows no such upload (any more). It was completed or aborted.
    """

    def takes(self, size_bytes: int) -> bool:
        """Whether a file of this size is stored in parts; smaller ones go by ``Backend.store``."""
        ...

    async def begin(self, tag: Tag) -> str:
        """Begin an upload and return its word."""
        ...

    async def put(self, tag: Tag, upload: str, chunk: int, body: PartBody, digest: bytes) -> str:
        """Put a part and return the store's word for it, which completing needs. May be retried.

        Raises:
            IntegrityError: the bytes are not what ``digest`` says.
        """
        ...

    def grant(self, tag: Tag, upload: str, chunk: int, digest: bytes, valid_seconds: int) -> Grant:
        """Return what lets somebody else put this part, and no other bytes, as long as it is valid."""
        ...

    async def find(self, manifest: Manifest, upload: str, chunk: int | None = None) -> dict[int, str]:
        """Return the store's words for the parts it has, by chunk; with ``chunk`` for that one alone.

        Parts whose size or digest (where the store shows one) is not the manifest's are left out.
        """
        ...

    async def complete(self, manifest: Manifest, upload: str, words: Mapping[int, str]) -> None:
        """Make the object of all its parts; returns once the store has shown that it is whole and right."""
        ...

    async def is_whole(self, manifest: Manifest, upload: str | None) -> bool:
        """Whether the object is there already, and right: that of ``upload``, if one was begun."""
        ...

    async def abort(self, tag: Tag, upload: str) -> None:
        """Give an upload up with all its parts; absent is fine."""
        ...

    async def unfinished(self) -> list[tuple[Tag, str]]:
        """Return all uploads of ours that are neither completed nor aborted."""
        ...


class Backend(Protocol):
    """A place for stored objects."""

    @property
    def parts(self) -> Parts | None:
        """How to store large files in parts; None where there are none."""
        ...

    async def prepare(self) -> None:
        """Make ready; called once before anything else. What an earlier run left half done MUST be gone or invisible,
        but for those uploads in parts that it was told to keep.

        Raises:
            ConfigError: it cannot be used as configured; says what would be right.
        """
        ...

    async def store(self, tag: Tag, spool: Path, size_bytes: int) -> None:
        """Make the finished file ``spool`` (``size_bytes`` long, complete, verified) the object of ``tag``.

        * Durable: once it has returned, the object survives a power cut.
        * Atomic: at every moment, and after a crash at any moment, the object is there wholly or not at all.
        * Never both lost: after a crash the spool file is there, or the object is, or both. The spool file MUST be
          gone when this returns, and not before the object is durable in the backend's sense of a rename.
        * May be called again, also by another process after a crash: when the spool file is gone and the object is
          there with this size it returns as if it had done it just now.
        * An object that was there before under this tag is replaced.

        Raises:
            ChunkMissing: neither spool file nor object is there (in this size).
        """
        ...

    async def take_back(self, tag: Tag, spool: Path, size_bytes: int) -> None:
        """Make the object of ``tag`` a spool file of this size again, in place of one that is there.

        Some of its bytes may be wrong or missing; all that can be read MUST come to its place. Durable when it returns,
        and then there is no object any more, and never both lost, as for ``store``. May be called again after a crash.

        Raises:
            ChunkMissing: there is no object, and no spool file of this size.
        """
        ...

    async def open(self, tag: Tag) -> StoredObject:
        """Open an object.

        Raises:
            ChunkMissing: there is none.
            StorageUnavailable: it may be there, and cannot be opened now.
        """
        ...

    async def size_of(self, tag: Tag) -> int | None:
        """Return how long the object is; None when there is none. May be retried.

        None is the store's certain word, on which files are given up: whatever else hides an object (a mount or a
        bucket that is away, too many open files) MUST raise ``StorageUnavailable`` or ``StorageBroken``.
        """
        ...

    async def delete(self, tag: Tag) -> None:
        """Remove an object, durably; absent is fine. May be retried."""
        ...

    async def list(self) -> dict[Tag, int]:
        """Return all objects with their sizes, in the order of their tags.

        Everything stored before the call began and not deleted since MUST be in it. Things that are not ours (another
        program's files) MUST be left out and left alone.
        """
        ...

    async def room_bytes(self) -> int:
        """Return how many bytes could still be stored, as well as can be known; never negative."""
        ...
