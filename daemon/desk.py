"""One conversation with a storage node's desk: propose, prove or offer, and wait until the job has closed.

``store`` is the uploader's half of design §4 steps 3 to 8; whom to talk to, and what to do when it fails, puts.py
decides. The words are in docs/protocol.md#desk.

What a storage node says about a job reaches us as messages on its link (``receive``): answers carry the number of our
question, words about a job carry its tag. A job that falls silent is proposed again: the desk then says how it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
import trio

from daemon.library import Library
from daemon.putrecord import Put, PutState
from exchange.engine import Engine
from exchange.possession import proof_digest
from protocol import messages as m
from protocol.bitmap import Bitmap
from protocol.errors import CommandError, LinkLost, RemoteProtocolError, StorageUnavailable
from protocol.ids import NodeId, Tag
from protocol.limits import KEEPING
from protocol.manifest import Manifest
from runtime.link import Link
from runtime.seam import Clock

log = structlog.get_logger()

# A desk that looks into its ledger and its backend answers in far less.
ANSWER_SECONDS_MAX = 30.0
# Progress comes a few times a second while a job moves. One that is quiet for so long may have been forgotten.
QUIET_SECONDS_MAX = 30.0
# Closed as stored but not granted, again and again: somebody is playing with us.
ROUNDS_MAX = 5
_WAITING_MAX = 64

_Word = m.DeskAnswer | m.JobClosed | m.Failure | m.Kept


@dataclass(eq=False, slots=True)
class _Watch:
    link: Link
    put: Put
    manifest: Manifest
    words: trio.MemorySendChannel[_Word]
    stored: Bitmap
    requests: set[int] = field(default_factory=set)
    heard_at: float = 0.0


@dataclass(eq=False, slots=True)
class _Asked:
    """A question beside any put. ``answer`` None once ``answered``: the link ended."""

    link: Link
    answer: m.Kept | m.Failure | None = None
    answered: trio.Event = field(default_factory=trio.Event)


class Desk:
    """All conversations of this node; ``receive`` and ``ended`` are fed by whoever serves the links."""

    def __init__(self, clock: Clock, library: Library, engine: Engine, node: NodeId) -> None:
        self._clock = clock
        self._library = library
        self._engine = engine
        self._node = node
        self._watches: list[_Watch] = []
        self._last_request = 0
        self._asked: dict[int, _Asked] = {}

    # --- what comes ---

    def receive(self, link: Link, message: m.Message) -> bool:
        """Take a message of a storage node; False when no put of ours waits for it."""
        taken = False
        if isinstance(message, m.Kept | m.Failure):
            asked = self._asked.get(message.request)
            if asked is not None and asked.link is link:
                asked.answer = message
                asked.answered.set()
                return True
        for watch in list(self._watches):
            if watch.link is not link:
                continue
            match message:
                case m.DeskAnswer() | m.Failure() | m.Kept() if message.request in watch.requests:
                    self._say(watch, message)
                case m.JobClosed() if message.tag == watch.manifest.tag:
                    self._say(watch, message)
                case m.JobProgress() if message.tag == watch.manifest.tag:
                    self._progress(watch, message)
                case m.Stored() if message.tag == watch.manifest.tag:
                    self._stored(watch, message)
                case _:
                    continue
            taken = True
            watch.heard_at = self._clock.monotonic()
        return taken

    def ended(self, link: Link) -> None:
        """``link`` has ended: whoever waits on it hears so."""
        for watch in self._watches:
            if watch.link is link:
                watch.words.close()
        for asked in self._asked.values():
            if asked.link is link:
                asked.answered.set()

    def _say(self, watch: _Watch, word: _Word) -> None:
        try:
            watch.words.send_nowait(word)
        except trio.WouldBlock:
            watch.link.close("too-much", "more answers than questions")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # The conversation is over; its task has not run yet.

    def _progress(self, watch: _Watch, progress: m.JobProgress) -> None:
        put = watch.put
        if put.state in (PutState.SENDING, PutState.COMMITTING):
            committing = progress.state is m.JobState.COMMITTING
            put.state = PutState.COMMITTING if committing else PutState.SENDING
        self._store_more(watch, min(progress.bytes_stored, watch.manifest.size_bytes))
        put.safe = progress.safe
        put.pushed = {pushed.node: pushed.bytes_pushed for pushed in progress.pushed}
        put.touch()

    def _stored(self, watch: _Watch, stored: m.Stored) -> None:
        for chunk in stored.chunks:
            if chunk < watch.stored.length:
                watch.stored.add(chunk)
        self._store_more(watch, bytes_of(watch.manifest, watch.stored))

    def _store_more(self, watch: _Watch, bytes_stored: int) -> None:
        # Two sorts of messages tell of it, and either may be a little behind.
        put = watch.put
        put.bytes_stored = max(put.bytes_stored, bytes_stored)
        put.storing.note(self._clock.monotonic(), put.bytes_stored)
        put.touch()

    # --- what we do ---

    async def store(self, link: Link, put: Put, manifest: Manifest) -> m.JobClosed:
        """Have ``put`` stored by the node at the other end, and return how its job ended.

        Raises:
            LinkLost: the link ended before; propose again.
            StorageUnavailable: the desk cannot now.
            CommandError: the desk refuses: ``refused`` for good, ``no-space`` there.
            ChunkMissing: our file is no longer what it was.
            RemoteProtocolError: they said something that is no answer.
        """
        with self._watching(link, put, manifest) as (watch, words):
            for _ in range(ROUNDS_MAX):
                answer = await self._propose(watch, words)
                closed: m.JobClosed | None
                if answer.state is m.DeskState.STORED:
                    closed = await self._prove(watch, words, answer)
                else:
                    closed = await self._deliver(watch, words, answer)
                if closed is None:
                    continue
                if closed.state is m.JobState.STORED and closed.proven and put.expires_seconds is not None:
                    await self._keep(watch, words, put.expires_seconds)
                if closed.state is not m.JobState.STORED or closed.proven:
                    return closed
            raise StorageUnavailable(f"{link.peer.node[:8]} closes the job again and again without granting it")

    async def _propose(self, watch: _Watch, words: trio.MemoryReceiveChannel[_Word]) -> m.DeskAnswer:
        tag, put = watch.manifest.tag, watch.put
        request = self._request(watch)
        watch.link.post(m.Propose(request=request, tag=tag, size_bytes=watch.manifest.size_bytes, name=put.name))
        with self._deadline(watch.link):
            while True:
                word = await self._next(watch, words)
                match word:
                    case m.DeskAnswer() if word.request == request:
                        if word.tag != tag:
                            raise RemoteProtocolError("an answer about another tag")
                        return word
                    case m.Failure() if word.request == request:
                        raise _refusal(word)
                    case _:
                        # About an earlier round, or about another put of the same bytes: the name we propose now is
                        # only granted in answer to this proposal.
                        pass

    async def _prove(self, watch: _Watch, words: trio.MemoryReceiveChannel[_Word], answer: m.DeskAnswer) -> m.JobClosed:
        tag = watch.manifest.tag
        pieces = await self._library.read_ranges(tag, [(piece.offset, piece.length) for piece in answer.ranges])
        request = self._request(watch)
        digest = proof_digest(answer.nonce, self._node, tag, pieces)
        watch.link.post(m.Proof(request=request, tag=tag, digest=digest))
        with self._deadline(watch.link):
            while True:
                word = await self._next(watch, words)
                if isinstance(word, m.Failure) and word.request == request:
                    raise _refusal(word)
                if isinstance(word, m.JobClosed) and word.proven:
                    watch.put.instant = not watch.put.offered
                    return word

    async def _deliver(
        self, watch: _Watch, words: trio.MemoryReceiveChannel[_Word], answer: m.DeskAnswer
    ) -> m.JobClosed | None:
        """Offer, and wait for the job's end; None when it fell silent."""
        tag, put = watch.manifest.tag, watch.put
        if answer.state is m.DeskState.PARTLY and answer.bitmap:
            try:
                watch.stored = Bitmap.from_bytes(tag.chunks, answer.bitmap)
            except ValueError as error:
                raise RemoteProtocolError(str(error)) from error
        else:
            watch.stored = Bitmap(tag.chunks)
        put.state = PutState.SENDING
        put.offered = True
        put.safe = False  # until this job says so
        put.note = ""
        put.bytes_stored = bytes_of(watch.manifest, watch.stored)
        put.storing.note(self._clock.monotonic(), put.bytes_stored)
        put.touch()
        if answer.state is m.DeskState.NEW:
            digests = watch.manifest.joined_digests()
            watch.link.post(m.ManifestIs(tag=tag, size_bytes=watch.manifest.size_bytes, digests=digests))
        self._engine.offer(watch.link, tag)
        watch.heard_at = self._clock.monotonic()
        while True:
            quiet_seconds = self._clock.monotonic() - watch.heard_at
            if quiet_seconds >= QUIET_SECONDS_MAX:
                log.info("job is quiet; proposing again", tag=str(tag), node=watch.link.peer.node)
                return None
            with trio.move_on_after(QUIET_SECONDS_MAX - quiet_seconds):
                word = await self._next(watch, words)
                if isinstance(word, m.JobClosed):
                    return word

    async def _keep(self, watch: _Watch, words: trio.MemoryReceiveChannel[_Word], seconds: int) -> None:
        """Say how long the name that was granted just now shall hold."""
        if KEEPING not in watch.link.features:
            raise CommandError("unsupported", "stored; but that storage node knows no --expires yet: upgrade it", 6)
        request = self._request(watch)
        tag, name = watch.manifest.tag, watch.put.name
        watch.link.post(m.Keep(request=request, tag=tag, name=name, seconds=seconds))
        with self._deadline(watch.link):
            while True:
                word = await self._next(watch, words)
                if isinstance(word, m.Kept) and word.request == request:
                    return
                if isinstance(word, m.Failure) and word.request == request:
                    if word.code == "not-found":
                        # Somebody has put another file under this name since; then ours is an earlier version.
                        return
                    raise _refusal(word)

    async def care(self, link: Link, factory: Callable[[int], m.Keep | m.Remove]) -> m.Kept:
        """Ask the node at the other end to do something with what we put, and return its answer.

        Raises:
            CommandError: it will not, with its own word: not-found, refused; or it knows nothing of this yet.
            LinkLost: it did not answer.
        """
        if KEEPING not in link.features:
            raise CommandError("unsupported", f"storage node {link.peer.node[:8]} knows nothing of this yet", 6)
        self._last_request = (self._last_request + 1) % 2**32
        request, asked = self._last_request, _Asked(link)
        self._asked[request] = asked
        try:
            link.post(factory(request))
            with self._deadline(link):
                await asked.answered.wait()
        finally:
            del self._asked[request]
        answer = asked.answer
        if isinstance(answer, m.Failure):
            exit_code = {"not-found": 4, "refused": 6, "no-space": 9}.get(answer.code, 5)
            raise CommandError(answer.code, answer.reason or answer.code, exit_code)
        if answer is None:
            raise LinkLost(link.lost or "the link to storage ended")
        return answer

    async def _next(self, watch: _Watch, words: trio.MemoryReceiveChannel[_Word]) -> _Word:
        try:
            return await words.receive()
        except trio.EndOfChannel:
            raise LinkLost(watch.link.lost or "the link to storage ended") from None

    @contextmanager
    def _watching(
        self, link: Link, put: Put, manifest: Manifest
    ) -> Iterator[tuple[_Watch, trio.MemoryReceiveChannel[_Word]]]:
        sender, receiver = trio.open_memory_channel[_Word](_WAITING_MAX)
        watch = _Watch(link, put, manifest, sender, Bitmap(manifest.tag.chunks))
        self._watches.append(watch)
        try:
            if not link.alive:
                raise LinkLost(link.lost or "the link to storage is closing")
            yield watch, receiver
        finally:
            self._watches.remove(watch)

    @contextmanager
    def _deadline(self, link: Link) -> Iterator[None]:
        with trio.move_on_after(ANSWER_SECONDS_MAX) as scope:
            yield
        if scope.cancelled_caught:
            raise LinkLost(f"{link.remote}: the desk did not answer in {ANSWER_SECONDS_MAX:.0f} s")

    def _request(self, watch: _Watch) -> int:
        self._last_request = (self._last_request + 1) % 2**32
        watch.requests.add(self._last_request)
        return self._last_request


def bytes_of(manifest: Manifest, chunks: Bitmap) -> int:
    """Return how many bytes these chunks have together."""
    layout = manifest.layout
    if not chunks:
        return 0
    count = len(chunks) * layout.chunk_bytes
    if layout.chunks - 1 in chunks:
        count -= layout.chunk_bytes - layout.bytes_of(layout.chunks - 1)
    return count


def withdraw(link: Link, tag: Tag) -> None:
    """Say that we no longer want ``tag`` stored."""
    link.post(m.Withdraw(tag=tag))


def _refusal(failure: m.Failure) -> CommandError | StorageUnavailable:
    reason = failure.reason or failure.code
    if failure.code == "no-space":
        return CommandError("no-space", f"the storage node has no room: {reason}", 9)
    if failure.code == "quota":
        return CommandError("quota", f"the storage node takes no more from here: {reason}", 9)
    if failure.code == "refused":
        return CommandError("refused", f"the storage node refused: {reason}", 6)
    return StorageUnavailable(f"the storage node cannot now: {reason}")
