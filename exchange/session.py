"""One link's part in the exchange, both ways: what was offered and asked over it, and the blocks that travel.

Requests we sent are remembered here until they are answered, each exactly once, so that a block nobody asked for is
noticed. Which blocks to request is the picker's choice (swarm.py), when to send one the uplink's (engine.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio

from exchange.lane import Lane
from exchange.seeding import Turn
from exchange.uplink import Purpose, Wanted
from protocol import messages as m
from protocol.bitmap import Bitmap
from protocol.errors import ChunkMissing, IntegrityError, LinkLost, NotFound, RemoteProtocolError, StorageUnavailable
from protocol.ids import Role, Tag
from protocol.limits import CHUNKS_PER_HAVE_MAX, REQUESTS_PER_LINK_MAX
from protocol.manifest import Layout, Manifest
from runtime.link import Link

if TYPE_CHECKING:
    from exchange.engine import Engine

# Offers for tags that nobody here fetches (yet): a job may open a moment after its helpers offered.
OFFERS_REMEMBERED_MAX = 256
SUBSCRIPTIONS_MAX = 4096
# Tags that they fetch for storage, as far as we remember them: more than anybody relays at a time (daemon/relays.py).
LENT_MAX = 64
MANIFEST_SECONDS_MAX = 30.0


class Session:
    """Made by ``Engine.session``. ``number`` names this link among all, and is never used again; ``lane`` is what it
    owes us."""

    def __init__(self, engine: Engine, link: Link, number: int) -> None:
        self.link = link
        self.number = number
        self.lane = Lane()
        self.offered: dict[Tag, None] = {}  # what we offered or were asked for: they hear of more
        self._engine = engine
        self._lent: dict[Tag, None] = {}  # what they said to fetch for storage, last
        self._due: dict[tuple[Tag, int, int], int] = {}  # requests they have not answered -> length
        self._offers: OrderedDict[Tag, tuple[Bitmap, int]] = OrderedDict()
        self._suggestion: tuple[Tag, list[int]] | None = None
        self._manifest_waits: dict[Tag, list[trio.MemorySendChannel[Manifest | NotFound | IntegrityError]]] = {}
        grants_in, self._grants = trio.open_memory_channel[Wanted](8)
        self._granting = grants_in
        self._scope = trio.CancelScope()

    @property
    def requests_due(self) -> int:
        """How many of our requests they have not answered."""
        return len(self._due)

    # --- what they say ---

    async def handle(self, message: m.Message) -> bool:
        """Deal with ``message`` if it is the exchange's; False: it is not.

        Raises:
            RemoteProtocolError: it may not be said like this.
            LinkLost: the link broke within a block.
        """
        match message:
            case m.Block():
                await self._receive_block(message)
            case m.Request():
                self._receive_request(message)
            case m.Have():
                self._receive_have(message)
            case m.Offer():
                self._receive_offer(message)
            case m.Ask():
                self._receive_ask(message)
            case m.Reject():
                self._receive_reject(message)
            case m.Suggest():
                self._receive_suggestion(message)
            case m.Lend():
                # To a storage node it means more: the program says so (Engine.lend).
                self._receive_lend(message.tag)
                return False
            case m.Cancel():
                withdrawn = self._engine.uplink.cancel(self.number, message.tag, message.chunk, message.offset)
                if withdrawn is not None:
                    self._reject(withdrawn, "cancelled")
            case m.NotHeld():
                self._offers.pop(message.tag, None)
                swarm = self._engine.swarm_of(message.tag)
                if swarm is not None:
                    swarm.detach(self.number)
                self._resolve(message.tag, NotFound(f"{self.link.peer.node[:8]} does not hold {message.tag}"))
            case m.Complete():
                self.offered.pop(message.tag, None)
                self._lent.pop(message.tag, None)
                for wanted in self._engine.uplink.forget(self.number, message.tag):
                    self._reject(wanted, "cancelled")
                self._engine.completed(self, message.tag)
            case m.NeedManifest():
                await self._send_manifest(message.tag)
            case m.ManifestIs():
                return self._receive_manifest(message)
            case _:
                return False
        return True

    def _receive_lend(self, tag: Tag) -> None:
        held = self._engine.holdings.holding(tag)
        origin = held is not None and held.bitmap.complete
        self._engine.seeding.relays(self.number, tag, self._engine.now(), origin=origin)
        self._engine.uplink.in_turn(self.number)
        self._lent.pop(tag, None)
        self._lent[tag] = None
        if len(self._lent) > LENT_MAX:
            # Nobody relays so many at a time; they may name endless ones, held by nobody.
            oldest = next(iter(self._lent))
            del self._lent[oldest]
            if oldest not in self.offered:
                self._engine.seeding.leave(self.number, oldest)

    async def _receive_block(self, block: m.Block) -> None:
        length = self._due.pop((block.tag, block.chunk, block.offset), None)
        if length != block.length:
            raise RemoteProtocolError(f"a block that was not requested: chunk {block.chunk} offset {block.offset}")
        swarm = self._engine.swarm_of(block.tag)
        useful = swarm is not None and swarm.accepts(self.number, block.chunk, block.offset)
        buffer = await self._engine.receiving.take(block.length)
        kept = False
        try:
            await self.link.receive_raw(buffer)
            self._engine.received(block.length)
            swarm = self._engine.swarm_of(block.tag)
            if swarm is None:
                self._engine.wasted_bytes += block.length
            elif useful:
                kept = swarm.take(self.number, block.chunk, block.offset, buffer)
            else:
                swarm.unused(self.number, block.chunk, block.offset, gone=False, size_bytes=block.length)
        finally:
            if not kept:
                self._engine.receiving.give_back(buffer)

    def _receive_request(self, request: m.Request) -> None:
        wanted = Wanted(request.tag, request.chunk, request.offset, request.length)
        if self._engine.uplink.waiting(self.number) >= REQUESTS_PER_LINK_MAX:
            raise RemoteProtocolError(f"more than {REQUESTS_PER_LINK_MAX} requests at once")
        held = self._engine.holdings.holding(request.tag)
        if held is None or request.chunk not in held.bitmap:
            self._reject(wanted, "gone")
            return
        if request.offset + request.length > held.layout.bytes_of(request.chunk):
            raise RemoteProtocolError(f"a request beyond the end of chunk {request.chunk}")
        turn = self._engine.enqueue(self, wanted, Purpose.OWN if held.own else Purpose.HELP)
        if turn is Turn.ELSEWHERE:
            self._reject(wanted, "busy")
        elif turn is None:
            raise RemoteProtocolError(f"a second request for chunk {request.chunk} offset {request.offset}")
        self._suggest(request.tag, held.bitmap)

    def _receive_have(self, have: m.Have) -> None:
        chunks = [chunk for chunk in have.chunks if chunk < have.tag.chunks]
        swarm = self._engine.swarm_of(have.tag)
        if have.tag in self._offers:
            for chunk in chunks:
                self._offers[have.tag][0].add(chunk)
        if swarm is not None:
            swarm.have(self.number, chunks)

    def _receive_offer(self, offer: m.Offer) -> None:
        chunks = offer.tag.chunks
        if Layout.of_size(offer.size_bytes).chunks != chunks:
            raise RemoteProtocolError(f"an offer of {chunks} chunks for {offer.size_bytes} bytes")
        try:
            bitmap = Bitmap.from_bytes(chunks, offer.bitmap) if offer.bitmap else Bitmap.full(chunks)
        except ValueError as error:
            raise RemoteProtocolError(str(error)) from error
        held = self._engine.holdings.holding(offer.tag)
        if held is not None and held.bitmap.complete:
            self.link.post(m.Complete(tag=offer.tag))
            return
        self._offers[offer.tag] = (bitmap, offer.size_bytes)
        self._offers.move_to_end(offer.tag)
        if len(self._offers) > OFFERS_REMEMBERED_MAX:
            self._offers.popitem(last=False)
        swarm = self._engine.swarm_of(offer.tag)
        if swarm is not None:
            swarm.attach(self, bitmap, offer.size_bytes)

    def _receive_ask(self, ask: m.Ask) -> None:
        if self._engine.holdings.holding(ask.tag) is None:
            self.link.post(m.NotHeld(tag=ask.tag))
        else:
            self.offer(ask.tag)

    def _receive_reject(self, reject: m.Reject) -> None:
        if self._due.pop((reject.tag, reject.chunk, reject.offset), None) is None:
            raise RemoteProtocolError("a rejection of what was not requested")
        swarm = self._engine.swarm_of(reject.tag)
        if swarm is not None:
            swarm.unused(self.number, reject.chunk, reject.offset, gone=reject.code == "gone")

    def _receive_suggestion(self, suggestion: m.Suggest) -> None:
        chunks = [chunk for chunk in suggestion.chunks if chunk < suggestion.tag.chunks]
        swarm = self._engine.swarm_of(suggestion.tag)
        if swarm is not None and swarm.is_source(self.number):
            swarm.suggested(self.number, chunks)
        else:
            # It comes before the offer it is about.
            self._suggestion = (suggestion.tag, chunks)

    def _receive_manifest(self, message: m.ManifestIs) -> bool:
        if message.tag not in self._manifest_waits:
            return False
        try:
            self._resolve(message.tag, Manifest.checked(message.tag, message.size_bytes, message.digests))
        except IntegrityError as error:
            self._resolve(message.tag, error)
        return True

    async def _send_manifest(self, tag: Tag) -> None:
        holdings = self._engine.holdings
        # What is remembered of a file that is not offered any more would keep a download waiting for it.
        manifest = await holdings.manifest(tag) if holdings.holding(tag) is not None else None
        if manifest is None:
            self.link.post(m.NotHeld(tag=tag))
        else:
            self.link.post(m.ManifestIs(tag=tag, size_bytes=manifest.size_bytes, digests=manifest.joined_digests()))

    # --- what we say ---

    def request(self, tag: Tag, chunk: int, offset: int, length: int) -> None:
        """Request a block. One that an earlier fetch of the tag requested and gave up is answered already: once."""
        if (tag, chunk, offset) in self._due:
            return
        self._due[(tag, chunk, offset)] = length
        self.link.post(m.Request(tag=tag, chunk=chunk, offset=offset, length=length))

    def cancel(self, tag: Tag, chunk: int, offset: int) -> None:
        """Cancel a request; it is still answered."""
        self.link.post(m.Cancel(tag=tag, chunk=chunk, offset=offset))

    def assign(self, tag: Tag, chunks: Iterable[int]) -> None:
        """Tell a lender which chunks to fetch for us next."""
        rest = tuple(chunks)
        self.link.post(m.Assign(tag=tag, chunks=rest[:CHUNKS_PER_HAVE_MAX]))

    def offer(self, tag: Tag) -> None:
        """Tell them what we hold of ``tag``, and of more as it comes. Holding nothing is told too."""
        held = self._engine.holdings.holding(tag)
        if held is None:
            self.link.post(m.NotHeld(tag=tag))
            return
        if len(self.offered) >= SUBSCRIPTIONS_MAX:
            self.offered.pop(next(iter(self.offered)))
        self.offered[tag] = None
        storage, origin = self.link.peer.role is Role.STORAGE, held.bitmap.complete
        self._engine.seeding.join(self.number, tag, self._engine.now(), storage=storage, origin=origin)
        # First: with the offer they begin to choose.
        self._suggest(tag, held.bitmap)
        bitmap = b"" if held.bitmap.complete else held.bitmap.to_bytes()
        self.link.post(m.Offer(tag=tag, size_bytes=held.layout.size_bytes, bitmap=bitmap))

    def _suggest(self, tag: Tag, held: Bitmap) -> None:
        chunks = self._engine.seeding.suggestions(self.number, tag, held, self._engine.now())
        if chunks:
            self.link.post(m.Suggest(tag=tag, chunks=tuple(chunks)))

    def tell_have(self, tag: Tag, chunks: Iterable[int]) -> None:
        """Tell them of more chunks, if they care."""
        if tag in self.offered:
            rest = tuple(chunks)
            while rest:
                self.link.post(m.Have(tag=tag, chunks=rest[:CHUNKS_PER_HAVE_MAX]))
                rest = rest[CHUNKS_PER_HAVE_MAX:]

    def tell_lost(self, tag: Tag) -> None:
        """Tell them that we hold nothing of it any more."""
        if self.offered.pop(tag, "") is None:
            self.link.post(m.NotHeld(tag=tag))

    def finished(self, tag: Tag) -> None:
        """Tell them that nothing of ``tag`` is wanted any more."""
        self._offers.pop(tag, None)
        self.link.post(m.Complete(tag=tag))

    def remembered_suggestion(self, tag: Tag) -> list[int]:
        """Return what they suggested before their offer of ``tag``, and forget it."""
        if self._suggestion is None or self._suggestion[0] != tag:
            return []
        (_, chunks), self._suggestion = self._suggestion, None
        return chunks

    def remembered_offer(self, tag: Tag) -> tuple[Bitmap, int] | None:
        """Return what they offered of ``tag``, and the size they say it has."""
        return self._offers.get(tag)

    async def need_manifest(self, tag: Tag) -> Manifest:
        """Ask them for a manifest. Raises ``NotFound``, ``IntegrityError`` or ``LinkLost``."""
        sender, receiver = trio.open_memory_channel[Manifest | NotFound | IntegrityError](1)
        waits = self._manifest_waits.setdefault(tag, [])
        if not waits:
            # One question for all who wait: its answer is for all of them.
            self.link.post(m.NeedManifest(tag=tag))
        waits.append(sender)
        try:
            with trio.fail_after(MANIFEST_SECONDS_MAX):
                answer = await receiver.receive()
        except (trio.TooSlowError, trio.EndOfChannel) as error:
            raise LinkLost(f"{self.link.remote} did not send the manifest of {tag}") from error
        finally:
            if sender in waits:
                waits.remove(sender)
            if not waits and self._manifest_waits.get(tag) is waits:
                del self._manifest_waits[tag]
        if isinstance(answer, Manifest):
            return answer
        raise answer

    def _resolve(self, tag: Tag, answer: Manifest | NotFound | IntegrityError) -> None:
        # Taken out with the first answer: a second one, asked for or not, has nobody left to block on.
        for sender in self._manifest_waits.pop(tag, ()):
            sender.send_nowait(answer)

    def _reject(self, wanted: Wanted, code: str) -> None:
        self.link.post(
            m.Reject(tag=wanted.tag, chunk=wanted.chunk, offset=wanted.offset, length=wanted.length, code=code)
        )

    # --- the blocks we send ---

    def grant(self, wanted: Wanted) -> None:
        """The uplink says: send this now."""
        self._granting.send_nowait(wanted)

    async def run(self) -> None:
        """Send granted blocks, reading the next one while the last one travels, until ``stop``."""
        ready_in, ready = trio.open_memory_channel[tuple[Wanted, memoryview]](0)
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_blocks, ready_in, name=f"read for {self.link.peer.node[:8]}")
                async for wanted, buffer in ready:
                    await self._send_block(wanted, buffer)

    def stop(self) -> None:
        """The link has ended."""
        self._scope.cancel()
        for waits in self._manifest_waits.values():
            for sender in waits:
                sender.close()

    async def _read_blocks(self, ready: trio.MemorySendChannel[tuple[Wanted, memoryview]]) -> None:
        async for wanted in self._grants:
            buffer = await self._engine.sending.take(wanted.length)
            try:
                await self._engine.holdings.read_block(wanted.tag, wanted.chunk, wanted.offset, buffer)
            except (ChunkMissing, StorageUnavailable) as error:
                self._engine.sending.give_back(buffer)
                # What cannot be read just now is not gone: they ask another holder, or us again.
                self._reject(wanted, "gone" if isinstance(error, ChunkMissing) else "busy")
                self._engine.sent(self, wanted, 0)
            except BaseException:
                self._engine.sending.give_back(buffer)
                raise
            else:
                try:
                    await ready.send((wanted, buffer))
                except BaseException:
                    self._engine.sending.give_back(buffer)
                    raise

    async def _send_block(self, wanted: Wanted, buffer: memoryview) -> None:
        block = m.Block(tag=wanted.tag, chunk=wanted.chunk, offset=wanted.offset, length=wanted.length)
        try:
            await self.link.send_block(block, buffer)
            self._engine.sent(self, wanted, wanted.length)
        except LinkLost:
            self._scope.cancel()  # the reader of the link hears of it too, and ends the session
        finally:
            self._engine.sending.give_back(buffer)
