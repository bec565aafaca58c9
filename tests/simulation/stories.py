"""What stories are told with: a world that is watched, conditions that are waited for, and hosts that lie.

A story is a coroutine function with a world; ``tell`` runs it. Stories that a planted bug must break are here too, as
functions, so that planted.py can use them; the readable ones are tests of their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from simulation.chaos import REST_SECONDS_MAX, SETTLE_SECONDS, watch
from simulation.hosts import USER, Down, SimHost
from simulation.impostor import Impostor, strangers_credentials
from simulation.promises import Promise, Violation
from simulation.world import MIB, Run, Shape, Story, World, simulate

from protocol.errors import UpswarmError
from protocol.ids import Tag
from protocol.limits import ORDER_SECONDS_MAX
from protocol.manifest import Manifest
from runtime.identity import Credentials

WASTED_SHARE_MAX = 0.02


def tell(story: Story, shape: Shape | None = None, *, seed: int = 0, trace: list[str] | None = None) -> Run:
    """Run ``story`` to its end in the world of ``seed``."""
    return simulate(seed, story, shape or Shape(), trace=trace)


@asynccontextmanager
async def watched(world: World, *, settle_seconds: float = SETTLE_SECONDS) -> AsyncIterator[trio.Nursery]:
    """Boot ``world``, look at it every second while the block lasts, and require that all comes to a good end."""
    await world.boot()
    async with trio.open_nursery() as beside:
        beside.start_soon(watch, world)
        yield beside
        await world.heal()
        await world.settled(settle_seconds)
        with trio.move_on_after(REST_SECONDS_MAX):
            while not world.checks.index_is_right():
                await trio.sleep(1)
        beside.cancel_scope.cancel()


async def until(condition: Callable[[], Any], seconds: float, *, between_seconds: float = 0.05) -> None:
    """Wait until ``condition`` holds. Raises ``Violation`` when that takes longer."""
    with trio.move_on_after(seconds):
        while not condition():
            await trio.sleep(between_seconds)
        return
    what = getattr(condition, "__doc__", None) or getattr(condition, "__qualname__", condition)
    raise Violation(Promise.ALL_ENDS, f"after {seconds:.0f} s still not: {what}")


def durable_share(world: World, tag: Tag) -> float:
    """Return how much of ``tag`` storage has, from 0 to 1; 1 is stored."""
    best = 0.0
    for host in world.storages():
        if host.program is not None:
            durable = host.program.shelf.durable(tag)
            if tag in host.program.shelf.stored:
                best = 1.0
            elif durable is not None:
                best = max(best, len(durable) / tag.chunks * 0.999)
    return best


def stored(world: World, tag: Tag) -> Callable[[], bool]:
    """Return the condition that some storage node has all of ``tag``."""
    return lambda: any(host.program is not None and tag in host.program.shelf.stored for host in world.storages())


def put_state(host: SimHost, tag: Tag) -> str:
    """Return what the daemon says of its put."""
    return next((put.state.value for put in host.program.puts.all() if put.tag == tag), "unknown")


async def share(world: World, host: SimHost, name: str, size: int, content: int) -> Manifest:
    """Let ``host`` share a file, so that it can help to upload it."""
    path = world.write_file(host, name, size, content)
    await host.call("share", paths=[str(path)])
    return world.files[str(path)][1]


async def begin_put(world: World, host: SimHost, size: int, content: int = 1) -> Manifest:
    """Let ``host`` put a file; return at once."""
    return await world.put(host, world.write_file(host, f"file{content}.bin", size, content))


def set_uplinks(world: World, bytes_per_second: float) -> None:
    """Give every daemon the same uplink."""
    for host in world.daemons():
        host.port.up_bytes_per_second = bytes_per_second


def has_ended(host: SimHost) -> bool:
    """Whether the put came to an end."""
    return host.program is not None and all(put.state.final for put in host.program.puts.all())


async def put_until_accepted(world: World, host: SimHost, path: Path) -> None:
    """Give the command again and again, as a person would."""
    while True:
        try:
            await world.put(host, path)
            return
        except (Down, UpswarmError):
            await trio.sleep(1)


# --- stories that planted bugs must not survive ---


async def plain_put(world: World) -> None:
    """Nothing goes wrong: two people put the same file, somebody helps, somebody gets it."""
    async with watched(world, settle_seconds=60):
        set_uplinks(world, 1e6)
        one, other, third = world.daemons()[:3]
        await share(world, third, "same.bin", 5 * MIB + 77, 1)
        manifest = await begin_put(world, one, 5 * MIB + 77)
        await begin_put(world, other, 5 * MIB + 77)
        await until(stored(world, manifest.tag), 60)
        everything = set(range(manifest.layout.chunks))
        for storage in world.storages():
            if manifest.tag in storage.program.shelf.stored:
                told = world.checks.acknowledged.get((storage.node, manifest.tag))
                if told != everything:
                    world.checks.fail(Promise.ALL_IS_TOLD, f"of {sorted(everything)} only {told}")
                wasted = storage.program.engine.statistics().wasted_bytes
                if wasted > manifest.layout.size_bytes * WASTED_SHARE_MAX:
                    world.checks.fail(Promise.NOTHING_COMES_TWICE, f"{wasted} bytes came twice")
        got = await third.call("get", what=str(manifest.tag), output="/u/copy.bin")
        world.checks.got(third, manifest.tag, got["path"])


async def liars(world: World) -> None:
    """A third of the helpers send garbage."""
    async with watched(world, settle_seconds=120):
        set_uplinks(world, 1e6)
        uploader, *helpers = world.daemons()
        for helper in helpers[: len(helpers) // 3]:
            await world.make_liar(helper)
        for helper in helpers:
            await share(world, helper, "same.bin", 24 * MIB, 2)
        manifest = await begin_put(world, uploader, 24 * MIB, 2)
        await until(stored(world, manifest.tag), 120)


async def claims_without_bytes(world: World) -> None:
    """Somebody knows a file's digests and claims to have it: knowing is not having."""
    async with watched(world, settle_seconds=30):
        owner, thief = world.daemons()[:2]
        manifest = await begin_put(world, owner, 3 * MIB)
        await until(stored(world, manifest.tag), 60)
        await world.make_liar(thief)
        path = world.write_file(thief, "claimed.bin", 3 * MIB, 1)
        await thief.call("put", paths=[str(path)], wait="no")
        await trio.sleep(30)
        assert put_state(thief, manifest.tag) == "failed"


