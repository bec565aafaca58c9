"""What users do in a chaotic world: put, get, share, unshare, pause, limit, cancel; and again when nobody answered."""

from __future__ import annotations

import trio
from simulation.hosts import DaemonHost, Down
from simulation.schedule import SIZES, Deed
from simulation.world import World

from protocol.errors import UpswarmError
from protocol.ids import Tag

TRIES_MAX = 20
OWN_FILE = 3  # the content that nobody gets


class Deeds:
    """``unfinished``: puts that somebody still tries to have accepted; the world cannot be judged before."""

    def __init__(self, world: World) -> None:
        self.unfinished = 0
        self._world = world

    async def let_go(self) -> None:
        """Users take back whatever holds their transfers up."""
        for host in self._world.daemons():
            while host.joined:
                try:
                    await host.call("resume")
                    await host.call("limit", up="off", down="off", help="off")
                    break
                except Down:
                    await trio.sleep(0.5)  # it is just starting

    async def do(self, deed: Deed) -> None:
        """Wait for the moment of ``deed``, and do it."""
        await trio.sleep_until(deed.at)
        daemons = self._world.daemons()
        host = daemons[deed.daemon % len(daemons)]
        size = SIZES[deed.content % len(SIZES)]
        self._world.note("deed", deed.kind, host.name, deed.content)
        try:
            match deed.kind:
                case "put":
                    await self._put(host, size, deed.content)
                case "get":
                    await self._get(host, size, deed.content)
                case "share":
                    path = self._world.write_file(host, f"file{deed.content}.bin", size, deed.content)
                    await host.call("share", paths=[str(path)])
                case "unshare":
                    path = self._world.write_file(host, f"file{deed.content}.bin", size, deed.content)
                    await host.call("unshare", what=str(path))
                case "pause":
                    await host.call("pause")
                    await trio.sleep(6)
                    if self._world.chaos:
                        await host.call("resume")
                case "limit":
                    await host.call("limit", up=50_000, down=200_000)
                case "cancel":
                    await self._cancel(host)
                case _:
                    raise AssertionError(deed.kind)
        except (Down, UpswarmError) as error:
            self._world.note("deed refused", deed.kind, host.name, type(error).__name__)

    async def _put(self, host: DaemonHost, size: int, content: int) -> None:
        path = self._world.write_file(host, f"file{content}.bin", size, content)
        self.unfinished += 1
        for _ in range(TRIES_MAX):
            try:
                await self._world.put(host, path)
                break
            except (Down, UpswarmError) as error:
                self._world.note("put refused", host.name, type(error).__name__)
                await trio.sleep(1.5)
        self.unfinished -= 1

    async def _get(self, host: DaemonHost, size: int, content: int) -> None:
        world = self._world
        known = [tag for tag, data in world.checks.known.items() if len(data) == size]
        if not known or content == OWN_FILE:
            return
        result = await host.call("get", what=str(known[0]), output=None)
        world.checks.got(host, Tag.parse(result["tag"]), result["path"])

    async def _cancel(self, host: DaemonHost) -> None:
        if host.program is None:
            raise Down(host.name)
        put = next(iter(host.program.puts.active()), None)
        if put is None:
            return
        if put.tag is not None:
            self._world.checks.put_was_given_up(host, put.tag)
        else:
            self._world.checks.put_was_given_up(host, self._world.files[str(put.path)][1].tag)
        await host.call("cancel", id=put.id)
