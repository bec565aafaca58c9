"""SQLite behind the seam: WAL and synchronous=FULL for whatever is acknowledged. One thread at a time;
transactions that wait for it are done together (group commit).

With synchronous=NORMAL a power cut loses acknowledged commits (tried on a torn disk: 149 of 150 runs); FULL lost none.
apsw rather than sqlite3: its VFS hook lets a simulation put the real SQLite on a simulated disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import apsw
import structlog
import trio

from protocol.errors import ConfigError, StorageBroken, StorageFull
from runtime.seam import RunSync

log = structlog.get_logger()

T = TypeVar("T")

BUSY_SECONDS_MAX = 5.0
# Transactions done as one: the thread may hold up nobody for long.
GROUP_MAX = 64


def _turned(error: apsw.Error, path: Path) -> Exception | None:
    """Return what ``error`` is to the caller; None for a bug of ours, which is let fall as it is."""
    if isinstance(error, apsw.FullError):
        return StorageFull(f"{path}: {error}")
    if isinstance(error, apsw.ConstraintError | apsw.SQLError | apsw.BindingsError | apsw.MisuseError):
        return None
    return StorageBroken(f"{path}: {error}")


def _unusable(error: apsw.Error, path: Path) -> ConfigError:
    """Return what the operator hears of a database that cannot be opened: how to get at it, or that it is damaged."""
    if isinstance(error, apsw.ReadOnlyError | apsw.CantOpenError | apsw.PermissionsError):
        return ConfigError(f"{path}: cannot be used ({error}); let this user read and write it and its folder")
    return ConfigError(f"{path}: not usable as a database ({error}); restore it or move it away")


class _Asked(Generic[T]):
    """A transaction that somebody waits for. ``woken``: it is done, or whoever asked is to lead."""

    __slots__ = ("done", "error", "result", "woken", "work")

    def __init__(self, work: Callable[[Any], T]) -> None:
        self.work = work
        self.done = False
        self.result: T  # there once it is done without error
        self.error: Exception | None = None
        self.woken = trio.Event()


class SqliteDatabase:
    """A connection, and a lock that lets one thread at it. The first of those who wait leads: it carries out the
    transactions of all in one, so that a thousand small ones cost a few syncs. If that fails each is tried alone."""

    def __init__(self, connection: apsw.Connection, path: Path, run_sync: RunSync) -> None:
        self._connection = connection
        self._path = path
        self._run_sync = run_sync
        self._turn = trio.Lock()
        self._led = False
        self._closed = False
        self._waiting: list[_Asked[Any]] = []

    @classmethod
    async def open(cls, path: Path, schema: str, run_sync: RunSync, vfs: str | None = None) -> SqliteDatabase:
        """Open or create ``path`` and run ``schema``.

        Raises:
            ConfigError: it is no database, damaged, or we may not write to it; the operator must look.
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
                    raise ConfigError(
                        f"{path}: no write-ahead log on this file system (journal_mode={mode}); a local disk has one"
                    )
                if connection.readonly("main"):
                    # SQLite opens what it may only read, and says so at the first write.
                    raise apsw.ReadOnlyError("it can only be read")
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("PRAGMA foreign_keys=ON")
                # All DDL at once, so that a crash leaves all tables or none.
                with connection:
                    connection.execute(schema)
            except (apsw.Error, ConfigError) as error:
                if connection is not None:
                    connection.close(True)
                if isinstance(error, ConfigError):
                    raise
                if isinstance(error, apsw.FullError | apsw.IOError):
                    # The disk's fault, not the file's: nobody must be told to move it away.
                    raise _turned(error, path) or error from error
                raise _unusable(error, path) from error
            return connection

        return cls(await run_sync(prepare), path, run_sync)

    async def transaction(self, work: Callable[[Any], T]) -> T:
        """See ``seam.Database.transaction``. What gathers while a transaction runs is done by the next one together."""
        await trio.lowlevel.checkpoint_if_cancelled()
        asked = _Asked(work)
        self._waiting.append(asked)
        # Once it is asked for it is done, and whoever asked hears of it; that takes a transaction or two.
        with trio.CancelScope(shield=True):
            if self._led:
                await asked.woken.wait()
            if not asked.done:
                self._led = True
                await self._lead()
        assert asked.done
        if asked.error is not None:
            raise asked.error
        return asked.result

    async def _lead(self) -> None:
        """Carry out what has gathered, ours among it, and let the next one lead."""
        batch, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
        try:
            async with self._turn:
                await self._run_sync(self._carry_out, batch)
        finally:
            for other in batch:
                other.woken.set()
            if self._waiting:
                self._waiting[0].woken.set()
            else:
                self._led = False

    def _carry_out(self, batch: list[_Asked[Any]]) -> None:
        if len(batch) > 1:
            try:
                results = self._in_one([asked.work for asked in batch])
            except (StorageBroken, StorageFull) as error:
                # The disk's error is everybody's: after a failed sync another try might succeed with nothing written.
                for asked in batch:
                    asked.error, asked.done = type(error)(str(error)), True
                return
            except Exception as error:  # noqa: BLE001  # one's own: each is tried alone, and whose it is meets it again
                log.debug("transactions are done apart", count=len(batch), reason=type(error).__name__)
            else:
                for asked, result in zip(batch, results, strict=True):
                    asked.result, asked.done = result, True
                return
        for asked in batch:
            try:
                (asked.result,) = self._in_one([asked.work])
            except Exception as error:  # noqa: BLE001  # raised where it was asked for
                asked.error = error
            asked.done = True

    def _in_one(self, works: list[Callable[[Any], Any]]) -> list[Any]:
        connection = self._connection
        if self._closed:
            raise StorageBroken(f"{self._path}: closed in the meantime; nothing was written")
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = [work(connection.cursor()) for work in works]
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
        return results

    async def read(self, work: Callable[[Any], T]) -> T:
        """See ``seam.Database.read``."""
        return await self.transaction(work)

    async def aclose(self) -> None:
        """Close; what was committed stays.

        Raises:
            StorageBroken: the disk failed while the log was put away; what was committed stays all the same.
        """

        def close() -> None:
            # Who waits for his turn behind us comes too late.
            self._closed = True
            try:
                self._connection.close()
            except apsw.Error as error:
                turned = _turned(error, self._path)
                raise turned or error from error

        async with self._turn:
            await self._run_sync(close)
