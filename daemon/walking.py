"""What a put of a path means: that file, or every file below that folder, each under its relative name.

Links are never followed and named in the answer, like whatever else is no regular file; unfinished downloads of ours
are left out. Looks at names only, opens nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from daemon.hashing import read_error
from daemon.naming import is_part, name_of_parts
from protocol.errors import CommandError, NotFound
from runtime.seam import Disk

# A put of more is a mistake, or a job for several puts: each file is a row, a task, and a line of progress.
FILES_MAX = 100_000
DEPTH_MAX = 64


@dataclass(frozen=True, slots=True)
class Found:
    """A file to put."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """What is not put, and why."""

    path: Path
    reason: str


def find_files(disk: Disk, path: Path, name: str | None) -> tuple[list[Found], list[Skipped]]:
    """Return the files that a put of ``path`` means. ``name`` replaces a file's own name, and goes before those of a
    folder's files. Runs in a thread.

    Raises:
        NotFound: nothing is there.
        CommandError: it is neither file nor folder, cannot be read, or holds too many.
    """
    prefix = [part for part in name.split("/") if part] if name else []
    try:
        kind = disk.status(path).kind
    except OSError as error:
        raise read_error(error, path) from error
    if kind == "file":
        return [Found(path, name_of_parts(prefix or [path.name]))], []
    if kind != "folder":
        word = "a link; name what it points to" if kind == "link" else "neither a file nor a folder"
        raise CommandError("not-a-file", f"{path} is {word}", 2)
    found: list[Found] = []
    skipped: list[Skipped] = []
    _walk(disk, path, prefix, found, skipped)
    if not found:
        raise NotFound(f"{path}: no file to put in there")
    return found, skipped


def _walk(disk: Disk, folder: Path, parts: list[str], found: list[Found], skipped: list[Skipped]) -> None:
    if len(parts) > DEPTH_MAX:
        skipped.append(Skipped(folder, "too deep"))
        return
    try:
        names = disk.list_folder(folder)
    except OSError as error:
        skipped.append(Skipped(folder, f"cannot be read: {error.strerror}"))
        return
    for name in names:
        path = folder / name
        try:
            kind = disk.status(path).kind
        except OSError as error:
            skipped.append(Skipped(path, f"cannot be read: {error.strerror}"))
            continue
        if kind == "folder":
            _walk(disk, path, [*parts, name], found, skipped)
        elif kind == "link":
            skipped.append(Skipped(path, "a link, not followed"))
        elif kind != "file":
            skipped.append(Skipped(path, "not a regular file"))
        elif is_part(name):
            skipped.append(Skipped(path, "an unfinished download"))
        else:
            try:
                found.append(Found(path, name_of_parts([*parts, name])))
            except CommandError as error:
                skipped.append(Skipped(path, error.sentence))
        if len(found) + len(skipped) > FILES_MAX:
            raise CommandError("too-many", f"more than {FILES_MAX} files at once; put its folders one by one", 2)
