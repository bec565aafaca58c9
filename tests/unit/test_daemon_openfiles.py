"""Files that several readers share (daemon/openfiles.py): who opens at the same time as others, and who forgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio
import trio.testing

from daemon.openfiles import OpenFiles
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
