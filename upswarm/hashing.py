"""The tag of a local file, computed without a daemon: several threads, a megabyte each, however large the file is.

Decides nothing about the rule (protocol/manifest.py does). A file that changes while it is read has no tag; that is
an IntegrityError, never a wrong tag.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import CommandError, IntegrityError
from protocol.limits import FILE_BYTES_MAX
from protocol.manifest import Layout, Manifest
from upswarm.paths import path_error

PIECE_BYTES = 1 << 20  # What one thread holds: larger is no faster, and memory is threads times this.
THREADS_MAX = 8


@dataclass(frozen=True, slots=True)
class _Identity:
    """What stays the same while a file stays the same."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def manifest_of(path: Path, progress: Callable[[int, int], None] | None = None) -> Manifest:
    """Return the manifest of the file at ``path``. ``progress`` gets bytes done and in all, from any thread.

    Raises:
        CommandError: it is not there, no regular file, or cannot be read.
        IntegrityError: it changed while it was read.
    """
    with _opened(path) as descriptor:
        before = _Identity.of(os.fstat(descriptor))
        if before.size_bytes > FILE_BYTES_MAX:
            raise CommandError("too-large", f"{path}: {before.size_bytes} bytes, at most {FILE_BYTES_MAX}", 6)
        layout = Layout.of_size(before.size_bytes)
        done_bytes = 0
        counting = threading.Lock()
        stopped = threading.Event()

        def digest_of(chunk: int) -> bytes:
            nonlocal done_bytes
            digest = hashlib.sha256()
            offset, rest = layout.offset_of(chunk), layout.bytes_of(chunk)
            piece = memoryview(bytearray(min(PIECE_BYTES, rest)))
            while rest and not stopped.is_set():
                count = os.preadv(descriptor, [piece[: min(len(piece), rest)]], offset)
                if count == 0:
                    raise _changed(path)
                digest.update(piece[:count])
                offset += count
                rest -= count
                if progress is not None:
                    with counting:
                        done_bytes += count
                        progress(done_bytes, layout.size_bytes)
            return digest.digest()

        threads = ThreadPoolExecutor(min(THREADS_MAX, os.cpu_count() or 1, layout.chunks))
        try:
            digests = list(threads.map(digest_of, range(layout.chunks)))
        except OSError as error:
            raise path_error(error, path) from error
        finally:
            # Also on Ctrl-C: what was not begun is dropped, what was stops at its next piece.
            stopped.set()
            threads.shutdown(wait=True, cancel_futures=True)
        if _Identity.of(os.fstat(descriptor)) != before:
            raise _changed(path)
        if before.size_bytes == 0 and os.pread(descriptor, 1, 0):
            # What /proc shows has no size, and is not empty (as daemon/hashing.py says).
            raise CommandError(
                "not-a-file",
                f"{path}: holds more than its size says, as the kernel's own files do; copy it, and name the copy",
                2,
            )
    return Manifest.of_digests(layout.size_bytes, digests)


def _changed(path: Path) -> IntegrityError:
    return IntegrityError(f"{path}: changed while it was read; try again when it is still")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        # O_NONBLOCK: a named pipe must not hang us; it changes nothing for regular files.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise path_error(error, path) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CommandError("not-a-file", f"{path}: is not a regular file", 2)
        yield descriptor
    finally:
        os.close(descriptor)
