"""Somebody who answers at a node's address and is not that node: it must learn nothing."""

from __future__ import annotations

import functools
import ssl

import trio
from simulation.hosts import WALL_BEGIN, DaemonHost, SimHost, StorageHost
from simulation.network import SimNet, SimStream
from simulation.world import World
from support.plain_security import _receive as plain_receive
from support.plain_security import _send as plain_send
from support.swarm import SwarmCa

from protocol.errors import LinkLost, NotTrusted
from protocol.ids import Role
from protocol.limits import ALPN_JOIN
from runtime.identity import Credentials
from runtime.tls import TlsStream
from runtime.tls import _make_context as make_context

MEET_SECONDS_MAX = 30.0


@functools.cache
def strangers_credentials() -> Credentials:
    """Return what a storage node of another swarm shows."""
    return SwarmCa("another swarm", WALL_BEGIN).credentials("storage1", Role.STORAGE)


class Impostor:
    """Takes the place of ``victim``, which is down; it shows ``credentials`` and takes what it is given.

    ``heard`` is what came after the handshake had shown who it is.
    """

    def __init__(self, world: World, victim: SimHost, credentials: Credentials) -> None:
        self.name = f"impostor of {victim.name}"
        self.heard: list[bytes] = []
        self.met = 0
        self._world = world
        self._victim = victim
        self._credentials = credentials
        self._listens_at = 4200 if isinstance(victim, StorageHost) else 4101 if isinstance(victim, DaemonHost) else 4100
        world.checks.impostors.append(self)

    async def run(self, scope: trio.CancelScope) -> None:
        """Take the victim's place in the network until ``scope`` is cancelled."""
        port = self._victim.port
        port.alive = True
        listener = await SimNet(self._world.network, port).listen(port.address, self._listens_at)
        try:
            with scope:
                async with trio.open_nursery() as visitors:
                    while True:
                        stream = await listener.accept()
                        self.met += 1
                        visitors.start_soon(self._meet, stream)
        finally:
            listener.close()
            port.alive = False

    async def _meet(self, stream: SimStream) -> None:
        buffer = memoryview(bytearray(65536))
        try:
            with trio.move_on_after(MEET_SECONDS_MAX):
                secure = await self._show_credentials(stream)
                while count := await secure.receive_into(buffer):
                    self.heard.append(bytes(buffer[:count]))
        except (LinkLost, NotTrusted):
            pass
        finally:
            stream.close()

    async def _show_credentials(self, stream: SimStream) -> SimStream | TlsStream:
        """Be the listening side of a handshake, and leave it to them to refuse."""
        if not self._world.shape.tls:
            alpn = await plain_receive(stream)
            await plain_send(stream, self._credentials.certificate)
            if alpn == ALPN_JOIN.encode():
                await plain_receive(stream)  # whoever joins shows no certificate, in so many words
            return stream
        context = make_context(self._credentials, server_side=True, door=False)
        context.verify_mode = ssl.CERT_NONE
        tls = TlsStream(stream, context, server_side=True)
        await tls.handshake(lambda _tls: None)
        return tls
