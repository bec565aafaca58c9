"""One put: what is durable of it, what is shown of it, and nothing of what is done (puts.py, desk.py).

The row is written at each change of state, never for progress: after a kill the storage node knows better than we what
it has.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import trio

from daemon.ending import Ending
from daemon.meter import Meter
from protocol.errors import CommandError
from protocol.ids import NodeAddress, NodeId, Role, Tag, parse_node_id
from protocol.invite import Link as FileLink

# Finished puts that are remembered, for ``status`` and ``show``.
FINISHED_MAX = 500


class PutState(StrEnum):
    """Where a put is."""

    HASHING = "hashing"
    ASKING = "asking"
    SENDING = "sending"
    COMMITTING = "committing"
    STORED = "stored"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing will happen any more."""
        return self in (PutState.STORED, PutState.FAILED, PutState.CANCELLED)


@dataclass(slots=True, eq=False)
class Put(Ending):
    """A file on its way to storage. ``note``: why it is waiting, for people."""

    number: int
    path: Path
    name: str
    began: int  # wall clock, whole seconds
    expires_seconds: int | None = None  # how long its name shall hold once it is stored; None: as storage is set
    state: PutState = PutState.HASHING
    tag: Tag | None = None
    paused: bool = False
    instant: bool = False
    storage: NodeAddress | None = None
    error: CommandError | None = None
    seconds: float | None = None  # how long it took; None while it lasts
    note: str = ""
    offered: bool = False  # a storage node did not have it already: not instant, whoever sent it
    misses: int = 0  # its storage node could not be reached so often in a row
    bytes_total: int = 0
    bytes_hashed: int = 0
    bytes_stored: int = 0
    safe: bool = False
    pushed: dict[NodeId, int] = field(default_factory=dict)
    changed: trio.Event = field(default_factory=trio.Event)
    listeners: list[Callable[[Put], None]] = field(default_factory=list)  # who hears of each change at once
    hashing: Meter = field(default_factory=Meter)
    storing: Meter = field(default_factory=Meter)

    @property
    def id(self) -> str:
        """What the user calls it by."""
        return f"p{self.number}"

    def touch(self) -> None:
        """Wake whoever watches."""
        self.changed.set()
        self.changed = trio.Event()
        for heard in self.listeners:
            heard(self)

    def progress(self, now: float) -> dict[str, Any]:
        """Return what a watcher is told."""
        hashing = self.state is PutState.HASHING
        meter, done = (self.hashing, self.bytes_hashed) if hashing else (self.storing, self.bytes_stored)
        eta_seconds = meter.eta_seconds(now, self.bytes_total - done)
        return {
            "id": self.id,
            "path": str(self.path),
            "name": self.name,
            "tag": str(self.tag) if self.tag is not None else None,
            "state": self.state.value,
            "bytes_total": self.bytes_total,
            "bytes_hashed": self.bytes_hashed,
            "bytes_stored": self.bytes_stored,
            "rate": round(meter.rate(now)),
            "eta_seconds": round(eta_seconds, 1) if eta_seconds is not None else None,
            "pushed": dict(self.pushed),
            "safe": self.safe,
            "paused": self.paused,
            "note": self.note,
        }

    def result(self) -> dict[str, Any]:
        """Return what the caller of ``put`` gets in the end."""
        link = str(FileLink(tag=self.tag, name=self.name, size_bytes=self.bytes_total)) if self.tag else None
        found: dict[str, Any] = {
            "id": self.id,
            "path": str(self.path),
            "name": self.name,
            "tag": str(self.tag) if self.tag is not None else None,
            "size": self.bytes_total,
            "link": link,
            "state": self.state.value,
            "seconds": self.seconds,
            "instant": self.instant,
            "safe": self.safe or self.state is PutState.STORED,
            "pushed": dict(self.pushed),
        }
        if self.error is not None:
            found["error"] = error_json(self.error)
        return found


def error_json(error: CommandError) -> dict[str, Any]:
    """Return an error as results carry it."""
    return {"code": error.code, "message": error.sentence, "exit_code": error.exit_code}


