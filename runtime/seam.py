"""The seam: everything a program may want from outside, as interfaces. Nothing else reaches clocks, threads or disks.

``Runtime`` is handed to whatever needs it. The real one is in real.py and thin; a simulated one runs a whole swarm in
one process from one seed. Sleeping and deadlines are trio's own (a mock clock replaces them); what is measured or
shown goes through ``Clock``.

Disk calls are synchronous and belong inside ``await runtime.run_sync(...)``.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Buffer = bytes | bytearray | memoryview
Random = random.Random  # the type; the generator itself is ``Runtime.random``


class Clock(Protocol):
    """Two clocks: durations come from ``monotonic`` only, ``wall`` is for display and for an issuer's own expiry."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        ...

    def wall(self) -> float:
        """Return seconds since 1970 as the machine believes; may jump."""
        ...


@dataclass(frozen=True, slots=True)
class LineState:
    """What the kernel knows of a connection's way. ``base_seconds``: the shortest round trip of the last minutes.
    ``acked_bytes`` and ``lost_segments``: since it was opened."""

    round_trip_seconds: float
    base_seconds: float
    acked_bytes: int
    lost_segments: int


class Line(Protocol):
    """The way of one connection."""

    def look(self) -> LineState | None:
        """Return how it is now; None when the connection has ended."""
        ...

    def pace(self, bytes_per_second: float | None) -> None:
        """Let the kernel send no faster than this, evenly; None: as fast as it can."""
        ...


class ByteStream(Protocol):
    """One connection. One task sends, one receives."""

    @property
    def line(self) -> Line | None:
        """What can be seen of its way; None where nothing can."""
        ...

    @property
    def remote(self) -> str:
        """``host:port`` of the other side as we see it; for logs and limits, never for identity."""
        ...

    async def send_all(self, data: Buffer) -> None:
        """Send everything.

        Raises:
            LinkLost: the connection broke. After a cancellation the stream is torn: close it.
        """
        ...

    async def receive_into(self, target: memoryview) -> int:
        """Put at least one byte into ``target`` and return how many; 0 when they hung up.

        Raises:
            LinkLost: the connection broke.
        """
        ...

    def close(self) -> None:
        """Close at once; nothing waits."""
        ...


class Listener(Protocol):
    """A place where connections arrive."""

    @property
    def address(self) -> str:
        """``host:port`` it really listens on."""
        ...

    async def accept(self) -> ByteStream:
        """Return the next connection. Waits while the process has no descriptors left; never raises for one caller."""
        ...

    def close(self) -> None:
        """Stop listening."""
        ...


class Network(Protocol):
    """TCP, or what a simulation makes of it."""

    async def dial(self, host: str, port: int) -> ByteStream:
        """Connect.

        Raises:
            LinkLost: refused, unreachable or too slow.
        """
        ...

    async def listen(self, host: str, port: int) -> Listener:
        """Listen; port 0 is any free one.

        Raises:
            ConfigError: the address cannot be used.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What identifies an unchanged file. ``kind`` is file, folder, link or other.

    The device is not compared: a network share, a btrfs volume or a USB disk may have another number each time it is
    mounted. A different file with the same inode, size and both times to the nanosecond is no accident.
    """

    kind: str
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int = field(compare=False)


class File(Protocol):
    """An open file; positions are always given, so that threads may share it."""

    def read_into(self, target: memoryview, offset: int) -> int:
        """Fill ``target`` from ``offset``; return how many bytes, fewer only at the end of the file."""
        ...

    def write(self, data: Buffer, offset: int) -> None:
        """Write all of ``data`` at ``offset``.

        Raises:
            StorageFull: no room.
            StorageBroken: anything else.
        """
        ...

    def sync(self) -> None:
        """Make every write so far durable.

        Raises:
            StorageBroken: it may not be durable; never call it again for these bytes.
        """
        ...

    def uncache(self, offset: int, size_bytes: int) -> None:
        """The system need not keep these bytes in memory, as far as they are on the disk. Only a hint."""
        ...

    def resize(self, size_bytes: int) -> None:
        """Grow (reserving room where the file system can) or shrink.

        Raises:
            StorageFull: no room.
        """
        ...

    def status(self) -> FileStatus:
        """Return what identifies it."""
        ...

    def close(self) -> None:
        """Close; may be called again."""
        ...


