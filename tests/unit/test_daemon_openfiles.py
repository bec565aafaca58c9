"""Files that several readers share (daemon/openfiles.py): who opens at the same time as others, and who forgets."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio
import trio.testing

from daemon.openfiles import IDLE_SECONDS, OpenFiles
from runtime.real import real_runtime


class Gate:
    """Calls in threads that wait to be let through, by the name of what is called."""

    def __init__(self) -> None:
        self.opened = 0
        self.closing = trio.Event()
        self.may_close = trio.Event()
        self.both = trio.Event()

    async def run_sync(self, work: Callable[..., Any], *args: Any) -> Any:
        if work.__name__ == "open_read":
            self.opened += 1
            if self.opened == 2:
                self.both.set()
            await self.both.wait()
        if work.__name__ == "close" and not self.closing.is_set():
            self.closing.set()
            await self.may_close.wait()
        return await trio.to_thread.run_sync(work, *args)


async def test_a_file_that_is_forgotten_while_a_second_reader_comes_stays_open_for_that_one(tmp_path: Path) -> None:
    """Both open it; while the slower one closes what it opened in vain, the first one is done and the path forgotten: a
    get that had ended put its file in place, and the daemon ended by a KeyError."""
    path = tmp_path / "file"
    path.write_bytes(b"all of it")
    gate = Gate()
    files = OpenFiles(replace(real_runtime(), run_sync=gate.run_sync))
    seen: list[bytes] = []
    quick_done = trio.Event()

    async def read() -> None:
        async with files.reading(path) as file:
            target = bytearray(9)
            file.read_into(memoryview(target), 0)
            seen.append(bytes(target))
        quick_done.set()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)
            await gate.closing.wait()
            await quick_done.wait()
            await files.forget(path)
            gate.may_close.set()
    assert seen == [b"all of it", b"all of it"]
    async with files.reading(path) as file:
        assert file.read_into(memoryview(bytearray(9)), 0) == 9
    await files.aclose()


async def test_a_file_that_nobody_has_read_for_a_while_is_closed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Else a disk cannot be unmounted, and a deleted file keeps its room."""
    for name in ("busy", "idle", "often"):
        (tmp_path / name).write_bytes(name.encode())
    files = OpenFiles(real_runtime())

    def is_open(name: str) -> bool:
        return any(
            link.is_symlink() and Path(os.readlink(link)) == tmp_path / name for link in Path("/proc/self/fd").iterdir()
        )

    async def closed(*names: str) -> None:
        """A thread closes them, in real time; until it has, the clock stands still."""
        while any(map(is_open, names)):
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(files.close_idle)
        for _ in range(2):  # it goes on after nothing was open
            async with files.reading(tmp_path / "busy") as file:
                async with files.reading(tmp_path / "idle"):
                    pass
                for _ in range(20):
                    async with files.reading(tmp_path / "often"):
                        pass
                    await trio.sleep(IDLE_SECONDS / 4)
                await closed("idle")
                assert is_open("busy") and is_open("often")
                assert file.read_into(memoryview(bytearray(4)), 0) == 4
            await trio.sleep(3 * IDLE_SECONDS)
            await closed("busy", "often")
        nursery.cancel_scope.cancel()
    await files.aclose()
