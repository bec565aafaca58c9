"""Watched folders: what appears in one and stays as it is, is put, under its path within the folder.

What was done is remembered by what identified the file, so that a restart puts nothing twice. A look at the folder
decides (settling.py); the operating system's notices only say when to look. Where there are none, on a network share
say, we look once in a while. Files and folders whose name begins with a dot are left alone: programs write there first.
Links are not followed, at no step of the way, even if somebody swaps a folder for one between a look and the put.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import structlog
import trio

from daemon.events import Events
from daemon.putrecord import Put, PutState
from daemon.puts import Puts
from daemon.settling import Settling
from daemon.walking import find_files
from protocol.errors import CommandError, NotFound, StorageFull
from runtime.seam import Database, FileStatus, Runtime

log = structlog.get_logger()

# Calls the second argument whenever something may have changed below one of the folders; until cancelled.
Observe = Callable[[Sequence[Path], Callable[[], None]], Awaitable[None]]

SETTLE_SECONDS = 5.0
LOOK_SECONDS = 1.0  # while something settles
LOOK_AGAIN_SECONDS = 60.0  # when nothing is said to have changed
FAILED_SECONDS = 300.0  # until a file whose put has failed is tried again
FOLDERS_MAX = 64

SCHEMA = """
-- watching.py: folders that upswarm watch added; what each file was when it was put, by path.
CREATE TABLE IF NOT EXISTS watched (path BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS watch_done (path BLOB PRIMARY KEY, status TEXT NOT NULL) WITHOUT ROWID;
"""


class Watching:
    """See the module. ``load`` it, then ``run``. ``configured``: folders that the settings name."""

    def __init__(
        self,
        runtime: Runtime,
        database: Database,
        puts: Puts,
        events: Events,
        configured: Sequence[Path],
        observe: Observe | None,
    ) -> None:
        self._runtime = runtime
        self._database = database
        self._puts = puts
        self._events = events
        self._configured = tuple(configured)
        self._observe = observe
        self._added: list[Path] = []
        self._done: dict[Path, FileStatus] = {}
        self._settling: dict[Path, Settling] = {}
        self._busy: set[Path] = set()
        self._trouble: dict[Path, str] = {}
        self._refused: dict[Path, str] = {}  # files whose last put has failed, and why
        self._no_room = ""  # why nothing can be written down; puts wait then
        self._news = trio.Event()
        self._changed = trio.Event()
        puts.confined = self.folder_of

    async def load(self) -> None:
        """Read what earlier lives were told, and did."""

        def read(cursor: Any) -> tuple[list[Path], dict[Path, FileStatus]]:
            added = [_path(row[0]) for row in cursor.execute("SELECT path FROM watched ORDER BY path")]
            rows = cursor.execute("SELECT path, status FROM watch_done")
            return added, {_path(path): FileStatus(*json.loads(status)) for path, status in rows}

        self._added, self._done = await self._database.read(read)

    @property
    def folders(self) -> list[Path]:
        """Return what is watched."""
        return list(dict.fromkeys((*self._configured, *self._added)))

    def folder_of(self, path: Path) -> Path | None:
        """Return the watched folder that ``path`` lies in, the innermost; None: it lies in none. Whoever else may write
        there must not make us read what lies elsewhere."""
        around = [folder for folder in self.folders if path != folder and path.is_relative_to(folder)]
        return max(around, key=lambda folder: len(folder.parts), default=None)

    async def add(self, folder: Path) -> None:
        """Watch ``folder`` from now on, also in later lives. Files that lie there are put as well.

        Raises:
            CommandError: it is no folder, or there are too many.
        """
        try:
            await self._runtime.run_sync(self._runtime.disk.list_folder, folder)
        except OSError as error:
            raise CommandError("not-a-folder", f"{folder}: {error.strerror or error}", 2) from error
        if folder in self.folders:
            return
        if len(self.folders) >= FOLDERS_MAX:
            raise CommandError("too-many", f"{FOLDERS_MAX} folders are watched already", 6)
        row = (bytes(folder),)
        await self._database.transaction(lambda cursor: cursor.execute("INSERT OR IGNORE INTO watched VALUES (?)", row))
        self._added.append(folder)
        self._refresh()

    async def remove(self, folder: Path) -> None:
        """Watch ``folder`` no longer; puts that have begun go on.

        Raises:
            NotFound: it is not watched.
            CommandError: the settings name it.
        """
        if folder in self._configured:
            raise CommandError("refused", f"{folder} is watched because the settings say so: [daemon] watch", 6)
        if folder not in self._added:
            raise NotFound(f"{folder} is not watched")
        row = (bytes(folder),)
        await self._database.transaction(lambda cursor: cursor.execute("DELETE FROM watched WHERE path = ?", row))
        self._added.remove(folder)
        self._settling.pop(folder, None)
        self._refresh()

    def to_json(self) -> list[dict[str, Any]]:
        """Return how it stands, folder by folder."""
        return [
            {
                "path": str(folder),
                "configured": folder in self._configured,
                "done": sum(path.is_relative_to(folder) for path in self._done),
                "settling": self._settling[folder].waiting(self._busy, self._done) if folder in self._settling else 0,
                "putting": sum(path.is_relative_to(folder) for path in self._busy),
                "trouble": self._trouble.get(folder, "") or self._refusal(folder),
            }
            for folder in self.folders
        ]

    async def run(self) -> None:
        """Look and put, until cancelled."""
        async with trio.open_nursery() as puts:
            puts.start_soon(self._observe_always, name="observe folders")
            while True:
                news = self._news
                waiting = False
                for folder in self.folders:
                    waiting |= await self._look(folder, puts)
                with trio.move_on_after(LOOK_SECONDS if waiting else LOOK_AGAIN_SECONDS):
                    await news.wait()
                if waiting:
                    # A file that grows says so all the time; once a second is often enough to look.
                    await trio.sleep(LOOK_SECONDS)

    # --- inside ---

    async def _look(self, folder: Path, puts: trio.Nursery) -> bool:
        """Begin to put what is ready; return whether something is still to settle."""
        settling = self._settling.setdefault(folder, Settling(SETTLE_SECONDS))
        try:
            names, found, gone = await self._runtime.run_sync(self._find, folder, self._done_below(folder))
        except (CommandError, OSError) as error:
            # Not there now, an unplugged disk perhaps: what was done stays done.
            self._say(folder, (isinstance(error, OSError) and error.strerror) or str(error))
            return False
        self._say(folder, self._no_room)
        for path in [path for path in self._refused if path.is_relative_to(folder) and path not in found]:
            del self._refused[path]
        await self._forget([path for path in gone if path not in self._busy])
        for path, status in found.items():
            if self._done.get(path) == status:
                self._done[path] = status  # Its device may be another one than when it was put.
        now = trio.current_time()
        for path in settling.look(now, found, self._done):
            if path not in self._busy:
                self._busy.add(path)
                puts.start_soon(self._put, settling, path, names[path], found[path], name=f"watched {path.name}")
        return settling.is_near(now, self._busy)

    def _done_below(self, folder: Path) -> dict[Path, FileStatus]:
        return {path: status for path, status in self._done.items() if path.is_relative_to(folder)}

    def _find(
        self, folder: Path, done: dict[Path, FileStatus]
    ) -> tuple[dict[Path, str], dict[Path, FileStatus], list[Path]]:
        """Return the files that are there, their names and what identifies them; and which of ``done`` were deleted."""
        disk = self._runtime.disk
        try:
            files, skipped = find_files(disk, folder, None)
        except NotFound:
            disk.list_folder(folder)  # Empty is fine, gone is not.
            files, skipped = [], []
        names, found = {}, {}
        for file in files:
            if any(part.startswith(".") for part in file.path.relative_to(folder).parts):
                continue
            try:
                found[file.path] = disk.status(file.path)
                names[file.path] = file.name
            except OSError:
                continue  # It went between two looks.
        unread = {one.path for one in skipped}
        devices: dict[Path, int | None] = {}
        gone = [
            path
            for path, status in done.items()
            if path not in found
            and not unread.intersection(path.parents)
            and self._device_around(path.parent, folder, devices) == status.device
        ]
        return names, found, gone

    def _device_around(self, here: Path, folder: Path, known: dict[Path, int | None]) -> int | None:
        """Return the device of ``here``, or of the next folder around it that is there. Where a disk was that is not
        mounted now, it is another one than that of the disk's files: these are away, and not deleted."""
        if here not in known:
            try:
                known[here] = self._runtime.disk.status(here).device
            except OSError:
                known[here] = None if here == folder else self._device_around(here.parent, folder, known)
        return known[here]

    async def _put(self, settling: Settling, path: Path, name: str, status: FileStatus) -> None:
        try:
            put = await self._puts.put(path, name)
            self._no_room = ""
            await self._puts.wait(put, "stored", _nothing)
            if put.state is PutState.FAILED:
                self._refused[path] = put.error.sentence if put.error is not None else "failed"
                settling.again(path, trio.current_time(), FAILED_SECONDS)
            else:
                # Stored; or somebody cancelled it, and means it.
                await self._remember(path, status)
        except StorageFull as error:
            # Our own disk is full; that is no reason to end, and some day it is not.
            self._no_room = str(error)
            settling.again(path, trio.current_time(), FAILED_SECONDS)
        finally:
            self._busy.discard(path)
            self._news.set()
            self._news = trio.Event()

    async def _remember(self, path: Path, status: FileStatus) -> None:
        # Also when it cannot be written down: then the next life puts it again, which sends nothing.
        self._done[path] = status
        self._refused.pop(path, None)
        row = (bytes(path), json.dumps([getattr(status, key) for key in FileStatus.__slots__]))
        await self._write("INSERT OR REPLACE INTO watch_done VALUES (?, ?)", [row])

    async def _forget(self, paths: list[Path]) -> None:
        if not paths:
            return
        for path in paths:
            del self._done[path]
        await self._write("DELETE FROM watch_done WHERE path = ?", [(bytes(path),) for path in paths])

    async def _write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        try:
            await self._database.transaction(lambda cursor: cursor.executemany(statement, rows))
        except StorageFull as error:
            log.warning("not written down what was done with watched files", reason=str(error))

    def _refusal(self, folder: Path) -> str:
        refused = [reason for path, reason in self._refused.items() if path.is_relative_to(folder)]
        return "; ".join([*refused[:1], *([f"and {len(refused) - 1} more"] if refused[1:] else [])])

    def _say(self, folder: Path, trouble: str) -> None:
        if trouble and self._trouble.get(folder) != trouble:
            self._events.add("watched folder has to wait", path=str(folder), reason=trouble)
        self._trouble[folder] = trouble

    def _refresh(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _observe_always(self) -> None:
        while self._observe is not None:
            changed = self._changed
            async with trio.open_nursery() as observing:
                if self.folders:
                    observing.start_soon(self._observe, self.folders, self._wake)
                await changed.wait()
                observing.cancel_scope.cancel()


async def _nothing(_: Put) -> None:
    return None


def _path(data: bytes) -> Path:
    return Path(data.decode("utf-8", "surrogateescape"))
