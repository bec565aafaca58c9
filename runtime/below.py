"""Opening a file below a folder without following a link at any step, whoever swaps folders for links meanwhile.

Each step begins where the last one led, at a descriptor: there is no path between two looks that could be another one
by now. Considered: openat2 with RESOLVE_BENEATH. Only Linux has it, and Python has no name for it.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def open_below(folder: Path, path: Path) -> int:
    """Return a descriptor, for reading, of what is at ``path`` below ``folder``; it need not be a regular file.

    Raises:
        OSError: something is not there, may not be read, or is a link.
    """
    *folders, name = path.relative_to(folder).parts
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in folders:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            deeper = os.open(part, flags, dir_fd=place)
            os.close(place)
            place = deeper
        # O_NONBLOCK: opening a named pipe must not hang.
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=place)
    finally:
        os.close(place)


def checked_regular(descriptor: int, path: Path) -> int:
    """Return ``descriptor``, which is open at ``path``.

    Raises:
        OSError: it is no regular file's; it is closed then.
    """
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor
