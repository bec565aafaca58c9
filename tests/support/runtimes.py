"""Runtimes for fast tests: a network in memory, plain security, and threads that run at once.

With trio's ``MockClock(autojump_threshold=0)`` (fixture ``autojump_clock``) a test of minutes takes milliseconds.
Threads are called inline, because a mock clock does not wait for real ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import trio

from runtime.control import ControlServer
from runtime.database import SqliteDatabase
from runtime.real import RealDisk
from runtime.seam import Database, Network, Runtime
from support.memory_network import MemoryHub
from support.plain_security import PlainSecurity

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

WALL_BEGIN = 1_800_000_000.0


class TestClock:
    """trio's clock, mock or not; the wall shows it since a fixed moment, plus ``skew_seconds``."""

    __test__ = False

    def __init__(self, wall_begin: float = WALL_BEGIN) -> None:
        self._wall_begin = wall_begin
        self.skew_seconds = 0.0

    def monotonic(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        return self._wall_begin + trio.current_time() + self.skew_seconds


async def run_inline(work: Callable[[*Ts], T], *args: *Ts) -> T:
    """``RunSync`` without threads."""
    await trio.lowlevel.checkpoint()
    return work(*args)


async def open_database_inline(path: Path, schema: str) -> Database:
    """``OpenDatabase`` without threads."""
    return await SqliteDatabase.open(path, schema, run_inline)


def memory_runtime(
    network: Network | None = None, *, seed: int = 0, clock: TestClock | None = None, name: str = "memory"
) -> Runtime:
    """A runtime whose randomness comes from ``seed`` and whose network is in memory."""
    rng = random.Random(f"runtime {seed} {name}")
    return Runtime(
        clock=clock or TestClock(),
        random=rng,
        token_bytes=rng.randbytes,
        network=network or MemoryHub(seed).host("127.0.0.1"),
        disk=RealDisk(),
        security=PlainSecurity(),
        run_sync=run_inline,
        open_database=open_database_inline,
        control_server=ControlServer,
        machine_name=name,
    )