async def uploader_leaves(world: World) -> None:
    """At 60 % the uploader goes home; whoever has the file finishes the job."""
    async with watched(world):
        set_uplinks(world, 5e5)
        uploader, *helpers = world.daemons()
        for helper in helpers:
            await share(world, helper, "same.bin", 20 * MIB, 3)
            helper.port.up_bytes_per_second = 2e5
        manifest = await begin_put(world, uploader, 20 * MIB, 3)
        await until(lambda: durable_share(world, manifest.tag) >= 0.6, 120)
        await uploader.stop()
        await until(stored(world, manifest.tag), 120)
        await world.start(uploader)
        await until(lambda: put_state(uploader, manifest.tag) == "stored", 60)


async def revoked_amid(world: World) -> None:
    """Somebody is shut out while it helps; nobody who knows deals with it any more."""
    async with watched(world):
        set_uplinks(world, 3e5)
        uploader, victim, *_ = world.daemons()
        await share(world, victim, "same.bin", 8 * MIB, 4)
        manifest = await begin_put(world, uploader, 8 * MIB, 4)
        await until(lambda: durable_share(world, manifest.tag) >= 0.2, 60)
        await world.tracker.call("revoke", node=victim.node)
        assert victim.node is not None
        world.checks.host_is_gone(victim)
        world.checks.revoked.add(victim.node)
        await until(stored(world, manifest.tag), 120)
        await trio.sleep(10)


