"""A real disk on which the k-th change fails, or kills the process that asked for it.

A kill comes *before* the k-th change or *after* it; from then on nothing of that process reaches the disk any more, as
with SIGKILL. Ledger transactions count as changes too (``wrap``), before and after they are committed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.real import RealDisk
from runtime.seam import Buffer, Database, File, FileStatus, Runtime


class Killed(BaseException):
    """The process is gone. No program code may catch this."""


class Fate:
    """Counts changes; at number ``at`` (from 0) it happens. ``log`` names all changes that were asked for."""

    def __init__(self, at: int | None = None, *, after: bool = False, error: Callable[[], BaseException] = Killed):
        self.log: list[str] = []
        self.dead = False
        self._at = at
        self._after = after
        self._error = error

    def change(self, what: str, work: Callable[[], Any]) -> Any:
        """Do ``work``, a change called ``what``, if fate lets it."""
        if self.dead:
            raise Killed
        number = len(self.log)
        self.log.append(what)
        if number == self._at and not self._after:
            raise self._strike()
        result = work()
        if number == self._at:
            raise self._strike()
        return result

    def _strike(self) -> BaseException:
        error = self._error()
        self.dead = isinstance(error, Killed)
        return error

    def wrap(self, runtime: Runtime) -> Runtime:
        """Return ``runtime`` with disk and databases under this fate."""

        async def open_database(path: Path, schema: str) -> Database:
            return FatedDatabase(await runtime.open_database(path, schema), self)

        return replace(runtime, disk=FatedDisk(self), open_database=open_database)


class FatedFile:
    def __init__(self, file: File, fate: Fate, name: str) -> None:
        self._file = file
        self._fate = fate
        self._name = name

    def read_into(self, target: memoryview, offset: int) -> int:
        return self._file.read_into(target, offset)

    def write(self, data: Buffer, offset: int) -> None:
        self._fate.change(f"write {self._name}", lambda: self._file.write(data, offset))

    def sync(self) -> None:
        self._fate.change(f"sync {self._name}", self._file.sync)

    def uncache(self, offset: int, size_bytes: int) -> None:
        self._file.uncache(offset, size_bytes)

    def resize(self, size_bytes: int) -> None:
        self._fate.change(f"resize {self._name}", lambda: self._file.resize(size_bytes))

    def status(self) -> FileStatus:
        return self._file.status()

    def close(self) -> None:
        self._file.close()


class FatedDisk(RealDisk):
    """See the module. Making folders and locking are not counted: they are no steps of a job."""

    def __init__(self, fate: Fate) -> None:
        self._fate = fate

    def open_read(self, path: Path, *, follow: bool = False) -> File:
        return FatedFile(super().open_read(path, follow=follow), self._fate, path.name[:8])

    def open_write(self, path: Path) -> Any:
        if path.name == "lock":
            return super().open_write(path)
        opened = self._fate.change(f"open {path.name[:8]}", lambda: RealDisk.open_write(self, path))
        return FatedFile(opened, self._fate, path.name[:8])

    def rename(self, source: Path, target: Path) -> None:
        self._fate.change("rename", lambda: RealDisk.rename(self, source, target))

    def remove(self, path: Path) -> None:
        self._fate.change("remove", lambda: RealDisk.remove(self, path))

    def sync_folder(self, path: Path) -> None:
        self._fate.change(f"sync folder {path.name}", lambda: RealDisk.sync_folder(self, path))


class FatedDatabase:
    def __init__(self, database: Database, fate: Fate) -> None:
        self._database = database
        self._fate = fate

    async def transaction(self, work: Callable[[Any], Any]) -> Any:
        def fated(cursor: Any) -> Any:
            # Before the commit: the database takes it back, as it would after a kill.
            return self._fate.change("transaction", lambda: work(cursor))

        result = await self._database.transaction(fated)
        self._fate.change("committed", lambda: None)
        return result

    async def read(self, work: Callable[[Any], Any]) -> Any:
        return await self._database.read(work)

    async def aclose(self) -> None:
        await self._database.aclose()