# --- rows ---


def insert_put(cursor: Any, path: Path, name: str, began: int) -> int:
    """Write down a new put and return its number."""
    cursor.execute(
        "INSERT INTO puts (path, name, state, began) VALUES (?, ?, ?, ?)",
        (bytes(path), name, PutState.HASHING.value, began),
    )
    number: int = cursor.execute("SELECT last_insert_rowid()").fetchone()[0]
    return number


def insert_puts(
    cursor: Any, files: list[tuple[Path, str]], began: int, expires_seconds: int | None = None
) -> list[int]:
    """Write down new puts of (path, name) and return their numbers."""
    numbers = [insert_put(cursor, path, name, began) for path, name in files]
    if expires_seconds is not None:
        cursor.executemany("INSERT INTO put_terms VALUES (?, ?)", [(number, expires_seconds) for number in numbers])
    return numbers


def row_of_put(put: Put, found: Tag | None = None) -> tuple[Any, ...]:
    """Return the values that ``update_put`` writes, taken on the spot. ``found``: the tag that it is about to have."""
    error = put.error
    tag, state = (put.tag, put.state) if found is None else (found, PutState.ASKING)
    return (
        tag.to_bytes() if tag is not None else None,
        state.value,
        int(put.paused),
        int(put.instant),
        address_json(put.storage) if put.storage is not None else None,
        error.sentence if error is not None else None,
        error.code if error is not None else None,
        error.exit_code if error is not None else None,
        put.seconds,
        put.number,
    )


def update_put(cursor: Any, row: tuple[Any, ...]) -> None:
    """Write down how a put stands."""
    cursor.execute(
        "UPDATE puts SET tag = ?, state = ?, paused = ?, instant = ?, storage = ?, error = ?, error_code = ?,"
        " error_exit = ?, seconds = ? WHERE id = ?",
        row,
    )


def forget_puts(cursor: Any) -> None:
    """Forget the oldest finished puts."""
    cursor.execute(
        "DELETE FROM puts WHERE state IN ('stored', 'failed', 'cancelled') AND id NOT IN"
        " (SELECT id FROM puts WHERE state IN ('stored', 'failed', 'cancelled') ORDER BY id DESC LIMIT ?)",
        (FINISHED_MAX,),
    )


def read_puts(cursor: Any) -> list[Put]:
    """Return all puts that are remembered, oldest first."""
    return [
        _put_of(row)
        for row in cursor.execute(
            "SELECT puts.id, path, name, began, state, puts.tag, paused, instant, storage, error, error_code,"
            " error_exit, seconds, manifests.size_bytes, put_terms.expires_seconds"
            " FROM puts LEFT JOIN manifests ON manifests.tag = puts.tag"
            " LEFT JOIN put_terms ON put_terms.id = puts.id ORDER BY puts.id"
        )
    ]


def _put_of(whole: tuple[Any, ...]) -> Put:
    *row, expires_seconds = whole
    number, path, name, began, state, tag, paused, instant, storage, error, code, exit_code, seconds, size_bytes = row
    where = Path(path.decode("utf-8", "surrogateescape"))
    put = Put(number, where, name, began, expires_seconds, PutState(state))
    put.tag = Tag.from_bytes(tag) if tag is not None else None
    put.paused, put.instant, put.seconds = bool(paused), bool(instant), seconds
    put.storage = address_of_json(storage) if storage is not None else None
    put.offered = put.storage is not None  # an earlier life may have; nobody wrote it down
    put.error = CommandError(code, error, exit_code) if error is not None else None
    put.bytes_total = size_bytes or 0
    if put.state is PutState.STORED:
        put.bytes_hashed = put.bytes_stored = put.bytes_total
        put.safe = True
    return put


def address_json(address: NodeAddress) -> str:
    """Return a node address as a row keeps it."""
    return json.dumps([address.node, address.role.value, list(address.addresses)])


def address_of_json(text: str) -> NodeAddress:
    """Return the node address of a row."""
    node, role, addresses = json.loads(text)
    return NodeAddress(parse_node_id(node), Role(role), tuple(addresses))
