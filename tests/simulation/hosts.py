"""A simulated host: a platter, a place in the network, and a program that runs on both until it is crashed.

The programs are the production ones; only the ``Runtime`` they get is not. A host is crashed by making its disk refuse,
its connections end, and then cancelling its tasks: nothing they still try on their way out can be seen by anybody.
"""

from __future__ import annotations

import functools
import inspect
import math
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from simulation.disk import HostCrashed, Platter, SimDisk
from simulation.network import HostPort, SimNet, SimNetwork
from simulation.timeline import Timeline
from simulation.vfs import DiskVfs

import daemon.app
import storage.app
import tracker.app
from daemon.config import DaemonConfig
from protocol.errors import StorageError
from protocol.ids import NodeId, node_id_of_key
from runtime.database import SqliteDatabase
from runtime.identity import raw_public_key
from runtime.places import Places
from runtime.seam import Runtime
from storage.config import StorageConfig
from tracker.config import TrackerConfig

WALL_BEGIN = 1_800_000_000.0
HOME = Path("/h")
USER = Path("/u")


class SimClock:
    """The world's time; the wall as this host believes it."""

    def __init__(self, timeline: Timeline) -> None:
        self.skew_seconds = 0.0
        self._timeline = timeline

    def monotonic(self) -> float:
        return self._timeline.current_time()

    def wall(self) -> float:
        return WALL_BEGIN + self._timeline.now + self.skew_seconds


class SimControl:
    """A control door without a socket: the world calls the methods."""

    def __init__(self, host: SimHost, methods: Mapping[str, Any]) -> None:
        self._host = host
        self._methods = methods

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._host.methods = self._methods
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            if self._host.methods is self._methods:
                self._host.methods = None


