"""One get: what is durable of it, what is shown of it, and nothing of what is done (gets.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import trio

from daemon.ending import Ending
from daemon.meter import Meter
from daemon.putrecord import error_json
from protocol.bitmap import Bitmap
from protocol.errors import CommandError
from protocol.ids import NodeId, Tag

FINISHED_MAX = 500


class GetState(StrEnum):
    """Where a get is."""

    SEARCHING = "searching"  # nobody who has it is linked yet, or any more
    FETCHING = "fetching"
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing will happen any more."""
        return self in (GetState.DONE, GetState.FAILED, GetState.CANCELLED)


@dataclass(slots=True, eq=False)
class Get(Ending):
    """A file on its way to ``target``. ``durable``: the chunks that are safely in ``part``."""

    number: int
    tag: Tag
    size_bytes: int
    name: str
    target: Path
    part: Path
    began: int  # wall clock, whole seconds
    durable: Bitmap
    state: GetState = GetState.SEARCHING
    paused: bool = False
    error: CommandError | None = None
    seconds: float | None = None
    note: str = ""
    bytes_done: int = 0
    from_nodes: dict[NodeId, int] = field(default_factory=dict)
    changed: trio.Event = field(default_factory=trio.Event)
    meter: Meter = field(default_factory=Meter)

    @property
    def id(self) -> str:
        """What the user calls it by."""
        return f"g{self.number}"

    def touch(self) -> None:
        """Wake whoever watches."""
        self.changed.set()
        self.changed = trio.Event()

    def progress(self, now: float) -> dict[str, Any]:
        """Return what a watcher is told."""
        eta_seconds = self.meter.eta_seconds(now, self.size_bytes - self.bytes_done)
        return {
            "id": self.id,
            "path": str(self.target),
            "name": self.name,
            "tag": str(self.tag),
            "state": self.state.value,
            "bytes_total": self.size_bytes,
            "bytes_done": self.bytes_done,
            "rate": round(self.meter.rate(now)),
            "eta_seconds": round(eta_seconds, 1) if eta_seconds is not None else None,
            "from": dict(self.from_nodes),
            "paused": self.paused,
            "note": self.note,
        }

    def result(self) -> dict[str, Any]:
        """Return what the caller of ``get`` gets in the end."""
        found: dict[str, Any] = {
            "id": self.id,
            "tag": str(self.tag),
            "size": self.size_bytes,
            "name": self.name,
            "path": str(self.target),
            "state": self.state.value,
            "seconds": self.seconds,
            "instant": False,
            "from": dict(self.from_nodes),
        }
        if self.error is not None:
            found["error"] = error_json(self.error)
        return found


# --- rows ---


def insert_get(cursor: Any, tag: Tag, size_bytes: int, name: str, target: Path, part: Path, began: int) -> int:
    """Write down a new get and return its number."""
    cursor.execute(
        "INSERT INTO gets (tag, size_bytes, name, target, part, bitmap, state, began) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            tag.to_bytes(),
            size_bytes,
            name,
            bytes(target),
            bytes(part),
            Bitmap(tag.chunks).to_bytes(),
            GetState.SEARCHING.value,
            began,
        ),
    )
    number: int = cursor.execute("SELECT last_insert_rowid()").fetchone()[0]
    return number


def durable_chunks(cursor: Any, tag: Tag, part: Path) -> Bitmap:
    """Return what an earlier get left in ``part``."""
    row = cursor.execute(
        "SELECT bitmap FROM gets WHERE tag = ? AND part = ? ORDER BY id DESC LIMIT 1", (tag.to_bytes(), bytes(part))
    ).fetchone()
    return Bitmap.from_bytes(tag.chunks, row[0]) if row is not None else Bitmap(tag.chunks)


def row_of_get(get: Get) -> tuple[Any, ...]:
    """Return the values that ``update_get`` writes, taken on the spot."""
    error = get.error
    return (
        get.durable.to_bytes(),
        get.state.value,
        int(get.paused),
        error.sentence if error is not None else None,
        error.code if error is not None else None,
        error.exit_code if error is not None else None,
        get.seconds,
        get.number,
    )


def update_get(cursor: Any, row: tuple[Any, ...]) -> None:
    """Write down how a get stands."""
    cursor.execute(
        "UPDATE gets SET bitmap = ?, state = ?, paused = ?, error = ?, error_code = ?, error_exit = ?, seconds = ?"
        " WHERE id = ?",
        row,
    )


def forget_gets(cursor: Any) -> None:
    """Forget the oldest finished gets."""
    cursor.execute(
        "DELETE FROM gets WHERE state IN ('done', 'failed', 'cancelled') AND id NOT IN"
        " (SELECT id FROM gets WHERE state IN ('done', 'failed', 'cancelled') ORDER BY id DESC LIMIT ?)",
        (FINISHED_MAX,),
    )


def read_gets(cursor: Any) -> list[Get]:
    """Return all gets that are remembered, oldest first."""
    return [
        _get_of(row)
        for row in cursor.execute(
            "SELECT id, tag, size_bytes, name, target, part, bitmap, state, paused, error, error_code, error_exit,"
            " began, seconds FROM gets ORDER BY id"
        )
    ]


def _get_of(row: tuple[Any, ...]) -> Get:
    number, tag_bytes, size_bytes, name, target, part, bitmap = row[:7]
    state, paused, error, code, exit_code, began, seconds = row[7:]
    tag = Tag.from_bytes(tag_bytes)
    get = Get(number, tag, size_bytes, name, _path(target), _path(part), began, Bitmap.from_bytes(tag.chunks, bitmap))
    get.state, get.paused, get.seconds = GetState(state), bool(paused), seconds
    get.error = CommandError(code, error, exit_code) if error is not None else None
    if get.state is GetState.DONE:
        get.bytes_done = size_bytes
    return get


def _path(data: bytes) -> Path:
    return Path(data.decode("utf-8", "surrogateescape"))
