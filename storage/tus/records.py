"""Unfinished tus uploads on the disk: for each a record (``<id>.json``) and its bytes so far (``<id>.part``).

The record says how many bytes are durable. It is written after they are, so what a client was told survives a power
cut; bytes in the file beyond that do not count. Called in threads; decides nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from protocol.errors import StorageBroken
from protocol.ids import Tag
from protocol.limits import FILE_BYTES_MAX
from runtime.seam import Disk

log = structlog.get_logger()

ID_CHARACTERS = 32
_RECORD_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One upload. ``metadata``: as the client sent it; ``moved_at``: when it last grew (wall clock); ``tag``: known
    once all bytes are here; ``stored``: it is a stored file now; ``failed``: why it never will be."""

    id: str
    length: int
    offset: int = 0
    metadata: str = ""
    name: str = ""
    moved_at: float = 0.0
    tag: str = ""
    stored: bool = False
    failed: str = ""


def is_id(text: str) -> bool:
    """Whether ``text`` can be the id of an upload; only then it may become a file name."""
    return len(text) == ID_CHARACTERS and all(letter in "0123456789abcdef" for letter in text)


class Records:
    """All records in ``folder``. Reading errors are ``StorageBroken``: the disk's."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self._disk = disk
        self._folder = folder

    def data_path(self, id: str) -> Path:
        """Return where the bytes of an upload are."""
        assert is_id(id)
        return self._folder / f"{id}.part"

    def _path(self, id: str) -> Path:
        assert is_id(id)
        return self._folder / f"{id}.json"

    def write(self, record: Record) -> None:
        """Write a record, durably."""
        self._disk.write_small(self._path(record.id), json.dumps(asdict(record)).encode())

    def remove(self, id: str) -> None:
        """Remove an upload, durably; absent is fine."""
        # The record first: bytes without a record are removed at the next start.
        self._disk.remove(self._path(id))
        self._disk.remove(self.data_path(id))
        self._disk.sync_folder(self._folder)

    def has_data(self, id: str) -> bool:
        """Whether the bytes are (still) here."""
        try:
            return self._disk.status(self.data_path(id)).kind == "file"
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StorageBroken(f"{self.data_path(id)}: {error}") from error

    def load(self) -> list[Record]:
        """Make the folder if there is none, and return all records; what belongs to none is removed."""
        try:
            self._disk.make_folder(self._folder)
            names = self._disk.list_folder(self._folder)
            found = [self._read(name) for name in names if name.endswith(".json") and is_id(name.removesuffix(".json"))]
        except OSError as error:
            raise StorageBroken(f"{self._folder}: {error}") from error
        records = [record for record in found if record is not None]
        known = {f"{record.id}{ending}" for record in records for ending in (".json", ".part")}
        for name in names:
            if name not in known and is_id(name.rpartition(".")[0]):
                log.info("removed what belongs to no upload", name=name)
                self._disk.remove(self._folder / name)
        return records

    def _read(self, name: str) -> Record | None:
        try:
            raw = json.loads(self._disk.read_small(self._folder / name, _RECORD_BYTES_MAX))
            record = Record(**raw)
            if record.tag:
                Tag.parse(record.tag)
            right = record.id == name.removesuffix(".json") and 0 <= record.offset <= record.length <= FILE_BYTES_MAX
        except (ValueError, TypeError):
            right = False
        if not right:
            log.warning("a record of an upload cannot be read", name=name)
            return None
        return record
