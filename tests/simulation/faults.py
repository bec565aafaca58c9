"""What happens to a world: crashes at any moment, any await and any disk operation; disks, lines and clocks that fail;
strangers at somebody's address; nodes that come and nodes that are shut out.

Every fault ends by itself, at the latest when the world is healed (``World.heal``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio
from simulation.disk import FailOperation, HostCrashed, nothing_fails
from simulation.hosts import DaemonHost, Down, SimHost
from simulation.impostor import Impostor, strangers_credentials
from simulation.schedule import CHAOS_SECONDS, Fault
from simulation.world import MIB, World

from protocol.errors import UpswarmError
from protocol.ids import Tag

# An operation that may fail for good without being the user's file that cannot be read.
WRITING = ("write", "sync", "resize", "rename", "link", "sync_folder", "write_small", "open_write", "make_folder")
READING = ("read", "open_read", "status", "list")
RESTART_SECONDS = 2.0
SLOW_BYTES_PER_SECOND = 20_000.0
SKEWS_SECONDS = (-86400.0, -3600.0, -5.0, 400.0, 3600.0)


class CrashAtAwait(trio.abc.Instrument):
    """Ends a host's life just before its ``steps``-th step from now on, wherever its tasks are waiting then."""

    def __init__(self, host: SimHost, steps: int, crash: Callable[[], None]) -> None:
        self.steps = 0
        self._host = host
        self._left = steps
        self._crash = crash
        self._ours: dict[trio.lowlevel.Task, bool] = {}

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        ours = self._ours.get(task)
        if ours is None:
            ours = self._ours[task] = self._is_ours(task)
        if not ours:
            return
        self.steps += 1
        if self.steps == self._left:
            self._crash()

    def _is_ours(self, task: trio.lowlevel.Task | None) -> bool:
        while task is not None and task is not self._host.task:
            task = None if task.parent_nursery is None else task.parent_nursery.parent_task
        return task is not None