class SimHost:
    """``start`` runs one life of the program; ``crash`` ends it."""

    def __init__(self, name: str, network: SimNetwork, port: HostPort, seed: str, security: Any) -> None:
        self.name = name
        self.port = port
        self.clock = SimClock(network.timeline)
        self.platter = Platter(random.Random(f"{seed}/disk/{name}"))
        self.joined = True
        self.node: NodeId | None = None  # of its identity, once it has run
        self.methods: Mapping[str, Any] | None = None
        self.program: Any = None  # the Daemon, StorageNode or Tracker that runs
        self.running = False
        self.starting = False
        self.lives = 0
        self.ended_by: BaseException | None = None
        self.task: trio.lowlevel.Task | None = None  # under which all of this life's tasks are
        self.usurper: trio.CancelScope | None = None  # somebody else answers at its address; cancelled, no more
        self._network = network
        self._security = security
        self._seed = seed
        self._scope: trio.CancelScope | None = None
        self._calls: dict[trio.CancelScope, None] = {}
        self._ended = trio.Event()

    def runtime(self) -> Runtime:
        """The outside as the next life of this host sees it."""
        life = f"{self._seed}/{self.name}/{self.lives}"
        rng = random.Random(f"{life}/runtime")
        threads = random.Random(f"{life}/threads")
        tokens = random.Random(f"{life}/tokens")
        disk = SimDisk(self.platter)
        timeline = self._network.timeline

        async def run_sync(work: Callable[..., Any], *args: Any) -> Any:
            await trio.lowlevel.checkpoint_if_cancelled()
            await timeline.pause_until(timeline.now + threads.expovariate(2000))
            while timeline.now < self.port.frozen_until:
                await timeline.pause_until(self.port.frozen_until)
            return work(*args)

        async def open_database(path: Path, schema: str) -> SqliteDatabase:
            vfs = DiskVfs(disk)
            database = await SqliteDatabase.open(path, schema, run_sync, vfs=vfs.vfs_name)
            database.vfs_kept = vfs  # type: ignore[attr-defined]  # SQLite does not keep it alive
            return database

        return Runtime(
            clock=self.clock,
            random=rng,
            token_bytes=tokens.randbytes,
            network=SimNet(self._network, self.port),
            disk=disk,
            security=self._security,
            run_sync=run_sync,
            open_database=open_database,
            control_server=lambda path, methods: SimControl(self, methods),
            cores=2,
            machine_name=self.name,
        )

    # --- what a host runs ---

    @asynccontextmanager
    async def _program(self, runtime: Runtime) -> AsyncIterator[Any]:
        raise NotImplementedError
        yield

    async def live(self, task_status: trio.TaskStatus[bool] = trio.TASK_STATUS_IGNORED) -> None:
        """One life: until a crash, a clean stop, or a program that ends itself because its disk failed."""
        assert not self.running
        self.lives += 1
        self.task = trio.lowlevel.current_task()
        self.running, self.starting = True, False
        self.ended_by = None
        self._ended = trio.Event()
        self._network.host_up(self.port.address)
        told = False
        runtime = self.runtime()
        try:
            with trio.CancelScope() as self._scope:
                self.node = self._own_node() or self.node
                async with self._program(runtime) as self.program:
                    told = True
                    self.node = self.program.links.credentials.node
                    task_status.started(True)
                    await trio.sleep_forever()
        except BaseException as error:
            leaves = [leaf for leaf in leaves_of(error) if not isinstance(leaf, HostCrashed | trio.Cancelled)]
            if not self.running:
                # Crashed: a database that cannot be closed any more is nobody's concern.
                leaves = [leaf for leaf in leaves if not isinstance(leaf, apsw.Error)]
            # A disk error ends a program, as it must; anything else is a bug that the simulation has found.
            if any(not isinstance(leaf, StorageError) for leaf in leaves):
                raise
            self.ended_by = leaves[0] if leaves else None
        finally:
            if self.running:
                self.running = False
                self._network.host_down(self.port.address, silent=False)
            self.program = None
            self.methods = None
            self._cut_calls()
            self._ended.set()
            if not told:
                task_status.started(False)

    def _own_node(self) -> NodeId | None:
        """Who it is, before its program says so; None when it has not joined."""
        for path, inode in self.platter.names.items():
            if path.name == "certificate.pem" and inode is not None:
                return _node_of(bytes(inode.data))
        return None

    def crash(self, *, power: bool) -> None:
        """End this life now: the process alone, or with the power also what the disk had not synced."""
        if not self.running:
            return
        self.running = False
        self.methods = None
        self._network.host_down(self.port.address, silent=power)
        if power:
            self.platter.crash()
        else:
            self.platter.kill()
        self._cut_calls()
        if self._scope is not None:
            self._scope.cancel()

    def _cut_calls(self) -> None:
        for scope in list(self._calls):
            scope.cancel()

    async def suspend(self, seconds: float) -> None:
        """Close the lid, and open it again so much later: nothing of this host runs meanwhile, nothing reaches it, its
        deadlines have not come nearer, and its clocks have gone on."""
        if not self.running or self._scope is None or self.port.frozen:
            return
        self.port.frozen_until = self._network.timeline.now + seconds
        self._network.freeze(self.port.address, True)
        _postpone(self._scope._cancel_status, seconds)
        await trio.sleep(seconds)
        if self.port.frozen:
            self._network.freeze(self.port.address, False)

    async def stop(self) -> None:
        """End this life as SIGTERM does."""
        if self._scope is not None:
            self._scope.cancel()
        await self._ended.wait()

    @property
    def ending(self) -> bool:
        """Whether its life was told to end, and has not ended yet: a suspended one takes its time."""
        return self._scope is not None and self._scope.cancel_called and not self._ended.is_set()

    async def wait_ended(self) -> None:
        await self._ended.wait()

    async def call(self, method: str, **params: Any) -> Any:
        """Give a command as the control socket would. Raises ``Down`` when nobody answers."""
        if self.methods is None:
            raise Down(self.name)

        async def notify(kind: str, what: dict[str, Any]) -> None:
            await trio.lowlevel.checkpoint()

        # Whoever waits for an answer when the program ends sees the connection close.
        with trio.CancelScope() as scope:
            self._calls[scope] = None
            try:
                return await self.methods[method](params, notify)
            except (HostCrashed, BaseExceptionGroup) as error:
                if any(isinstance(leaf, HostCrashed) for leaf in leaves_of(error)):
                    raise Down(self.name) from None
                raise
            finally:
                self._calls.pop(scope, None)
        raise Down(self.name)


