"""The complete files that we know, in memory: by path, and by tag. Library.py decides what is in here.

A hundred thousand files are known at once and a handful is asked for, so they are kept as the rows that the database
gave (filerows.py), and each is made into a ``KnownFile`` when somebody wants it. Made at the start, with paths, tags
and times as objects, they took longer than everything else a daemon does before it is ready, and twice the memory.

Pure: looks at no disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from daemon.filerows import (
    COLUMN_NAME,
    COLUMN_PATH,
    COLUMN_SHARED,
    COLUMN_SINCE,
    COLUMN_SIZE,
    COLUMN_TAG,
    FileRow,
    KnownFile,
    file_of,
    row_of,
)
from protocol.ids import Tag

# A transfer asks for its file again with every block.
MADE_MAX = 1024


class KnownFiles:
    """See above. Each path has one file at most."""

    def __init__(self, rows: Iterable[FileRow] = ()) -> None:
        self._rows: dict[bytes, FileRow] = {}
        # Nearly every tag has one file, and a dict for each would take more room than the row.
        self._paths: dict[bytes, bytes | dict[bytes, None]] = {}
        self._made: dict[bytes, KnownFile] = {}
        for row in rows:
            self._enter(row)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, tag: Tag) -> bool:
        return tag.to_bytes() in self._paths

    def get(self, path: Path) -> KnownFile | None:
        """Return the file at ``path``."""
        key = bytes(path)
        return self._file(key) if key in self._rows else None

    def of(self, tag: Tag) -> list[KnownFile]:
        """Return the files of this tag, the one known longest first."""
        return [self._file(key) for key in self._keys(tag)]

    def first(self, tag: Tag) -> KnownFile | None:
        """Return the file of this tag that is known longest."""
        return next((self._file(key) for key in self._keys(tag)), None)

    def size_bytes(self, tag: Tag) -> int | None:
        """Return how large the files of this tag are; None when there is none."""
        return next((self._rows[key][COLUMN_SIZE] for key in self._keys(tag)), None)

    def names(self, tag: Tag) -> tuple[int, list[str]]:
        """Return since when we have the newest file of this tag, and the names of all, the newest first. There must be
        one."""
        rows = [self._rows[key] for key in self._keys(tag)]
        if len(rows) > 1:
            rows.sort(key=lambda row: (-row[COLUMN_SINCE], row[COLUMN_PATH]))
        return rows[0][COLUMN_SINCE], list(dict.fromkeys(row[COLUMN_NAME] for row in rows if row[COLUMN_NAME]))

    def is_shared(self, tag: Tag) -> bool:
        """Return whether a file of this tag is shared."""
        return any(self._rows[key][COLUMN_SHARED] for key in self._keys(tag))

    def named(self, name: str) -> list[KnownFile]:
        """Return the files of this name."""
        return [self._file(key) for key, row in self._rows.items() if row[COLUMN_NAME] == name]

    def tags(self) -> list[Tag]:
        """Return every tag, once."""
        return [Tag.from_bytes(tag) for tag in self._paths]

    def files(self) -> list[KnownFile]:
        """Return all files, by path."""
        return [file_of(self._rows[key]) for key in sorted(self._rows)]

    def rows(self) -> list[FileRow]:
        """Return the rows of all files."""
        return list(self._rows.values())

    def still(self, row: FileRow) -> bool:
        """Return whether this very row, and no newer one, stands for its path."""
        return self._rows.get(row[COLUMN_PATH]) is row

    def enter(self, file: KnownFile) -> None:
        """Know a file from now on. What stood for its path must have left, unless it has the same tag."""
        self._enter(row_of(file))

    def leave(self, file: KnownFile) -> None:
        """Know the file at this path no longer."""
        key = bytes(file.path)
        row = self._rows.pop(key)
        self._made.pop(key, None)
        paths = self._paths[row[COLUMN_TAG]]
        if isinstance(paths, dict):
            del paths[key]
        if not isinstance(paths, dict) or not paths:
            del self._paths[row[COLUMN_TAG]]

    def _enter(self, row: FileRow) -> None:
        key, tag = row[COLUMN_PATH], row[COLUMN_TAG]
        before = self._rows.get(key)
        assert before is None or before[COLUMN_TAG] == tag
        self._rows[key] = row
        self._made.pop(key, None)
        paths = self._paths.setdefault(tag, key)
        if isinstance(paths, dict):
            paths[key] = None
        elif paths != key:
            self._paths[tag] = {paths: None, key: None}

    def _keys(self, tag: Tag) -> Iterable[bytes]:
        paths = self._paths.get(tag.to_bytes(), ())
        return (paths,) if isinstance(paths, bytes) else paths

    def _file(self, key: bytes) -> KnownFile:
        file = self._made.get(key)
        if file is None:
            if len(self._made) >= MADE_MAX:
                self._made.clear()
            file = self._made[key] = file_of(self._rows[key])
        return file