class Faults:
    """``unfinished``: what must be finished before the world may be judged."""

    def __init__(self, world: World) -> None:
        self.unfinished = 0
        self._world = world
        self._late = 0

    async def supervise(self, host: SimHost) -> None:
        """What systemd does: a program that ended by itself is started again a moment later."""
        while True:
            await host.wait_ended()
            await trio.sleep(RESTART_SECONDS)
            while host.usurper is not None:
                await trio.sleep(0.5)
            if host.joined:
                await self._world.start(host)

    async def strike(self, fault: Fault) -> None:
        """Wait for the moment of ``fault``, and let it happen."""
        await trio.sleep_until(fault.at)
        world = self._world
        names = sorted(world.hosts)
        host = world.hosts[names[fault.host % len(names)]]
        world.note("fault", fault.kind, host.name, fault.seconds)
        network, platter = world.network, host.platter
        match fault.kind:
            case "kill":
                host.crash(power=False)
            case "power":
                self._cut_power(host)
            case "power-at":
                self._cut_power_within(host, int(fault.seconds * 10) + 1)
            case "kill-await":
                await self._crash_at_await(host, int(fault.seconds * 15) + 1, lambda: host.crash(power=False))
            case "power-await":
                await self._crash_at_await(host, int(fault.seconds * 15) + 1, lambda: self._cut_power(host))
            case "stop":
                await host.stop()
            case "partition":
                await self._split([host], [world.rng.choice(self._others([host]))], fault.seconds)
            case "isolate":
                await self._split([host], self._others([host]), fault.seconds * 3)
            case "camps":
                camp = [host, *(other for other in self._others([host]) if world.rng.random() < 0.5)]
                await self._split(camp, self._others(camp), fault.seconds * 2)
            case "reset":
                network.reset_one()
            case "refuse":
                network.refusing[host.port.address] = 1
                await trio.sleep(fault.seconds)
                network.refusing.pop(host.port.address, None)
            case "suspend":
                await host.suspend(fault.seconds * 3)
            case "skew":
                host.clock.skew_seconds = world.rng.choice(SKEWS_SECONDS)
            case "fsync":
                left = [True]
                platter.fsync_fails = lambda: bool(left) and left.pop()
            case "eio":
                platter.fail_operation = fail_once(int(fault.seconds * 10) + 1, "broken", WRITING)
            case "eio-read":
                self._fail_read(host, int(fault.seconds * 10) + 1)
            case "full":
                world.checks.disk_was_full = True
                platter.capacity_bytes = platter.used_bytes() + world.rng.randrange(3 * MIB)
                await trio.sleep(fault.seconds)
                platter.capacity_bytes = 1 << 40
            case "slow":
                before = host.port.up_bytes_per_second
                host.port.up_bytes_per_second = SLOW_BYTES_PER_SECOND
                await trio.sleep(fault.seconds)
                host.port.up_bytes_per_second = before
            case "slow-down":
                before = host.port.down_bytes_per_second
                host.port.down_bytes_per_second = SLOW_BYTES_PER_SECOND
                await trio.sleep(fault.seconds)
                host.port.down_bytes_per_second = before
            case "rot":
                self._rot(host)
            case "join":
                await self._join()
            case "revoke":
                await self._revoke()
            case "impostor":
                await self._usurp(host, fault.seconds)
            case _:
                raise AssertionError(fault.kind)

    def _others(self, hosts: list[SimHost]) -> list[SimHost]:
        return [other for other in self._world.hosts.values() if other not in hosts]

    async def _split(self, one: list[SimHost], other: list[SimHost], seconds: float) -> None:
        """Nothing arrives between the two groups any more, and nobody is told."""
        network = self._world.network
        pairs = [(a.port.address, b.port.address) for a in one for b in other]
        for a, b in pairs:
            network.partition(a, b)
        await trio.sleep(seconds)
        for a, b in pairs:
            network.join(a, b)

    # --- crashes ---

    def _cut_power(self, host: SimHost) -> None:
        host.crash(power=True)
        self._world.checks.power_has_gone(host)

    async def _crash_at_await(self, host: SimHost, steps: int, crash: Callable[[], None]) -> None:
        if not host.running:
            return
        fuse = CrashAtAwait(host, steps, crash)
        trio.lowlevel.add_instrument(fuse)
        try:
            # It may end otherwise, or never come so far.
            with trio.move_on_at(CHAOS_SECONDS):
                await host.wait_ended()
        finally:
            trio.lowlevel.remove_instrument(fuse)

    def _cut_power_within(self, host: SimHost, operations: int) -> None:
        """The power goes in the middle of the disk operation that comes so many later."""
        left = [operations]

        def fail(_number: int, _what: str, _path: Path) -> str | None:
            left[0] -= 1
            if left[0]:
                return None
            host.platter.fail_operation = nothing_fails
            self._world.note("power gone", host.name)
            self._cut_power(host)
            raise HostCrashed

        host.platter.fail_operation = fail

    # --- disks ---

    def _fail_read(self, host: SimHost, operations: int) -> None:
        """A sector cannot be read, once. Of daemons it might be the user's file, of which only he has another one; who
        cannot read his own settings at the start ends with a sentence for the operator; and a stored file that cannot
        be read is lost until somebody puts it again: that is a story of its own."""
        if isinstance(host, DaemonHost):
            return
        life = host.lives
        fail = fail_once(operations, "broken", READING)

        def fail_while_alive(number: int, what: str, path: Path) -> str | None:
            spared = host.program is None or host.lives != life or "objects" in path.parts
            return None if spared else fail(number, what, path)

        host.platter.fail_operation = fail_while_alive

    def _rot(self, host: SimHost) -> None:
        """Flip a bit of an upload that is not yet stored."""
        platter = host.platter
        spools = sorted(p for p, i in platter.names.items() if i is not None and "spool" in p.parts and len(i.data))
        if spools:
            path = self._world.rng.choice(spools)
            inode = platter.names[path]
            assert inode is not None
            inode.flip(self._world.rng.randrange(len(inode.data)))
            self._world.checks.tampered.add(Tag.parse(path.name))

    # --- who is who ---

    async def _usurp(self, host: SimHost, seconds: float) -> None:
        """The host dies, and for a while somebody else answers at its address: a stranger, or another member."""
        world = self._world
        members = [other for other in world.daemons() if other is not host and other.program is not None]
        if not host.running or host.usurper is not None:
            return
        credentials = strangers_credentials()
        if members and world.rng.random() < 0.5:
            credentials = world.rng.choice(members).program.links.credentials
        scope = host.usurper = trio.move_on_after(seconds)
        self._cut_power(host)
        await host.wait_ended()
        impostor = Impostor(world, host, credentials)
        try:
            await impostor.run(scope)
        finally:
            host.usurper = None

    async def _join(self) -> None:
        """A new node joins while all this happens; whoever invites it tries until it works."""
        world = self._world
        self._late += 1
        self.unfinished += 1
        name = f"late{self._late}"
        host = world.place(DaemonHost, name, f"10.9.0.{self._late}")
        host.joined = False
        while True:
            try:
                await world.join(DaemonHost, name, host.port.address)
                break
            except (Down, UpswarmError) as error:
                world.note("not joined", name, type(error).__name__)
                await trio.sleep(1.5)
        self.unfinished -= 1
        await self.supervise(host)

    async def _revoke(self) -> None:
        """The last daemon is shut out, if there are others; whoever runs the tracker tries until it has worked."""
        world = self._world
        there = [other for other in world.daemons() if other.joined and other.node not in world.checks.revoked]
        if len(there) < 2:
            return
        victim = there[-1]
        assert victim.node is not None
        world.checks.host_is_gone(victim)
        self.unfinished += 1
        while True:
            try:
                await world.tracker.call("revoke", node=victim.node)
                break
            except (Down, UpswarmError) as error:
                world.note("not revoked", victim.name, type(error).__name__)
                await trio.sleep(1.5)
        world.checks.revoked.add(victim.node)
        world.checks.host_is_gone(victim)
        self.unfinished -= 1


def fail_once(operations: int, how: str, kinds: tuple[str, ...]) -> FailOperation:
    """Return a ``fail_operation`` that lets the n-th operation of these kinds from now on fail."""
    left = [operations]

    def fail(_number: int, what: str, _path: Path) -> str | None:
        if what not in kinds:
            return None
        left[0] -= 1
        return how if left[0] == 0 else None

    return fail