class Down(Exception):
    """The host does not run now."""


class TrackerHost(SimHost):
    heartbeat_seconds = 5.0

    @asynccontextmanager
    async def _program(self, runtime: Runtime) -> AsyncIterator[Any]:
        config = TrackerConfig(
            home=HOME,
            listen=f"{self.port.address}:4100",
            http=None,
            heartbeat_seconds=self.heartbeat_seconds,
            mdns=False,
        )

        async def run(task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
            own = [self.port.address]
            await tracker.app.run(config, runtime, find_own_hosts=lambda: own, task_status=task_status)

        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            # It hands out its ready line only; its commands know it.
            assert self.methods is not None
            yield inspect.getclosurevars(self.methods["status"]).nonlocals["self"]._tracker
            nursery.cancel_scope.cancel()


class StorageHost(SimHost):
    on_open: Callable[[Any], None] = staticmethod(lambda node: None)

    @asynccontextmanager
    async def _program(self, runtime: Runtime) -> AsyncIterator[Any]:
        config = StorageConfig(
            places=Places.of(HOME, "storage"), listen=f"{self.port.address}:4200", mdns=False, reserve_bytes=0
        )
        async with storage.app.opened(config, runtime) as (node, recovered), trio.open_nursery() as nursery:
            await nursery.start(node.run, recovered)
            self.on_open(node)
            yield node
            nursery.cancel_scope.cancel()


class DaemonHost(SimHost):
    lend = False
    lies = False
    up_bytes_per_second: float | None = None

    @staticmethod
    def garble(node: Any) -> None:
        """Make ``node`` read something else than it holds."""
        read_block, read_ranges = node.library.read_block, node.library.read_ranges

        async def read_garbage(tag: Any, chunk: int, offset: int, target: memoryview) -> None:
            await read_block(tag, chunk, offset, target)
            for position in range(0, len(target), 4096):
                target[position] ^= 0xFF

        async def read_garbage_for_proofs(tag: Any, ranges: Any) -> list[bytes]:
            pieces = await read_ranges(tag, ranges)
            return [bytes(byte ^ 0xFF for byte in piece) for piece in pieces]

        node.library.read_block = read_garbage
        node.library.read_ranges = read_garbage_for_proofs

    @asynccontextmanager
    async def _program(self, runtime: Runtime) -> AsyncIterator[Any]:
        config = DaemonConfig(
            places=Places.of(HOME, "daemon"),
            listen=f"{self.port.address}:4101",
            mdns=False,
            lend=self.lend,
            download_folder=USER / "downloads",
            up_bytes_per_second=self.up_bytes_per_second,
        )
        async with daemon.app.opened(config, runtime) as node, trio.open_nursery() as nursery:
            if self.lies:
                self.garble(node)
            await nursery.start(node.run)
            yield node
            nursery.cancel_scope.cancel()


@functools.lru_cache(maxsize=1024)
def _node_of(certificate: bytes) -> NodeId:
    key = x509.load_pem_x509_certificate(certificate).public_key()
    assert isinstance(key, Ed25519PublicKey)
    return node_id_of_key(raw_public_key(key))


def _postpone(status: Any, seconds: float) -> None:
    """Move every deadline below a cancel scope of trio's."""
    if status is None:
        return
    if math.isfinite(status._scope.deadline):
        status._scope.deadline += seconds
    for child in list(status._children):
        _postpone(child, seconds)


def leaves_of(error: BaseException) -> list[BaseException]:
    """Return what a group of groups consists of."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves_of(inner)]
    return [error]
