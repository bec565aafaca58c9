"""A file becomes a manifest: read once, in several threads, never whole, and never wrong.

What is hashed is one open descriptor of a regular file (links are not followed). Size, times and inode are compared
before and after, on the descriptor and at the path: a file that changed while it was read has no manifest. Memory is
one buffer a thread, however large the file is.

Decides nothing about what happens with the file afterwards; library.py remembers it, puts.py sends it.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog
import trio

from protocol.errors import CommandError, NotFound
from protocol.limits import FILE_BYTES_MAX, MIB
from protocol.manifest import Layout, Manifest
from runtime.seam import Disk, File, FileStatus, Runtime

log = structlog.get_logger()

# One read; hashing a MiB takes half a millisecond, so a system call for each costs nothing.
PIECE_BYTES = 1 * MIB
# What a thread does before it comes back: long enough that the way there and back (0.1 ms) does not count, short
# enough that a cancelled put ends at once and progress moves.
TURN_BYTES = 16 * MIB
# Beyond that the disk is the limit, and threads only take memory.
THREADS_MAX = 8
# A file so small is opened, hashed, looked at and closed in one turn: a way there and back costs more than its bytes.
SMALL_BYTES = 1 * MIB

ATTEMPTS_MAX = 3
ATTEMPT_PAUSE_SECONDS = 0.5
# File systems stamp times by a coarse clock (4 ms, some 10 ms): a file written within one tick of our look could be
# written again with the same stamp. So a file so young waits until its stamp is certainly past.
STAMP_SECONDS = 0.02


class FileChanged(CommandError):
    """The file changed while it was read. Once it is left alone, trying again helps."""

    def __init__(self, path: Path) -> None:
        super().__init__("changed", f"{path} changed while it was read; put it again when it is complete", 5)


async def hash_file(
    runtime: Runtime,
    path: Path,
    on_progress: Callable[[int], None] = lambda done_bytes: None,
    *,
    attempts_max: int = ATTEMPTS_MAX,
    below: Path | None = None,
) -> tuple[Manifest, FileStatus]:
    """Return the manifest of ``path`` and what identifies the file it is of.

    ``on_progress`` gets the bytes hashed so far; it begins anew when the file changed and is read again. ``below``: a
    folder that the file must not lead out of, by links on the way either.

    Raises:
        FileChanged: it changed during each of ``attempts_max`` readings.
        NotFound: there is no such file.
        CommandError: it cannot be read, or is no regular file.
    """
    found = await runtime.run_sync(_hash_small, runtime.disk, path, below, runtime.clock.wall())
    if found is not None:
        on_progress(found[1].size_bytes)
        return found
    for attempt in range(1, attempts_max + 1):
        found = await _hash_once(runtime, path, below, on_progress)
        if found is not None:
            return found
        log.info("file changed while it was read", path=str(path), attempt=attempt)
        if attempt < attempts_max:
            await trio.sleep(ATTEMPT_PAUSE_SECONDS * attempt)
    raise FileChanged(path)


def _open(disk: Disk, path: Path, below: Path | None) -> File:
    return disk.open_read(path) if below is None else disk.open_below(below, path)


def _hash_small(disk: Disk, path: Path, below: Path | None, wall: float) -> tuple[Manifest, FileStatus] | None:
    """Hash a small file that is at rest; None for any other, or when anything is wrong with it: then the long way says
    what. Runs in a thread."""
    try:
        file = _open(disk, path, below)
        try:
            status = file.status()
            if status.size_bytes > SMALL_BYTES or 0 <= wall - status.ctime_ns / 1e9 < STAMP_SECONDS:
                return None
            layout = Layout.of_size(status.size_bytes)
            data = memoryview(bytearray(status.size_bytes + 1))  # one more, to see that it ends there
            if file.read_into(data, 0) != status.size_bytes or file.status() != status or disk.status(path) != status:
                return None
        finally:
            file.close()
    except OSError:
        return None
    digests = [
        hashlib.sha256(data[layout.offset_of(chunk) :][: layout.bytes_of(chunk)]).digest()
        for chunk in range(layout.chunks)
    ]
    return Manifest.of_digests(status.size_bytes, digests), status


async def _hash_once(
    runtime: Runtime, path: Path, below: Path | None, on_progress: Callable[[int], None]
) -> tuple[Manifest, FileStatus] | None:
    try:
        file = await runtime.run_sync(_open, runtime.disk, path, below)
    except OSError as error:
        raise read_error(error, path) from error
    try:
        status = await runtime.run_sync(file.status)
        if status.size_bytes > FILE_BYTES_MAX:
            raise CommandError("too-large", f"{path}: files of more than {FILE_BYTES_MAX} bytes are not taken", 6)
        if 0 <= runtime.clock.wall() - status.ctime_ns / 1e9 < STAMP_SECONDS:
            await trio.sleep(STAMP_SECONDS)
            status = await runtime.run_sync(file.status)
        digests = await _Reading(runtime, file, Layout.of_size(status.size_bytes), on_progress).digests()
        if digests is None or await runtime.run_sync(file.status) != status:
            return None
        if status.size_bytes == 0 and await runtime.run_sync(file.read_into, memoryview(bytearray(1)), 0) > 0:
            # What /proc shows has no size, and is not empty.
            raise CommandError(
                "not-a-file",
                f"{path} holds more than its size says, as the kernel's own files do; copy it, and put the copy",
                2,
            )
        # Another file may have taken its place: what we read is then no longer what the path says.
        if await runtime.run_sync(runtime.disk.status, path) != status:
            return None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise read_error(error, path) from error
    finally:
        with trio.CancelScope(shield=True):
            await runtime.run_sync(file.close)
    return Manifest.of_digests(status.size_bytes, digests), status


def read_error(error: OSError, path: Path) -> CommandError:
    """Return ours for an error of opening or reading ``path``."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound(f"{path}: no such file")
    if error.errno == errno.ENAMETOOLONG:
        return NotFound(f"{path}: no such file; no file can have a name so long")
    if error.errno == errno.ELOOP:
        return CommandError("not-a-file", f"{path} is a link; name the file it points to", 2)
    if error.errno in (errno.EINVAL, errno.EISDIR, errno.ENXIO, errno.ENODEV):
        return CommandError("not-a-file", f"{path} is not a regular file", 2)
    if isinstance(error, PermissionError):
        return CommandError("unreadable", f"{path}: the daemon may not read it ({error.strerror})", 1)
    return CommandError("unreadable", f"{path}: {error.strerror or error}", 5)


