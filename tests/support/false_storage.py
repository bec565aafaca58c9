"""A storage node that joined like any other and means no good: it says what a test tells it, in words that bite.

It stands on our own runtime, so that its certificate, its beats and its frames are right and only what it says is not.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from protocol import messages as m
from protocol.ids import Role
from runtime.heartbeat import BeatStatus, TrackerLink
from runtime.inventory import InventoryBook
from runtime.keyring import Keyring
from runtime.link import Link
from runtime.links import Links
from runtime.real import real_runtime

SECONDS_MAX = 15.0
# Room for whatever is put.
ROOM_BYTES = 1 << 50


class FalseStorage:
    """``answer`` says what a proposal is answered with. ``tell`` says something to the tracker. ``addresses``: where it
    says that it is, if not where it listens."""

    def __init__(
        self,
        keyring: Keyring,
        name: str,
        answer: Callable[[m.Propose], m.Message],
        addresses: tuple[str, ...] | None = None,
    ) -> None:
        runtime = real_runtime()
        self.proposals: list[m.Propose] = []
        self.heard: list[m.Message] = []
        self._answer = answer
        self._runtime = runtime
        self._links = Links(runtime, keyring.credentials, name=name, serve=self._serve)
        self._told_addresses = addresses
        self._book = InventoryBook(runtime.random.getrandbits(50))
        self._tracker = TrackerLink(
            runtime, self._links, keyring.trackers, lambda: BeatStatus(room_bytes=ROOM_BYTES), self._book, self._hear
        )
        self.node = keyring.credentials.node

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until cancelled; started once the tracker knows us."""
        listener = await self._runtime.network.listen("127.0.0.1", 0)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._links.run, (listener,))
            if self._told_addresses is not None:
                self._links.addresses = self._told_addresses
            nursery.start_soon(self._tracker.run)
            with trio.fail_after(SECONDS_MAX):
                await self._tracker.wait_connected()
            task_status.started()

    def tell(self, message: m.Message) -> None:
        """Say something to the tracker."""
        self._tracker.post(message)

    def hold(self, held: m.Holding) -> None:
        """Say that we have it."""
        self._book.hold(held)

    def _hear(self, message: m.Message) -> None:
        self.heard.append(message)

    async def _serve(self, link: Link) -> None:
        if link.peer.role is Role.TRACKER:
            await self._tracker.serve(link)
            return
        async for message in link.messages():
            self.heard.append(message)
            if isinstance(message, m.Propose):
                self.proposals.append(message)
                link.post(self._answer(message))
