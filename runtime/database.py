"""SQLite behind the seam: WAL and synchronous=FULL for whatever is acknowledged. One thread at a time.

With synchronous=NORMAL a power cut loses acknowledged commits (tried on a torn disk: 149 of 150 runs); FULL lost none.
apsw rather than sqlite3: its VFS hook lets a simulation put the real SQLite on a simulated disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import apsw
import trio

from protocol.errors import ConfigError, StorageBroken, StorageFull
from runtime.seam import RunSync

T = TypeVar("T")

BUSY_SECONDS_MAX = 5.0


def _turned(error: apsw.Error, path: Path) -> Exception | None:
    """Return what ``error`` is to the caller; None for a bug of ours, which is let fall as it is."""
    if isinstance(error, apsw.FullError):
        return StorageFull(f"{path.name}: {error}")
    if isinstance(error, apsw.ConstraintError | apsw.SQLError | apsw.BindingsError | apsw.MisuseError):
        return None
    return StorageBroken(f"{path.name}: {error}")


class SqliteDatabase:
    """A connection, and a lock that lets one thread at it."""

    def __init__(self, connection: apsw.Connection, path: Path, run_sync: RunSync) -> None:
        self._connection = connection
        self._path = path
        self._run_sync = run_sync
        self._turn = trio.Lock()

    @classmethod
    async def open(cls, path: Path, schema: str, run_sync: RunSync, vfs: str | None = None) -> SqliteDatabase:
        """Open or create ``path`` and run ``schema``.

        Raises:
            ConfigError: it is no database, or damaged; the operator must look.
            StorageFull, StorageBroken: the disk under it has no room, or fails.
        """

        def prepare() -> apsw.Connection:
            connection: apsw.Connection | None = None
            try:
                connection = apsw.Connection(str(path), vfs=vfs)
                connection.set_busy_timeout(int(BUSY_SECONDS_MAX * 1000))
                if vfs is not None:
                    # A file system without shared memory: one connection alone can do without.
                    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
                # Where it cannot, SQLite keeps another mode without a word, and synchronous=FULL promises less there.
                mode = connection.pragma("journal_mode", "wal")
                if mode != "wal":
                    raise apsw.CantOpenError(f"no write-ahead log on this file system (journal_mode={mode})")
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("PRAGMA foreign_keys=ON")
                # All DDL at once, so that a crash leaves all tables or none.
                with connection:
                    connection.execute(schema)
            except apsw.Error as error:
                if connection is not None:
                    connection.close(True)
                if isinstance(error, apsw.FullError | apsw.IOError):
                    # The disk's fault, not the file's: nobody must be told to move it away.
                    raise _turned(error, path) or error from error
                raise ConfigError(f"{path}: not usable as a database ({error}); restore it or move it away") from error
            return connection

        return cls(await run_sync(prepare), path, run_sync)

    async def transaction(self, work: Callable[[Any], T]) -> T:
        """See ``seam.Database.transaction``."""

        def run() -> T:
            connection = self._connection
            try:
                connection.execute("BEGIN IMMEDIATE")
                result = work(connection.cursor())
                connection.execute("COMMIT")
            except BaseException as error:
                # SQLite has rolled back already after some errors (a full disk among them), and a COMMIT that failed
                # may have left the transaction open. A rollback that fails is named by the error that led to it.
                if connection.in_transaction:
                    with contextlib.suppress(apsw.Error):
                        connection.execute("ROLLBACK")
                turned = _turned(error, self._path) if isinstance(error, apsw.Error) else None
                if turned is None:
                    raise
                raise turned from error  # noqa: ASYNC104  # an apsw.Error, in a thread: nothing of trio's
            return result

        async with self._turn:
            return await self._run_sync(run)

    async def read(self, work: Callable[[Any], T]) -> T:
        """See ``seam.Database.read``."""
        return await self.transaction(work)

    async def aclose(self) -> None:
        """Close; what was committed stays.

        Raises:
            StorageBroken: the disk failed while the log was put away; what was committed stays all the same.
        """

        def close() -> None:
            try:
                self._connection.close()
            except apsw.Error as error:
                turned = _turned(error, self._path)
                raise turned or error from error

        async with self._turn:
            await self._run_sync(close)