async def memory_after_restarts(world: World) -> None:
    """Daemons and tracker end and come back; everybody still knows what everybody holds."""
    async with watched(world):
        one, other, *_ = world.daemons()
        await share(world, one, "mine.bin", 2 * MIB + 5, 5)
        await share(world, other, "yours.bin", 1 * MIB, 6)
        await share(world, other, "gone.bin", 700_000, 7)
        await begin_put(world, one, 700_000, 8)
        await trio.sleep(8)
        for host in (world.tracker, one, other):
            if host is other:
                # The second of two changes waits half a second for more, and is never told.
                await share(world, other, "little.bin", 1, 20)
                await other.call("unshare", what=str(USER / "gone.bin"))
            host.crash(power=False)
            await host.wait_ended()
            await world.start(host)
            await trio.sleep(6)
        # Several changes within half a second become one message; then one thing less.
        for content in range(9, 13):
            await share(world, one, f"more{content}.bin", content, content)
        await trio.sleep(6)
        await one.call("unshare", what=str(USER / "mine.bin"))
        await trio.sleep(6)


async def addresses_swapped(world: World) -> None:
    """While the tracker is away, two storage nodes come up with each other's address; all find theirs again."""
    async with watched(world, settle_seconds=120):
        set_uplinks(world, 2e5)
        uploader, *_ = world.daemons()
        one, other = world.storages()
        manifest = await begin_put(world, uploader, 8 * MIB, 9)
        await until(lambda: durable_share(world, manifest.tag) >= 0.3, 60)
        for host in (world.tracker, one, other):
            await host.stop()
        # The router gave each the other's lease. The sealed platters move with their names and keys.
        one.port, other.port = other.port, one.port
        for storage in (one, other):
            await world.start(storage)
        await trio.sleep(15)
        await world.start(world.tracker)
        await until(stored(world, manifest.tag), 120)


async def silence_amid(world: World) -> None:
    """Uploader and storage node cannot hear each other for two minutes, and nobody tells them."""
    async with watched(world):
        set_uplinks(world, 2e5)
        uploader, *_ = world.daemons()
        (storage,) = world.storages()
        manifest = await begin_put(world, uploader, 8 * MIB, 10)
        await until(lambda: durable_share(world, manifest.tag) >= 0.3, 60)
        world.network.partition(uploader.port.address, storage.port.address)
        await trio.sleep(120)
        world.network.join(uploader.port.address, storage.port.address)
        await until(stored(world, manifest.tag), 120)


async def orders_that_come_too_late(world: World) -> None:
    """Helpers are ordered to help with what is stored before they could."""
    async with watched(world):
        set_uplinks(world, 2e6)
        uploader, *helpers = world.daemons()
        for helper in helpers:
            await share(world, helper, "same.bin", 8 * MIB, 11)
        await begin_put(world, uploader, 8 * MIB, 11)
        await trio.sleep(ORDER_SECONDS_MAX + 30)


async def impostor_answers(world: World) -> None:
    """Somebody answers where the storage node was, a stranger or a mere peer: it learns nothing."""
    async with watched(world) as beside:
        (uploader, other, *_), (victim,) = world.daemons(), world.storages()
        set_uplinks(world, 3e5)
        manifest = await begin_put(world, uploader, 5 * MIB + 77)
        await until(lambda: durable_share(world, manifest.tag) >= 0.3, 60)
        member: Credentials = other.program.links.credentials
        victim.crash(power=True)
        await victim.wait_ended()
        for credentials in (strangers_credentials(), member):
            impostor = Impostor(world, victim, credentials)
            scope = trio.CancelScope()
            beside.start_soon(impostor.run, scope)
            await until(lambda met=impostor: met.met >= 2, 120)
            scope.cancel()
            await trio.sleep(1)
            assert not impostor.heard, f"it was told {sum(map(len, impostor.heard))} bytes"
        await world.start(victim)
        await until(stored(world, manifest.tag), 120)
