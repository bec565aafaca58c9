"""What a tracker that is not the only one of its swarm has more than another: a Redis in common with the others.

Puts together the connection, the shared index, and the fellows (fellows.py), and keeps them going. Imported only where
``[tracker] redis`` is set: its library need not be installed elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from protocol import messages as m
from protocol.ids import NodeAddress, NodeId
from runtime.redis import RedisAddress, RedisServer
from runtime.seam import Clock
from tracker.fellows import Fellows
from tracker.index.base import Patience
from tracker.index.memory import MemoryIndex
from tracker.index.redis import TIME_SECONDS, RedisIndex
from tracker.index.steady import SteadyIndex
from tracker.membership import Member
from tracker.registrar import Registrar

LOOK_SECONDS = 1.0


class Sharing:
    """``run()`` it. ``index`` can be used before."""

    def __init__(
        self, address: RedisAddress, password: str, registrar: Registrar, clock: Clock, node: NodeId, patience: Patience
    ) -> None:
        self._clock = clock
        self._registrar = registrar
        self._server = RedisServer(address, password, on_back=self._back)
        shared = RedisIndex(self._server, patience, swarm=registrar.authority.swarm, tracker=node)
        self.index = SteadyIndex(shared, MemoryIndex(patience))
        self.fellows: Fellows | None = None

    def meet(
        self,
        own: Callable[[], NodeAddress],
        *,
        deliver: Callable[[NodeId, m.Message], None],
        on_trackers: Callable[[tuple[NodeAddress, ...]], None],
        on_revoked: Callable[[Member], Awaitable[None]],
    ) -> Fellows:
        """Return the other trackers; see ``Fellows``."""
        self.fellows = Fellows(
            self._server,
            self._registrar,
            self._clock,
            own,
            deliver=deliver,
            on_trackers=on_trackers,
            on_revoked=on_revoked,
        )
        self._registrar.on_change = self.fellows.sync_soon
        return self.fellows

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Stay connected until cancelled. Started once it was tried."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._server.run)
            agreed = self._clock.monotonic()
            await self.index.agree_on_time(agreed)
            task_status.started()
            if self.fellows is not None:
                nursery.start_soon(self.fellows.run)
            while True:
                await trio.sleep(LOOK_SECONDS)
                now = self._clock.monotonic()
                if self._server.available and (self.index.away is not None or now - agreed > TIME_SECONDS):
                    agreed = now
                    await self.index.agree_on_time(now)

    def _back(self) -> None:
        if self.fellows is not None:
            self.fellows.sync_soon()
