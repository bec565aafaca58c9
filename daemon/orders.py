"""Orders of the tracker: offer that tag to that node. Which of them are carried out, and how eagerly.

An order is a hint. It is carried out only if we hold some of the tag, the order has not expired, and who answers at the
address proves by the handshake to be that very node; before that no byte of data leaves. A tracker that is
hostile, or mistaken, can make us knock somewhere: so knocks are few (``KnockBudget``, threats.md row 4).

Carrying one out is: a link, and an offer on it. What is requested then is served from the budget for help. An order to
relay (relays.py) is a link alike, and a loan on it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog
import trio

from daemon.library import Library
from daemon.neighbours import Neighbours
from daemon.relays import Relays
from exchange.engine import Engine
from protocol import messages as m
from protocol.errors import LinkLost, NotTrusted
from protocol.ids import NodeAddress, NodeId, Role, Tag, parse_address
from protocol.limits import ORDER_SECONDS_MAX
from runtime.seam import Clock

log = structlog.get_logger()

K = TypeVar("K")

# New dials of all orders together.
DIALS_PER_SECOND = 4.0
DIALS_BURST = 4.0
# An address where nobody proved to be whom we were sent to: so many tries in so long.
STRANGE_TRIES_MAX = 2
STRANGE_SECONDS = 600.0
# An address where that node has proven itself before may be restarting: back off, and no longer than this.
KNOWN_PAUSE_SECONDS_FIRST = 0.5
KNOWN_PAUSE_SECONDS_MAX = 30.0
ADDRESSES_REMEMBERED_MAX = 4096
# Orders that wait for their dial; more than that a tracker need not give at once.
WAITING_MAX = 1024
DIALLING_MAX = 8
# A peer that wants something dials us by itself, if it can: two links would be one too many.
PEER_SECONDS = 1.0
LOOK_AGAIN_SECONDS = 0.5


@dataclass(slots=True)
class _Knocks:
    """What came of dialling one address: how often in a row in vain, since when, and when last."""

    failures: int = 0
    first_at: float = 0.0
    last_at: float = 0.0


class KnockBudget:
    """Which addresses may be dialled now. Pure: every method takes ``now``, in seconds."""

    def __init__(self, now: float) -> None:
        self._tokens = DIALS_BURST
        self._filled_at = now
        # Where a node has proven itself.
        self._addresses: OrderedDict[tuple[NodeId, str], _Knocks] = OrderedDict()
        # Where nobody has proven himself: counted by address alone, whoever we were sent to.
        self._hosts: OrderedDict[str, _Knocks] = OrderedDict()

    def wait_seconds(self, now: float) -> float:
        """Return how long to wait until the next dial fits the rate; 0 when it does."""
        self._fill(now)
        return 0.0 if self._tokens >= 1.0 else (1.0 - self._tokens) / DIALS_PER_SECOND

    def take(self, now: float) -> None:
        """One dial is made."""
        self._fill(now)
        self._tokens -= 1.0

    def may_dial(self, node: NodeId, address: str, now: float) -> bool:
        """Whether ``address`` may be dialled to find ``node``, as far as that address is concerned."""
        proven = self._addresses.get((node, address))
        if proven is not None:
            pause = min(KNOWN_PAUSE_SECONDS_MAX, KNOWN_PAUSE_SECONDS_FIRST * 2 ** min(proven.failures, 10))
            return proven.failures == 0 or now - proven.last_at >= pause
        strange = self._hosts.get(address)
        if strange is None or now - strange.first_at >= STRANGE_SECONDS:
            return True
        return strange.failures < STRANGE_TRIES_MAX

    def failures(self, node: NodeId, address: str) -> int:
        """Return how often in a row dialling was in vain: the likeliest address goes first."""
        knocks = self._addresses.get((node, address)) or self._hosts.get(address)
        return knocks.failures if knocks is not None else 0

    def opened(self, node: NodeId, address: str) -> None:
        """``node`` proved itself at ``address``."""
        self._remember(self._addresses, (node, address), _Knocks())
        self._hosts.pop(address, None)

    def tried(self, node: NodeId, address: str, now: float) -> None:
        """``address`` is being dialled. In vain, as long as ``opened`` does not say otherwise."""
        proven = self._addresses.get((node, address))
        if proven is not None:
            proven.failures += 1
            proven.last_at = now
        else:
            self._count(address, now)

    def strange(self, node: NodeId, address: str, now: float) -> None:
        """Somebody else than ``node`` answered at ``address``, which was tried."""
        if self._addresses.pop((node, address), None) is not None:
            self._count(address, now)

    def _count(self, address: str, now: float) -> None:
        knocks = self._hosts.get(address)
        if knocks is None or now - knocks.first_at >= STRANGE_SECONDS:
            knocks = _Knocks(first_at=now)
        knocks.failures += 1
        knocks.last_at = now
        self._remember(self._hosts, address, knocks)

    def _fill(self, now: float) -> None:
        self._tokens = min(DIALS_BURST, self._tokens + (now - self._filled_at) * DIALS_PER_SECOND)
        self._filled_at = now

    @staticmethod
    def _remember(table: OrderedDict[K, _Knocks], key: K, knocks: _Knocks) -> None:
        table[key] = knocks
        table.move_to_end(key)
        while len(table) > ADDRESSES_REMEMBERED_MAX:
            table.popitem(last=False)


@dataclass(frozen=True, slots=True)
class _Waiting:
    order: m.Order | m.RelayOrder
    begins_at: float
    expires_at: float


class Orders:
    """Carries orders out. ``receive`` never waits; ``run`` dials."""

    def __init__(
        self, clock: Clock, library: Library, engine: Engine, neighbours: Neighbours, relays: Relays, node: NodeId
    ) -> None:
        self.refused = 0
        self.carried_out = 0
        self._clock = clock
        self._library = library
        self._engine = engine
        self._neighbours = neighbours
        self._relays = relays
        self._node = node
        self._budget = KnockBudget(clock.monotonic())
        # By tag and target: an order that comes again replaces itself.
        self._waiting: OrderedDict[tuple[Tag, NodeId], _Waiting] = OrderedDict()
        self._came = trio.Event()
        self._dialling: set[NodeId] = set()

    def receive(self, order: m.Order | m.RelayOrder) -> None:
        """Take an order of our tracker."""
        target = order.target
        reason = self._flaw(order)
        if reason is not None:
            self.refused += 1
            log.debug("order not carried out", tag=str(order.tag), target=target.node, reason=reason)
            return
        if self._engine.is_offered(target.node, order.tag):
            return
        link = self._neighbours.to(target.node)
        if link is not None and link.peer.role is target.role:
            self._carry_out(order)
            return
        lifetime = min(float(order.lifetime_seconds), ORDER_SECONDS_MAX)
        now = self._clock.monotonic()
        before = self._waiting.get((order.tag, target.node))
        begins_at = before.begins_at if before else now + (PEER_SECONDS if target.role is Role.PEER else 0.0)
        self._waiting[order.tag, target.node] = _Waiting(order, begins_at, now + lifetime)
        while len(self._waiting) > WAITING_MAX:
            self._waiting.popitem(last=False)
        self._came.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Dial whom orders name, until cancelled."""
        async with trio.open_nursery() as dials:
            task_status.started()
            while True:
                self._came = trio.Event()
                target = self._next_target()
                if target is None:
                    # Orders that wait for an address to be free again are looked at now and then.
                    with trio.move_on_after(LOOK_AGAIN_SECONDS if self._waiting else float("inf")):
                        await self._came.wait()
                    continue
                await trio.sleep(self._budget.wait_seconds(self._clock.monotonic()))
                self._budget.take(self._clock.monotonic())
                self._budget.tried(target.node, target.addresses[0], self._clock.monotonic())
                self._dialling.add(target.node)
                dials.start_soon(self._knock, target, name=f"order to {target.node[:8]}")

    def _flaw(self, order: m.Order | m.RelayOrder) -> str | None:
        """Return why an order is not carried out; None when it is."""
        if order.target.role is Role.TRACKER or (
            isinstance(order, m.RelayOrder) and order.target.role is not Role.STORAGE
        ):
            return f"the target is a {order.target.role}"
        if order.target.node == self._node:
            return "the target is ourselves"
        if order.lifetime_seconds <= 0:
            return "expired"
        if not any(_is_dialable(address) for address in order.target.addresses):
            return "the target has no address"
        if isinstance(order, m.RelayOrder):
            return self._relays.flaw(order)
        held = self._library.holding(order.tag)
        if held is None or not held.bitmap:
            return "we hold nothing of it"
        return None

    def _next_target(self) -> NodeAddress | None:
        """Return whom to dial next, with the one address that may be tried; orders that are void are forgotten."""
        now = self._clock.monotonic()
        for key, waiting in list(self._waiting.items()):
            if waiting.expires_at <= now or self._flaw(waiting.order) is not None:
                del self._waiting[key]
            elif self._neighbours.to(waiting.order.target.node) is not None:
                # It was quicker, or a former order brought us together.
                del self._waiting[key]
                self._carry_out(waiting.order)
        if len(self._dialling) >= DIALLING_MAX:
            return None
        for waiting in self._waiting.values():
            target = waiting.order.target
            if target.node in self._dialling or waiting.begins_at > now:
                continue
            for address in sorted(target.addresses, key=partial(self._budget.failures, target.node)):
                if _is_dialable(address) and self._budget.may_dial(target.node, address, now):
                    return NodeAddress(target.node, target.role, (address,))
        return None

    async def _knock(self, target: NodeAddress) -> None:
        (address,) = target.addresses
        try:
            await self._neighbours.dial(target)
        except (LinkLost, NotTrusted) as error:
            if isinstance(error, NotTrusted):
                self._budget.strange(target.node, address, self._clock.monotonic())
            log.info("order: target not reached", target=target.node, address=address, reason=str(error))
        else:
            self._budget.opened(target.node, address)
            now = self._clock.monotonic()
            for (tag, node), waiting in list(self._waiting.items()):
                if node == target.node:
                    del self._waiting[tag, node]
                    if waiting.expires_at > now:
                        self._carry_out(waiting.order)
        finally:
            self._dialling.discard(target.node)
            self._came.set()

    def _carry_out(self, order: m.Order | m.RelayOrder) -> None:
        tag, target = order.tag, order.target
        link = self._neighbours.to(target.node)
        if link is None or self._engine.is_offered(target.node, tag) or self._flaw(order) is not None:
            return
        if isinstance(order, m.RelayOrder):
            self._relays.begin(link, order)
        else:
            try:
                self._engine.offer(link, tag)
            except LinkLost:
                return  # The tracker orders again.
        self.carried_out += 1
        log.info("order carried out", tag=str(tag), target=target.node)


def _is_dialable(address: str) -> bool:
    try:
        host, port = parse_address(address)
    except ValueError:
        return False
    return port > 0 and host not in ("0.0.0.0", "::", "")
