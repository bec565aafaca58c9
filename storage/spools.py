"""The spool files: each file that is coming has one, named by its tag, until a backend has it."""

from __future__ import annotations

from pathlib import Path

from exchange.spool import Spool
from protocol.ids import Tag
from protocol.manifest import Manifest
from runtime.seam import Runtime


def spool_path(folder: Path, tag: Tag) -> Path:
    """Return where the spool file of ``tag`` is. Made of the tag alone: a name never becomes a path."""
    return folder / str(tag)


class Spools:
    """The spool files in ``folder``."""

    def __init__(self, runtime: Runtime, folder: Path) -> None:
        self._runtime = runtime
        self._folder = folder

    def path(self, tag: Tag) -> Path:
        """Return where the spool file of ``tag`` is, or would be."""
        return spool_path(self._folder, tag)

    async def open(self, manifest: Manifest) -> Spool:
        """Open or make a spool file with all its room; its name is durable before anything in it is acknowledged.

        Raises:
            StorageFull, StorageBroken: no room; a broken disk.
        """
        return await Spool.open(self._runtime, self.path(manifest.tag), manifest, durable=True)

    async def is_there(self, tag: Tag) -> bool:
        """Whether there is one."""

        def look() -> bool:
            try:
                self._runtime.disk.status(self.path(tag))
            except FileNotFoundError:
                return False
            return True

        return await self._runtime.run_sync(look)

    async def remove(self, tag: Tag) -> None:
        """Remove one, durably; absent is fine."""

        def work() -> None:
            self._runtime.disk.remove(self.path(tag))
            self._runtime.disk.sync_folder(self._folder)

        await self._runtime.run_sync(work)
