"""What a group of chunks asks of its spool file: a sync, and whether the file only passes through memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from storage.durability import Durability


class Spool:
    """Keeps how it was synced."""

    def __init__(self) -> None:
        self.synced: list[bool] = []

    async def sync(self, *, passing: bool = False) -> None:
        self.synced.append(passing)

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Spool]:
        yield self


class Entry(SimpleNamespace):
    """A key of dictionaries, as a live job is."""

    def __hash__(self) -> int:
        return id(self)


@pytest.mark.parametrize(
    ("parts", "passing"),
    [(None, True), (SimpleNamespace(begun=SimpleNamespace(words={})), False)],
    ids=["a backend on this machine renames it", "a backend elsewhere reads it once more"],
)
async def test_a_file_stays_in_memory_if_it_is_read_again(parts: Any, passing: bool) -> None:
    acknowledged: list[list[int]] = []
    done = trio.Event()

    def told(entry: Any, chunks: list[int]) -> None:
        acknowledged.append(chunks)
        done.set()

    class Ledger:
        async def acknowledge(self, batch: Any, now: float) -> None:
            assert spool.synced, "first durable, then written down"

    class Job:
        tag = SimpleNamespace(root=bytes(32))

        def acknowledge(self, pending: Any, sums: Any) -> None:
            assert sorted(pending) == [3, 4]

    spool = Spool()
    entry: Any = Entry(parts=parts, working=True, pending={}, spool=spool, job=Job(), tag=Job.tag)
    runtime: Any = SimpleNamespace(clock=SimpleNamespace(wall=lambda: 0.0))
    ledger: Any = Ledger()
    durability = Durability(runtime, ledger, told)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.durability._with", lambda entry, pending: None)
        for chunk in (4, 3):
            durability.note(entry, chunk, {})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(durability.run)
            with trio.fail_after(30):
                await done.wait()
            nursery.cancel_scope.cancel()
    assert acknowledged == [[3, 4]] and spool.synced == [passing]