class Disk(Protocol):
    """Files and folders. ``FileNotFoundError`` and other ``OSError`` of reading pass through to the caller, who turns
    them into our errors; writes raise ``StorageFull`` or ``StorageBroken``."""

    def open_read(self, path: Path, *, follow: bool = False) -> File:
        """Open a regular file; with ``follow`` False a link in the last place is refused (``OSError``)."""
        ...

    def open_below(self, folder: Path, path: Path) -> File:
        """As ``open_read``, and no folder on the way from ``folder`` down to ``path`` may be a link either, whoever
        swaps them meanwhile. ``folder`` itself may be one."""
        ...

    def open_write(self, path: Path) -> File:
        """Open for reading and writing; created (0600) when absent, kept when not."""
        ...

    def status(self, path: Path) -> FileStatus:
        """Return what is there, links not followed."""
        ...

    def list_folder(self, path: Path) -> list[str]:
        """Return the names in a folder, sorted."""
        ...

    def make_folder(self, path: Path, *, public: bool = False) -> None:
        """Make a folder and its parents; there already is fine. Durable when it returns. Ours alone (0700), or, when
        ``public``, with the mode that this user's new folders have (umask), as ``publish`` does for files."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Rename, replacing ``target``; durable only after ``sync_folder``."""
        ...

    def link_new(self, source: Path, target: Path) -> bool:
        """Give ``source`` the further name ``target``; False when that is taken."""
        ...

    def publish(self, path: Path) -> None:
        """Give a finished file the mode that this user's new files have (umask); where there are no modes, nothing.

        Raises:
            StorageBroken: it is not there, or cannot be changed.
        """
        ...

    def remove(self, path: Path) -> None:
        """Remove a file; absent is fine."""
        ...

    def sync_folder(self, path: Path) -> None:
        """Make renames and removals in a folder durable."""
        ...

    def lock(self, path: Path) -> File | None:
        """Take the lock file ``path`` for this process; held until it is closed or the process ends, however it ends.

        None: another one holds it.
        """
        ...

    def free_bytes(self, path: Path) -> int:
        """Return how many bytes we may still write under ``path``."""
        ...

    def read_small(self, path: Path, bytes_max: int = 1 << 20) -> bytes:
        """Return a whole small file; ``OSError`` when it is larger than ``bytes_max``."""
        ...

    def read_secret(self, path: Path) -> bytes:
        """Return a small file that nobody but its owner may touch: ``OSError`` as ``read_small``.

        Raises:
            ConfigError: others may read or write it, or it belongs to somebody else; a secret in it is none any more.
        """
        ...

    def write_small(self, path: Path, data: bytes, *, mode: int = 0o600) -> None:
        """Write a whole small file so that after a crash it is the old one or the new one, durable when it returns."""
        ...


class Database(Protocol):
    """One SQLite database, WAL and synchronous=FULL: what a transaction wrote survives a power cut."""

    async def transaction(self, work: Callable[[Any], T]) -> T:
        """Run ``work(cursor)`` in one transaction in a thread and return what it returned; committed and durable then.

        ``cursor`` is an apsw cursor: ``execute`` and ``executemany``. One transaction at a time.

        Raises:
            StorageFull, StorageBroken: nothing of it happened, or (Broken) nobody knows.
        """
        ...

    async def read(self, work: Callable[[Any], T]) -> T:
        """Run ``work(cursor)`` for reading."""
        ...

    async def aclose(self) -> None:
        """Close; what was committed stays."""
        ...


class SecureStream(ByteStream, Protocol):
    """A stream behind a handshake that both sides passed."""

    @property
    def certificate(self) -> bytes | None:
        """The other side's certificate (DER), already judged; None only at the join door."""
        ...

    @property
    def alpn(self) -> str:
        """The protocol both agreed on."""
        ...

    async def send_parts(self, parts: Sequence[Buffer]) -> None:
        """Send all of ``parts`` as one run of bytes."""
        ...


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """What an HTTP server answered: header names in lower case; ``filled_bytes``: how much went into the target."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    filled_bytes: int = 0


class WebBody(Protocol):
    """What is sent. Iterated once a request; a new one is made for each try."""

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class Web(Protocol):
    """Requests to HTTP servers of others."""

    async def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | WebBody = b"",
        *,
        target: memoryview | None = None,
        bytes_max: int = 1 << 20,
        seconds_max: float = 60.0,
    ) -> WebAnswer:
        """Send one request as it is and return the answer, whatever its status; redirects are not followed.

        The body of a 2xx answer goes into ``target`` if there is one, every other into the answer. What the iteration
        of ``body`` raises passes through.

        Raises:
            LinkLost: unreachable, cut off, too slow, or more than ``target`` or ``bytes_max`` take.
        """
        ...


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a program gets from outside. ``random`` is one generator: draw from it in one place or fork it."""

    clock: Clock
    random: Random
    token_bytes: Callable[[int], bytes]
    network: Network
    disk: Disk
    security: Any  # runtime.tls.Security; Any here because the seam knows no certificates
    run_sync: RunSync
    open_database: OpenDatabase
    control_server: MakeControlServer
    cores: int = 2
    machine_name: str = "node"


class RunSync(Protocol):
    """``await run_sync(fn, *args)``: call ``fn`` in a thread. Not cancellable: a disk call always ends by itself."""

    async def __call__(self, work: Callable[[*Ts], T], *args: *Ts) -> T: ...


class ControlDoor(Protocol):
    """Where commands of this machine's user come in."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer until cancelled."""
        ...


class MakeControlServer(Protocol):
    """``control_server(path, methods)``: a door at ``path`` that answers by ``methods`` (runtime/control.py)."""

    def __call__(self, path: Path, methods: Mapping[str, Any]) -> ControlDoor: ...


class OpenDatabase(Protocol):
    """``await open_database(path, schema)``: open or create; ``schema`` is a script of CREATE ... IF NOT EXISTS."""

    async def __call__(self, path: Path, schema: str) -> Database: ...
