"""Where files come to rest: the interface of all backends. The comments are law; tests/contract/ holds them to it.

A backend takes *finished* files: every chunk was verified before ``store`` is called. It knows tags and bytes, never
names, nodes, jobs or chunks; a tag is the only thing it may make a path or a key of.

Errors: ``ChunkMissing`` (not there), ``StorageFull`` (no room; nothing changed), ``StorageUnavailable`` (ask again
after its seconds; nothing is known to have changed), ``StorageBroken`` (never retried: the process ends and starts
from what is durable). No other exception leaves a backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from protocol.ids import Tag


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


class Backend(Protocol):
    """A place for stored objects."""

    async def prepare(self) -> None:
        """Make ready; called once before anything else. What an earlier run left half done MUST be gone or invisible.

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

    async def open(self, tag: Tag) -> StoredObject:
        """Open an object.

        Raises:
            ChunkMissing: there is none.
        """
        ...

    async def size_of(self, tag: Tag) -> int | None:
        """Return how long the object is; None when there is none. May be retried."""
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
