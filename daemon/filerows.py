"""Complete files as rows of the database: what is known of one, and how it is written down. Library.py decides when,
known.py keeps the rows in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from protocol.ids import Tag
from protocol.manifest import Layout, Manifest
from runtime.seam import FileStatus

Origin = Literal["put", "share", "get"]


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A complete file. ``since``: wall clock, whole seconds, when we got it."""

    path: Path
    tag: Tag
    status: FileStatus
    name: str
    origin: Origin
    shared: bool
    since: int

    @property
    def layout(self) -> Layout:
        """How it is cut into chunks."""
        return Layout.of_size(self.status.size_bytes)


# A row of the table: path, tag, size_bytes, mtime_ns, ctime_ns, inode, device, name, origin, shared, since.
FileRow = tuple[bytes, bytes, int, int, int, int, int, str, Origin, int, int]
COLUMN_PATH: Final = 0
COLUMN_TAG: Final = 1
COLUMN_SIZE: Final = 2
COLUMN_NAME: Final = 7
COLUMN_SHARED: Final = 9
COLUMN_SINCE: Final = 10


def read_files(cursor: Any) -> list[FileRow]:
    """Return all, by path."""
    return list(cursor.execute(_SELECT_FILES))


def write_file(cursor: Any, file: KnownFile, manifest: Manifest) -> None:
    """Insert or replace a file and the manifest of its tag."""
    write_manifest(cursor, manifest)
    cursor.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row_of(file))


def delete_files(cursor: Any, paths: list[Path]) -> None:
    """Delete files by path; their manifests stay until the next start."""
    cursor.executemany("DELETE FROM files WHERE path = ?", [(bytes(path),) for path in paths])


def read_manifest(cursor: Any, tag: Tag) -> tuple[int, bytes] | None:
    """Return size and joined digests, or None."""
    row: tuple[int, bytes] | None = cursor.execute(
        "SELECT size_bytes, digests FROM manifests WHERE tag = ?", (tag.to_bytes(),)
    ).fetchone()
    return row


def write_manifest(cursor: Any, manifest: Manifest) -> None:
    """Insert a manifest. One that is there already differs in its size at most, and the newer word counts."""
    cursor.execute(
        "INSERT OR REPLACE INTO manifests VALUES (?, ?, ?)",
        (manifest.tag.to_bytes(), manifest.size_bytes, manifest.joined_digests()),
    )


def delete_manifest(cursor: Any, tag: Tag) -> None:
    """Delete the manifest of ``tag``."""
    cursor.execute("DELETE FROM manifests WHERE tag = ?", (tag.to_bytes(),))


def delete_spare_manifests(cursor: Any) -> None:
    """Delete the manifests that no file, put or download needs any more."""
    cursor.execute(
        "DELETE FROM manifests WHERE tag NOT IN"
        " (SELECT tag FROM files UNION SELECT tag FROM gets UNION SELECT tag FROM puts WHERE tag IS NOT NULL)"
    )


_SELECT_FILES = """
SELECT path, tag, size_bytes, mtime_ns, ctime_ns, inode, device, name, origin, shared, since FROM files ORDER BY path
"""


def file_of(row: FileRow) -> KnownFile:
    """Return the file that a row tells of."""
    _, tag, *_, name, origin, shared, since = row
    return KnownFile(path_of(row), Tag.from_bytes(tag), status_of(row), name, origin, bool(shared), since)


def path_of(row: FileRow) -> Path:
    """Return where the file lies that a row tells of."""
    return Path(row[COLUMN_PATH].decode("utf-8", "surrogateescape"))


def status_of(row: FileRow) -> FileStatus:
    """Return what identified the file of a row when it was hashed."""
    _, _, size_bytes, mtime_ns, ctime_ns, inode, device, *_ = row
    return FileStatus("file", size_bytes, mtime_ns, ctime_ns, inode & _MASK, device & _MASK)


def row_of(file: KnownFile) -> FileRow:
    """Return the row that tells of a file."""
    status = file.status
    return (
        bytes(file.path),
        file.tag.to_bytes(),
        status.size_bytes,
        status.mtime_ns,
        status.ctime_ns,
        _signed(status.inode),
        _signed(status.device),
        file.name,
        file.origin,
        int(file.shared),
        file.since,
    )


# Inodes are unsigned 64-bit numbers on some file systems, SQLite's integers are signed.
_MASK = 2**64 - 1


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
