"""The one link from a daemon or a storage node to its tracker: kept up, beaten, asked, and believed only so far.

Decides when to dial again, when to beat, when what we hold is told, and when an unanswered tracker counts as gone. What
orders mean, and what is asked for, is the program's business (``on_message``, ``ask``). A tracker that restarted has
forgotten everything: the first beat's epoch and sequence tell it so, and it asks for the inventory in full.

A swarm may have several trackers, and tells its nodes who they are. One is as good as another; each node begins with
another one, by its id, so that they share the work, and stays until that one is gone. Then the next one's turn is.

Whom we trust, and by which certificate we are trusted, is kept up in renewal.py.

The words are in docs/protocol.md#heartbeat. The tracker's side is tracker/access.py.

Considered: a beat every interval whether the last one was answered or not. A slow tracker then drowns in beats; with
one unanswered at a time it is beaten as fast as it can answer.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

import structlog
import trio

from protocol import messages as m
from protocol.errors import CommandError, LinkLost, NotFound, NotTrusted, RemoteProtocolError, StorageFull
from protocol.ids import NodeAddress, NodeId, Role
from protocol.limits import ADDRESSES_MAX
from runtime.identity import Credentials
from runtime.inventory import InventorySource
from runtime.link import Link
from runtime.links import Links
from runtime.renewal import Renewal
from runtime.seam import Runtime

log = structlog.get_logger()

# Until the tracker says otherwise; and what it may say.
BEAT_SECONDS = 5.0
BEAT_SECONDS_MIN = 0.1
BEAT_SECONDS_MAX = 60.0
# A link whose beat stays unanswered for so long is half open, or its tracker hangs: dial again. Half of what a link
# itself waits for a sign of life, because a tracker that only answers pings is of no use either.
ANSWER_SECONDS_MAX = 30.0
ASK_SECONDS_MAX = 10.0
# Full jitter (a draw from 0 to the ceiling): a thousand nodes that lost their tracker together come back one by one.
RETRY_SECONDS_FIRST = 0.5
# And not much longer than two beats, however long it was away: then it knows everything again.
RETRY_SECONDS_MAX = 10.0
# Changes are told at once, and then no oftener than this; a file that has become whole, has other names, or is
# gone, waits only for others like it.
INVENTORY_SECONDS_MIN = 0.5
URGENT_SECONDS_MIN = 0.02

_ANSWERS: dict[type[m.Message], type[m.Message]] = {
    m.Where: m.WhereAnswer,
    m.ListNodes: m.NodesAnswer,
    m.ListTags: m.TagsAnswer,
    m.Renew: m.Renewed,
}
_ANSWER_KINDS: tuple[type[m.Message], ...] = (m.Failure, *_ANSWERS.values())
_EXIT_CODES = {"refused": 6, "no-space": 9, "busy": 5, "no-storage": 5}


@dataclass(frozen=True, slots=True)
class BeatStatus:
    """What each heartbeat says of us."""

    room_bytes: int = 0
    lend: bool = False
    paused: bool = False


@dataclass(frozen=True, slots=True)
class TrackerLinkStatistics:
    """A snapshot for status and tests. ``trouble``: why it is not connected, or why it last was not."""

    connected: bool
    address: str | None
    trouble: str | None
    connects: int
    beats_answered: int
    interval_seconds: float
    round_trip_seconds: float | None


@dataclass(slots=True)
class _Question:
    expected: type[m.Message]
    arrived: trio.Event
    answer: m.Message | None = None


class TrackerLink:
    """The link to one of ``trackers``. The program runs ``run()`` beside ``links.run()``, and routes links of trackers
    from its serve function to ``serve``.

    ``on_message(message)``: orders, and whatever else is not dealt with here. ``on_connected()``: each time the link is
    up again, after the first beat was posted. ``keep_credentials`` and ``keep_trackers`` make what the tracker told
    durable (``KeyringKeeper``).
    """

    def __init__(
        self,
        runtime: Runtime,
        links: Links,
        trackers: tuple[NodeAddress, ...],
        status: Callable[[], BeatStatus],
        inventory: InventorySource,
        on_message: Callable[[m.Message], None],
        *,
        on_connected: Callable[[], None] | None = None,
        keep_credentials: Callable[[Credentials], Awaitable[None]] | None = None,
        keep_trackers: Callable[[tuple[NodeAddress, ...]], Awaitable[None]] | None = None,
    ) -> None:
        own = links.credentials.node
        self.trackers = tuple(sorted(trackers, key=lambda tracker: lot_of(own, tracker.node)))
        self.tracker = self.trackers[0]  # the one that is dialled, or linked
        self._runtime = runtime
        self._links = links
        self._status = status
        self._inventory = inventory
        self._on_message = on_message
        self._on_connected = on_connected
        self._keep_trackers = keep_trackers
        self._random = Random(runtime.random.getrandbits(64))
        self._renewal = Renewal(runtime, links, self._random, self.ask, keep_credentials)
        self._found: dict[tuple[NodeId, str], None] = {}  # further addresses of trackers, newest last
        self._link: Link | None = None
        self._one_link = trio.Lock()
        self._up = trio.Event()
        self._found_more = trio.Event()
        self._questions: dict[int, _Question] = {}
        self._last_request = self._random.getrandbits(31)
        self._trouble: str | None = "not connected yet"
        self._connects = 0
        self._beats_answered = 0
        self._interval_seconds = BEAT_SECONDS
        self._beat_number = 0
        self._beat_wanted = trio.Event()
        self._answered = trio.Event()  # the beat on its way
        self._welcomed = trio.Event()  # the first beat of this link
        self._to_tell = trio.Event()
        self._full_wanted = False
        self._untold: deque[m.Inventory] = deque()
        self._urgent_to_tell = trio.Event()
        inventory.on_change(self._inventory_changed)

    # --- for the program ---

    @property
    def connected(self) -> bool:
        """Whether the tracker can be asked now."""
        return self._link is not None and self._link.alive

    async def wait_connected(self) -> None:
        """Wait until it can."""
        while not self.connected:
            await self._up.wait()

    def post(self, message: m.Message) -> None:
        """Send ``message`` when connected; drop it when not (``on_connected`` is the place to say it again)."""
        if self._link is not None:
            self._link.post(message)

    def offer(self, message: m.Message, feature: str) -> bool:
        """Send what nobody misses: only to a tracker that named ``feature``, and only while it reads. Return whether it
        was sent."""
        link = self._link
        if link is None or not link.alive or link.busy or feature not in link.features:
            return False
        link.post(message)
        return True

    async def ask(self, factory: Callable[[int], m.Message]) -> m.Message:
        """Send the request that ``factory`` makes of a fresh request number, and return its answer, of the right class.

        Raises:
            LinkLost: not connected, or no answer in 10 s.
            NotFound: the tracker knows no such thing.
            CommandError: the tracker refused otherwise; its code and reason.
        """
        link = self._link
        if link is None or not link.alive:
            raise LinkLost(f"the tracker is not connected: {self._trouble or 'connecting'}")
        number = self._last_request = (self._last_request + 1) % 2**32
        request = factory(number)
        question = self._questions[number] = _Question(_ANSWERS[type(request)], trio.Event())
        try:
            link.post(request)
            with trio.move_on_after(ASK_SECONDS_MAX):
                await question.arrived.wait()
        finally:
            del self._questions[number]
        answer = question.answer
        if answer is None:
            raise LinkLost(link.lost or f"the tracker gave no answer in {ASK_SECONDS_MAX:.0f} s")
        if isinstance(answer, m.Failure):
            if answer.code == "not-found":
                raise NotFound(answer.reason)
            raise CommandError(answer.code, answer.reason, _EXIT_CODES.get(answer.code, 1))
        return answer

    def beat_soon(self) -> None:
        """Beat without waiting for the interval: the status has changed."""
        self._beat_wanted.set()

    def add_address(self, address: str, tracker: NodeId | None = None) -> None:
        """``tracker`` (None: the one that is dialled now) may also answer at ``address`` (found on the LAN): try it at
        once when not connected.

        Only the handshake proves that it does.
        """
        key = (tracker or self.tracker.node, address)
        known = next((one for one in self.trackers if one.node == key[0]), None)
        if known is None or key in self._found or address in known.addresses:
            return
        self._found[key] = None
        while len(self._found) > ADDRESSES_MAX:
            del self._found[next(iter(self._found))]
        self._found_more.set()

    def statistics(self) -> TrackerLinkStatistics:
        """Return how it stands."""
        link = self._link
        return TrackerLinkStatistics(
            connected=self.connected,
            address=link.remote if link is not None else None,
            trouble=None if self.connected else self._trouble,
            connects=self._connects,
            beats_answered=self._beats_answered,
            interval_seconds=self._interval_seconds,
            round_trip_seconds=link.round_trip_seconds if link is not None else None,
        )

    # --- keeping it up ---

    async def run(self) -> None:
        """Keep a link to the tracker until cancelled."""
        failures = 0
        link: Link | None = None
        try:
            while True:
                answered_before = self._beats_answered
                self._found_more = trio.Event()
                try:
                    link = await self._links.dial(self._target())
                    await link.wait_ended()
                    trouble = link.lost or "the link ended"
                except (LinkLost, NotTrusted) as error:
                    trouble = str(error)
                # A tracker that lets us in and throws us out again is none that is back.
                failures = 0 if self._beats_answered > answered_before else failures + 1
                if failures:
                    self.tracker = self._after(self.tracker)
                if failures < 2 or trouble != self._trouble:
                    log.warning("tracker not connected", reason=trouble)
                self._trouble = trouble
                # Having asked all of them in vain is what makes us wait longer.
                rounds = failures // len(self.trackers)
                ceiling = min(RETRY_SECONDS_MAX, RETRY_SECONDS_FIRST * 2 ** min(rounds, 16))
                with trio.move_on_after(self._random.uniform(0, ceiling)):
                    await self._found_more.wait()
        finally:
            if link is not None:
                link.close()

    def _target(self) -> NodeAddress:
        # What was found last is likelier to be true than what was written down at join.
        found = [address for node, address in reversed(self._found) if node == self.tracker.node]
        addresses = (*self.tracker.addresses[:1], *found, *self.tracker.addresses[1:])
        return NodeAddress(self.tracker.node, Role.TRACKER, addresses[:ADDRESSES_MAX])

    def _after(self, tracker: NodeAddress) -> NodeAddress:
        nodes = [one.node for one in self.trackers]
        return self.trackers[(nodes.index(tracker.node) + 1) % len(nodes)]

    async def serve(self, link: Link) -> None:
        """Speak on ``link`` until it ends. A second link, or one that we did not dial, is closed."""
        if not link.dialled or link.peer.node != self.tracker.node or self.connected:
            link.close("unexpected", "we dial our tracker ourselves, once")
            return
        # The one before has ended, and is being cleaned up.
        async with self._one_link:
            await self._serve(link)

    async def _serve(self, link: Link) -> None:
        self._link = link
        self._connects += 1
        self._answered, self._welcomed = trio.Event(), trio.Event()
        self._beat_wanted, self._to_tell = trio.Event(), trio.Event()
        self._to_tell.set()
        self._full_wanted = False
        self._up.set()
        self._up = trio.Event()
        ended: LinkLost | RemoteProtocolError | None = None
        log.info("tracker connected", address=link.remote)
        try:
            async with trio.open_nursery() as nursery:
                self._post_beat(link)
                if self._on_connected is not None:
                    self._on_connected()
                nursery.start_soon(self._beat, link, name="heartbeat")
                nursery.start_soon(self._tell_inventory, link, name="inventory")
                nursery.start_soon(self._renew, name="certificate renewal")
                nursery.start_soon(self._remember_address, link.remote, name="tracker address")
                try:
                    async for message in link.messages():
                        await self._receive(message)
                # Not through the nursery: it would come out as a group, and the caller looks for these two.
                except (LinkLost, RemoteProtocolError) as error:
                    ended = error
                nursery.cancel_scope.cancel()
        finally:
            self._link = None
            # What was not told is not told later: the sequence shows the gap, and the tracker asks for everything.
            self._untold.clear()
            for question in self._questions.values():
                question.arrived.set()
        if ended is not None:
            raise ended

    async def _remember_address(self, address: str) -> None:
        known = self.tracker.addresses
        if known[:1] == (address,):
            return
        others = tuple(other for other in known if other != address)
        self.tracker = NodeAddress(self.tracker.node, Role.TRACKER, (address, *others)[:ADDRESSES_MAX])
        self._found.pop((self.tracker.node, address), None)
        await self._keep(tuple(self.tracker if one.node == self.tracker.node else one for one in self.trackers))

    async def _learn_trackers(self, told: m.Trackers) -> None:
        """Go by this list from now on. Where the one that answers us may be dialled, we know better than anybody."""
        others = {one.node: one for one in told.trackers if one.role is Role.TRACKER and one.addresses}
        others.pop(self.tracker.node, None)
        own = self._links.credentials.node
        found = sorted((self.tracker, *others.values()), key=lambda tracker: lot_of(own, tracker.node))
        if tuple(found) != self.trackers:
            log.info("trackers", count=len(found))
            await self._keep(tuple(found))

    async def _keep(self, trackers: tuple[NodeAddress, ...]) -> None:
        self.trackers = trackers
        if self._keep_trackers is not None:
            try:
                await self._keep_trackers(trackers)
            except StorageFull as error:
                log.warning("tracker address not kept", reason=str(error))

    # --- what comes ---

    async def _receive(self, message: m.Message) -> None:
        if isinstance(message, m.HeartbeatAnswer):
            self._heartbeat_answered(message)
        elif isinstance(message, _ANSWER_KINDS):
            self._answer(message)
        elif isinstance(message, m.Revocations):
            await self._renewal.revoke(message)
        elif isinstance(message, m.Authorities):
            await self._renewal.learn_authorities(message)
        elif isinstance(message, m.Trackers):
            await self._learn_trackers(message)
        else:
            self._on_message(message)

    def _heartbeat_answered(self, answer: m.HeartbeatAnswer) -> None:
        if answer.number != self._beat_number:
            raise RemoteProtocolError(f"an answer to heartbeat {answer.number}, {self._beat_number} was the last")
        interval = answer.interval_milliseconds / 1000
        self._interval_seconds = min(max(interval, BEAT_SECONDS_MIN), BEAT_SECONDS_MAX)
        self._beats_answered += 1
        if answer.inventory_wanted:
            self._full_wanted = True
            self._to_tell.set()
        self._welcomed.set()
        self._answered.set()

    def _answer(self, message: m.Message) -> None:
        number = getattr(message, "request", None)
        question = self._questions.get(number) if isinstance(number, int) else None
        if question is None:
            # The one who asked has given up.
            log.debug("late answer", kind=type(message).__name__, reason=getattr(message, "reason", ""))
            return
        if not isinstance(message, m.Failure | question.expected):
            raise RemoteProtocolError(f"{type(message).__name__} is no answer to that request")
        question.answer = message
        question.arrived.set()

    # --- what goes ---

    def _post_beat(self, link: Link) -> None:
        status = self._status()
        self._beat_number = (self._beat_number + 1) % 2**32
        self._answered = trio.Event()
        # Messages made but not posted yet come after this beat; a beat must not promise them.
        sequence = self._untold[0].sequence - 1 if self._untold else self._inventory.sequence
        link.answer(
            m.Heartbeat(
                number=self._beat_number,
                epoch=self._inventory.epoch,
                sequence=sequence,
                room_bytes=status.room_bytes,
                lend=status.lend,
                paused=status.paused,
            )
        )

    async def _beat(self, link: Link) -> None:
        while True:
            with trio.move_on_after(ANSWER_SECONDS_MAX):
                await self._answered.wait()
            if not self._answered.is_set():
                link.close("no-answer", f"a heartbeat was not answered in {ANSWER_SECONDS_MAX:.0f} s")
                return
            # Up to a fifth earlier: beats of a swarm that was started at once must not stay together.
            with trio.move_on_after(self._interval_seconds * self._random.uniform(0.8, 1.0)):
                await self._beat_wanted.wait()
                self._beat_wanted = trio.Event()
            self._post_beat(link)

    async def _tell_inventory(self, link: Link) -> None:
        # Only the answer to the first beat says whether changes make sense to this tracker.
        await self._welcomed.wait()
        while True:
            await self._to_tell.wait()
            self._to_tell, self._urgent_to_tell = trio.Event(), trio.Event()
            if self._full_wanted:
                self._full_wanted = False
                messages = self._inventory.full()
            else:
                messages = self._inventory.changes()
            self._untold.extend(messages)
            while self._untold:
                link.post(self._untold.popleft())
                await link.wait_room()
            await trio.sleep(URGENT_SECONDS_MIN)
            with trio.move_on_after(INVENTORY_SECONDS_MIN - URGENT_SECONDS_MIN):
                await self._urgent_to_tell.wait()

    async def _renew(self) -> None:
        await self._welcomed.wait()
        await self._renewal.run(lambda: self._interval_seconds)

    def _inventory_changed(self, urgent: bool) -> None:
        self._to_tell.set()
        if urgent:
            self._urgent_to_tell.set()


def lot_of(node: NodeId, tracker: NodeId) -> bytes:
    """Return what a node sorts its trackers by: another order for each node, the same at each start."""
    return hashlib.sha256(f"{node}{tracker}".encode()).digest()
