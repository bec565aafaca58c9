"""Where a download goes, and how it gets there: beside its target first, then into place by one step.

Never overwrites a different file, never follows a link that lies in the way of a name from the network. The step is a
hard link (it fails when the target exists), or a rename where the file system has no links.
"""

from __future__ import annotations

import errno
from pathlib import Path

from daemon.hashing import hash_file, read_error
from daemon.naming import PART_BYTES_MAX, safe_parts
from protocol.errors import CommandError, NotFound, StorageBroken, StorageError, StorageFull
from protocol.ids import Tag
from protocol.manifest import Manifest
from runtime.seam import Disk, FileStatus, Runtime


async def choose_target(runtime: Runtime, output: Path | None, folder: Path, name: str, tag: Tag) -> Path:
    """Return the path for a download: ``output``, or ``name`` below it when it is a folder, or below ``folder``.

    The folder it lies in is there afterwards.

    Raises:
        CommandError: the name is not safe, a link or a file is in the way, or the folder cannot be made.
    """

    def choose() -> Path:
        disk = runtime.disk
        base: Path
        parts: tuple[str, ...]
        if output is not None and not _is_folder(disk, output):
            if len(bytes(Path(output.name))) > PART_BYTES_MAX or not output.name:
                raise CommandError("bad-path", f"{output}: not a possible file name", 2)
            base, parts = output.parent, (output.name,)
        else:
            base, parts = output or folder, safe_parts(name or str(tag))
        _make_folder(disk, base)
        here = base
        for part in parts[:-1]:
            here = here / part
            kind = _kind(disk, here)
            if kind not in (None, "folder"):
                raise CommandError("in-the-way", f"{here} is in the way: it is no folder; say -o PATH", 6)
            _make_folder(disk, here)
        return here / parts[-1]

    return await runtime.run_sync(choose)


async def is_there(runtime: Runtime, target: Path, manifest: Manifest) -> FileStatus | None:
    """Return what identifies ``target`` if it is that very file already; None when nothing is there.

    Raises:
        CommandError: something else is there.
    """
    try:
        status = await runtime.run_sync(runtime.disk.status, target)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise read_error(error, target) from error
    if status.kind == "file" and status.size_bytes == manifest.size_bytes:
        try:
            found, status = await hash_file(runtime, target)
        except NotFound:
            return None
        if found.tag == manifest.tag:
            return status
    raise exists_error(target)


async def place(runtime: Runtime, part: Path, target: Path) -> FileStatus | None:
    """Give the finished ``part`` its name ``target``, durably; None when something has taken that name meanwhile.

    Raises:
        CommandError: it cannot be done.
    """

    def step() -> FileStatus | None:
        disk = runtime.disk
        # Before it has its name, so that nobody finds it unreadable.
        disk.publish(part)
        try:
            if not disk.link_new(part, target):
                return None
        except StorageBroken:
            # No hard links here (FAT, some network file systems): rename replaces, so look first.
            if _kind(disk, target) is not None:
                return None
            disk.rename(part, target)
        disk.sync_folder(target.parent)
        disk.remove(part)
        disk.sync_folder(target.parent)
        return disk.status(target)

    try:
        return await runtime.run_sync(step)
    except StorageError as error:
        raise write_error(error, target) from error
    except OSError as error:
        raise read_error(error, target) from error


def exists_error(target: Path) -> CommandError:
    """Return the error for a target that is another file."""
    return CommandError("exists", f"{target} is there already and is another file; move it away, or say -o PATH", 6)


def write_error(error: StorageError, path: Path) -> CommandError:
    """Return ours for a failed write at a place that the user chose: it ends that download, not the daemon.

    (A database that cannot be written is another matter: StorageBroken passes through there.)
    """
    if isinstance(error, StorageFull):
        return CommandError("no-space", f"no room for {path}: {_why(error)}; the same get goes on when there is", 9)
    return CommandError("cannot-write", f"cannot write {path}: {_why(error)}", 1)


def _why(error: StorageError | OSError) -> str:
    """Return what the system said of a path that is named already."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return (isinstance(cause, OSError) and cause.strerror) or str(error)


def _kind(disk: Disk, path: Path) -> str | None:
    """Return what is at ``path``, links not followed; None when nothing is."""
    try:
        return disk.status(path).kind
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise read_error(error, path) from error


def _is_folder(disk: Disk, path: Path) -> bool:
    """Whether the user named a folder, perhaps by a link to it."""
    try:
        disk.list_folder(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            # No folder can be called so; whether a file may is another's to say.
            return False
        raise read_error(error, path) from error
    return True


def _make_folder(disk: Disk, path: Path) -> None:
    try:
        # The user's, like the file that comes into it.
        disk.make_folder(path, public=True)
    except (StorageError, OSError) as error:
        if isinstance(error.__cause__, FileExistsError | NotADirectoryError):
            raise CommandError("in-the-way", f"{path}: a file is in the way of this folder; say -o PATH", 6) from error
        raise CommandError("cannot-write", f"{path}: the folder cannot be made: {_why(error)}", 1) from error
