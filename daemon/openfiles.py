"""The few files that are open for reading now: serving a block must not cost an open, and descriptors are few.

Least recently used ones are closed first; one that is being read is never closed under the reader. One that nobody has
read for a few seconds is closed, too: whoever deletes a file wants its room, and whoever unplugs a disk must be able to
unmount it. Knows nothing of tags or chunks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from runtime.seam import File, Runtime

# More tags than that are rarely served at the same moment; each costs a descriptor.
OPEN_FILES_MAX = 32
IDLE_SECONDS = 5.0


class _Open:
    __slots__ = ("doomed", "file", "read_at", "readers")

    def __init__(self, file: File) -> None:
        self.file = file
        self.read_at = 0.0
        self.readers = 0
        self.doomed = False


class OpenFiles:
    """Open files by path."""

    def __init__(self, runtime: Runtime, count_max: int = OPEN_FILES_MAX) -> None:
        self._runtime = runtime
        self._count_max = count_max
        self._open: OrderedDict[Path, _Open] = OrderedDict()
        self._some = trio.Event()

    async def close_idle(self) -> None:
        """Close what nobody has read for ``IDLE_SECONDS``, until cancelled."""
        while True:
            if not self._open:
                self._some = trio.Event()
                await self._some.wait()
            await trio.sleep(IDLE_SECONDS)
            idle_since = trio.current_time() - IDLE_SECONDS
            for path, opened in list(self._open.items()):
                if not opened.readers and opened.read_at <= idle_since and self._open.get(path) is opened:
                    await self.forget(path)

    @asynccontextmanager
    async def reading(self, path: Path) -> AsyncIterator[File]:
        """Yield ``path`` open for reading; links are not followed.

        Raises:
            OSError: it cannot be opened.
        """
        opened = self._open.get(path)
        late: File | None = None
        if opened is None:
            file = await self._runtime.run_sync(self._runtime.disk.open_read, path)
            opened = self._open.get(path)
            if opened is None:
                opened = self._open[path] = _Open(file)
                self._some.set()
            else:
                late = file  # another task was faster
        # Before anything is waited for: whoever forgets the path meanwhile leaves the file to its readers.
        opened.readers += 1
        self._open.move_to_end(path)
        try:
            if late is not None:
                await self._close(late)
            yield opened.file
        finally:
            opened.readers -= 1
            opened.read_at = trio.current_time()
            if opened.doomed and not opened.readers:
                await self._close(opened.file)  # noqa: ASYNC102  # shields itself
            await self._shrink()  # noqa: ASYNC102  # as above

    async def forget(self, path: Path) -> None:
        """Close ``path`` as soon as nobody reads it; the next reader opens what is there then."""
        opened = self._open.pop(path, None)
        if opened is None:
            return
        opened.doomed = True
        if not opened.readers:
            await self._close(opened.file)

    async def aclose(self) -> None:
        """Close all."""
        for path in list(self._open):
            await self.forget(path)

    async def _shrink(self) -> None:
        while len(self._open) > self._count_max:
            idle = next((path for path, opened in self._open.items() if not opened.readers), None)
            if idle is None:
                return
            await self.forget(idle)

    async def _close(self, file: File) -> None:
        with trio.CancelScope(shield=True):
            await self._runtime.run_sync(file.close)
