"""Paths that somebody typed: what the file system says of one becomes a sentence and an exit code.

Decides nothing about what may be put: the daemon does (daemon/walking.py). A name too long for any file counts as
"nothing is there", as nothing can be.
"""

from __future__ import annotations

import errno
from pathlib import Path

from protocol.errors import CommandError

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def path_error(error: OSError, path: Path) -> CommandError:
    """Return ours for what the file system said when it was asked for ``path``."""
    absent = error.errno in _ABSENT
    return CommandError("not-found" if absent else "unreadable", f"{path}: {error.strerror}", 4 if absent else 1)


def check_there(path: Path) -> None:
    """Pass when something is at ``path``, links followed.

    Raises:
        CommandError: nothing is, or nobody may look.
    """
    try:
        path.stat()
    except OSError as error:
        raise path_error(error, path) from error


def is_there(path: Path) -> bool:
    """Whether something is at ``path`` that we may look at."""
    try:
        path.stat()
    except OSError:
        # Then it is no path of ours, but a name or a tag.
        return False
    return True


def check_folder(typed: str) -> None:
    """Pass unless ``typed`` ends with a slash, so means a folder, and is none.

    Raises:
        CommandError: so it is; without the slash it would name a file.
    """
    if typed.endswith("/") and not Path(typed).is_dir():
        raise CommandError("not-found", f"{typed}: no such folder; make it first, or name a file without the slash", 4)


def current_folder() -> Path:
    """Return the folder one stands in.

    Raises:
        CommandError: it is gone.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise CommandError(
            "not-found", "the current folder is gone; go elsewhere, or name absolute paths", 4
        ) from error