class _Reading:
    """One reading of one open file."""

    def __init__(self, runtime: Runtime, file: File, layout: Layout, on_progress: Callable[[int], None]) -> None:
        self._runtime = runtime
        self._file = file
        self._layout = layout
        self._on_progress = on_progress
        self._digests: list[bytes] = [b""] * layout.chunks
        self._runs = self._plan()
        self._done_bytes = 0
        self._short = False
        self._error: OSError | None = None

    async def digests(self) -> list[bytes] | None:
        """Return the digests of all chunks; None when the file is shorter than it said."""
        turns = max(1, -(-self._layout.size_bytes // TURN_BYTES))
        async with trio.open_nursery() as threads:
            for number in range(min(self._runtime.cores, THREADS_MAX, turns)):
                threads.start_soon(self._work, name=f"hash thread {number}")
        if self._error is not None:
            raise self._error
        return None if self._short else self._digests

    def _plan(self) -> Iterator[range]:
        """Yield runs of neighbouring chunks: as many as make a turn, at least one."""
        count = max(1, TURN_BYTES // self._layout.chunk_bytes)
        for start in range(0, self._layout.chunks, count):
            yield range(start, min(start + count, self._layout.chunks))

    async def _work(self) -> None:
        buffer = memoryview(bytearray(min(PIECE_BYTES, max(1, self._layout.size_bytes))))
        for chunks in self._runs:
            if self._short or self._error is not None:
                return
            try:
                if len(chunks) == 1:
                    await self._digest_in_turns(chunks[0], buffer)
                else:
                    found = await self._runtime.run_sync(self._digest_all, chunks, buffer)
                    self._digests[chunks.start : chunks.stop] = found
                    self._report(sum(self._layout.bytes_of(chunk) for chunk in chunks))
            except EOFError:
                self._short = True
            except OSError as error:
                self._error = error

    async def _digest_in_turns(self, chunk: int, buffer: memoryview) -> None:
        digest = hashlib.sha256()
        start = self._layout.offset_of(chunk)
        rest = self._layout.bytes_of(chunk)
        while rest:
            turn = min(rest, TURN_BYTES)
            await self._runtime.run_sync(self._feed, digest.update, start, turn, buffer)
            start += turn
            rest -= turn
            self._report(turn)
        self._digests[chunk] = digest.digest()

    def _digest_all(self, chunks: range, buffer: memoryview) -> list[bytes]:
        found = []
        for chunk in chunks:
            digest = hashlib.sha256()
            self._feed(digest.update, self._layout.offset_of(chunk), self._layout.bytes_of(chunk), buffer)
            found.append(digest.digest())
        return found

    def _feed(self, update: Callable[[memoryview], None], offset: int, length: int, buffer: memoryview) -> None:
        while length:
            piece = buffer[: min(length, len(buffer))]
            if self._file.read_into(piece, offset) != len(piece):
                raise EOFError
            update(piece)
            offset += len(piece)
            length -= len(piece)

    def _report(self, more_bytes: int) -> None:
        self._done_bytes += more_bytes
        self._on_progress(self._done_bytes)
