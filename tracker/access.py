"""Links, heartbeats, questions: the tracker as its nodes meet it.

Reads what nodes say, puts it into the index, answers, and sends the orders that follow. An order goes out at once over
an open link when a job opens, when a node gains chunks of an open job's tag, at each heartbeat, and after a question
for such a tag. What is decided is decided in matchmaking.py and answers.py; who may be here at all was decided in the
handshake. Specification: docs/protocol.md#heartbeat.

One task per link reads it; ``post`` never waits. Whoever asks much and reads little waits for himself (``wait_room``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
import trio

from protocol import messages as m
from protocol.errors import StorageFull
from protocol.ids import NodeAddress, NodeId, Role, Tag
from runtime.link import Link
from runtime.seam import Runtime
from tracker.addresses import reachable_addresses
from tracker.answers import answer_nodes, answer_tags, answer_where, failure
from tracker.index.base import OPEN_STATES, Index, Job, NodeView, Profile
from tracker.journal import Journal
from tracker.matchmaking import (
    HELPERS_PER_JOB_MAX,
    ORDERS_AT_ONCE_MAX,
    TRUST_MIN,
    Repute,
    choose_helpers,
    choose_lenders,
    fair_order,
    is_lender,
    meeting_order_of,
    order_of,
    relay_order_of,
)
from tracker.membership import Refused
from tracker.pace import begin, next_pace
from tracker.registrar import Registrar
from tracker.trust import Trust

log = structlog.get_logger()

# A storage node that is gone for longer than so many heartbeats is not waited for when a file is to be put.
GRACE_INTERVALS = 12
# An order is given again with each beat while it is of use; one that was not is over.
ORDER_INTERVALS = 2
# Clocks of nodes may be ahead of ours by so much; what is dated later is dated now, or it would win for ever.
AHEAD_SECONDS_MAX = 60
# A node that lends takes part in a few jobs at a time; it hears of the oldest.
RELAY_JOBS_MAX = 8
# How often the pace is looked at, and the longest interval that nodes go along with (runtime/heartbeat.py).
PACE_SECONDS = 1.0
INTERVAL_SECONDS_MAX = 60.0
# A cancelled link still tells the index that its node has gone; a shared index may be slow.
LEAVE_SECONDS_MAX = 2.0
# For so long the addresses of this machine are taken to be what they were.
HOSTS_SECONDS = 1.0


@dataclass
class AccessCounts:
    """What was heard and said since the start."""

    heartbeats: int = 0
    inventories: int = 0
    questions: int = 0
    orders: int = 0
    shed: int = 0  # inventories that there was no time for


class Access:
    """Serves the links of one tracker. ``own_hosts`` says this machine's addresses when it is called."""

    def __init__(
        self,
        runtime: Runtime,
        index: Index,
        registrar: Registrar,
        *,
        interval_seconds: float,
        own_hosts: Callable[[], Sequence[str]],
    ) -> None:
        self.counts = AccessCounts()
        # Says a message to a node that is linked to another tracker of this swarm; None: there is no other.
        self.post_elsewhere: Callable[[NodeId, m.Message], None] | None = None
        self.trackers: tuple[NodeAddress, ...] = ()  # of this swarm, when there are several
        self.journal = Journal(runtime.clock.monotonic(), runtime.clock.wall())
        self._runtime = runtime
        self._index = index
        self._registrar = registrar
        self._interval_seconds = interval_seconds
        self._own_hosts = own_hosts
        self._hosts: tuple[str, ...] = ()
        self._hosts_seen_at = -math.inf
        self._links: dict[NodeId, list[Link]] = {}
        # When we last ordered a node to help a job, so that a download that gains chunks twice a second is not ordered
        # as often.
        self._ordered: dict[tuple[NodeId, Tag, NodeId], float] = {}
        self._trust = Trust()
        # Whom we chose to help a job, and when: choosing looks at all who hold something of it.
        self._chosen: dict[tuple[Tag, NodeId], tuple[float, set[NodeId]]] = {}
        self._pace = begin(interval_seconds)

    @property
    def links(self) -> int:
        """How many links are open."""
        return sum(len(links) for links in self._links.values())

    def links_of(self, node: NodeId) -> tuple[Link, ...]:
        """Return the open links of a node."""
        return tuple(self._links.get(node, ()))

    def orders_of(self, node: NodeId) -> tuple[tuple[Tag, NodeId], ...]:
        """Return what a node was lately ordered to help: tags, and the storage nodes they are pushed to."""
        since = self._runtime.clock.monotonic() - ORDER_INTERVALS * self._interval_seconds
        return tuple((key[1], key[2]) for key, at in self._ordered.items() if key[0] == node and at >= since)

    async def run(self) -> None:
        """Keep index and journal tidy until cancelled."""
        async with trio.open_nursery() as upkeep:
            upkeep.start_soon(self._keep_pace, name="pace")
            upkeep.start_soon(self._keep_tidy, name="index upkeep")

    async def _keep_pace(self) -> None:
        while True:
            begun = self._runtime.clock.monotonic()
            await trio.sleep(PACE_SECONDS)
            self._pace = next_pace(
                self._pace,
                wanted_seconds=self._interval_seconds,
                most_seconds=max(self._interval_seconds, INTERVAL_SECONDS_MAX),
                links=len(self._links),
                late_seconds=self._runtime.clock.monotonic() - begun - PACE_SECONDS,
            )

    async def _keep_tidy(self) -> None:
        while True:
            await trio.sleep(self._interval_seconds)
            now = self._runtime.clock.monotonic()
            for node in await self._index.sweep(now):
                log.info("node forgotten", node=node)
            keys = {(job.tag, job.storage) for job in await self._index.jobs(now)}
            self.journal.keep(keys)
            self._chosen = {key: chosen for key, chosen in self._chosen.items() if key in keys}
            self._ordered = {
                key: at for key, at in self._ordered.items() if now - at < ORDER_INTERVALS * self._interval_seconds
            }

    async def serve(self, link: Link) -> None:
        """Serve one link until it ends; see runtime/links.py."""
        if link.peer.role is Role.TRACKER:
            link.close("unexpected", "one tracker has nothing to say to another")
            return
        profile = Profile(
            node=link.peer.node,
            role=link.peer.role,
            name=link.hello.name,
            addresses=reachable_addresses(link.hello.addresses, link.remote, self._hosts_now()),
        )
        await self._index.arrived(profile, self._runtime.clock.monotonic())
        self._links.setdefault(profile.node, []).append(link)
        self.journal.node("connected", profile.node, self._runtime.clock.wall())
        log.info("node connected", node=profile.node, role=profile.role, name=profile.name, remote=link.remote)
        try:
            authorities = self._registrar.authorities
            if authorities is not None:
                link.post(authorities)
            link.post(m.Revocations(revocations=self._registrar.revocations))
            if len(self.trackers) > 1:
                link.post(m.Trackers(trackers=self.trackers))
            async for message in link.messages():
                if not link.alive:
                    break  # revoked in the meantime: what it still says is not heard
                await self._receive(link, profile, message)
                await link.wait_room()
        finally:
            await self._leave(link, profile)  # noqa: ASYNC102  # shields itself, within a deadline

    def _hosts_now(self) -> Sequence[str]:
        """Return this machine's addresses. A swarm that comes back all at once does not ask for them each time."""
        now = self._runtime.clock.monotonic()
        if now - self._hosts_seen_at >= HOSTS_SECONDS:
            self._hosts, self._hosts_seen_at = tuple(self._own_hosts()), now
        return self._hosts

    async def shut_out(self, node: NodeId) -> None:
        """Forget a node that was revoked, and tell everybody. Its links are closed by ``Links.renew``."""
        await self._index.forget(node)
        self.journal.node("revoked", node, self._runtime.clock.wall())
        self._tell_all(m.Revocations(revocations=self._registrar.revocations))

    def tell_authorities(self) -> None:
        """Tell everybody by whom certificates are issued from now on."""
        message = self._registrar.authorities
        if message is not None:
            self._tell_all(message)

    def tell_trackers(self, trackers: tuple[NodeAddress, ...]) -> None:
        """Tell everybody, and whoever comes, who the trackers of this swarm are."""
        if len(trackers) > 1 or self.trackers:
            self._tell_all(m.Trackers(trackers=trackers))
            self.trackers = trackers

    def deliver(self, node: NodeId, message: m.Message) -> None:
        """Pass on what another tracker says to a node that may be linked here."""
        link = self._link_to(node)
        if link is not None:
            link.post(message)

    def _tell_all(self, message: m.Message) -> None:
        for links in self._links.values():
            for link in links:
                link.post(message)

    async def _leave(self, link: Link, profile: Profile) -> None:
        links = self._links[profile.node]
        links.remove(link)
        self.journal.node("disconnected", profile.node, self._runtime.clock.wall(), link.lost or "")
        if not links:
            del self._links[profile.node]
            with trio.move_on_after(LEAVE_SECONDS_MAX, shield=True):
                await self._index.left(profile.node, self._runtime.clock.monotonic())
        log.info("node disconnected", node=profile.node, reason=link.lost)

    # --- what comes ---

    async def _receive(self, link: Link, profile: Profile, message: m.Message) -> None:
        now = self._runtime.clock.monotonic()
        if isinstance(message, m.Heartbeat):
            await self._beat(link, profile, message, now)
        elif isinstance(message, m.Inventory):
            await self._inventory(profile, message, now)
        elif isinstance(message, m.JobUpdate):
            await self._job(profile, message, now)
        elif isinstance(message, m.JobMap):
            self.journal.map(profile.node, message)
        elif isinstance(message, m.Renew):
            await self._renew(link, message)
        elif isinstance(message, m.Where):
            self.counts.questions += 1
            grace_seconds = GRACE_INTERVALS * self._interval_seconds
            answer = await answer_where(self._index, profile.node, message, now, grace_seconds=grace_seconds)
            link.post(answer)
            if isinstance(answer, m.WhereAnswer):
                await self._order(profile.node, [answer.tag], now)
                if not message.to_put:
                    await self._order_meetings(profile.node, answer, now)
        elif isinstance(message, m.ListNodes):
            self.counts.questions += 1
            link.post(await answer_nodes(self._index, message, self._registrar.revoked, now))
        elif isinstance(message, m.ListTags):
            self.counts.questions += 1
            link.post(await answer_tags(self._index, message, now))
        elif isinstance(message, m.Failure):
            log.warning("node failed", node=profile.node, code=message.code, reason=message.reason)
        else:
            # protocol/states.py lets nothing else through.
            raise AssertionError(f"{type(message).__name__} from {profile.role}")

    async def _beat(self, link: Link, profile: Profile, heartbeat: m.Heartbeat, now: float) -> None:
        self.counts.heartbeats += 1
        pace = self._pace
        wanted = await self._index.beat(profile, heartbeat, now, interval_seconds=pace.interval_seconds)
        interval = pace.interval_for(self._runtime.random.random() if pace.jitter else 0.0)
        answer = m.HeartbeatAnswer(
            number=heartbeat.number,
            interval_milliseconds=round(interval * 1000),
            inventory_wanted=wanted and pace.inventories,
        )
        open_tags = await self._index.open_tags_of(profile.node, now)
        # Mostly there is nothing to order, and beats are most of what a tracker does; orders leave with the answer.
        if open_tags or heartbeat.lend:
            link.post(answer)
        else:
            link.answer(answer)
        if open_tags:
            await self._order(profile.node, open_tags, now)
        if heartbeat.lend:
            await self._order_relays(profile.node, now)

    async def _inventory(self, profile: Profile, inventory: m.Inventory, now: float) -> None:
        self.counts.inventories += 1
        if not self._pace.inventories:
            # The gap shows at the next beat, and everything is asked for when there is time for it.
            self.counts.shed += 1
            return
        gained = await self._index.take(profile.node, self._dated(inventory), now)
        if gained is None:
            log.debug("inventory out of step", node=profile.node, sequence=inventory.sequence)
        elif gained:
            await self._order(profile.node, gained, now, patient=True)

    async def _job(self, profile: Profile, update: m.JobUpdate, now: float) -> None:
        is_news = await self._index.job(profile.node, update, now)
        self._trust.reported(profile.node, update, now, is_open=update.state in OPEN_STATES)
        self.journal.job(profile.node, update, now, self._runtime.clock.wall())
        log.debug("job", tag=str(update.tag), storage=profile.node, state=update.state, stored=update.chunks_stored)
        if is_news:
            holders = await self._index.holders(update.tag, now)
            jobs = await self._index.jobs_of(update.tag, now)
            for job in jobs:
                self._chosen.pop((job.tag, job.storage), None)
            for helper in {helper for job in jobs for helper in choose_helpers(job, holders, self._repute(now))}:
                await self._order(helper, [update.tag], now)
            for job in jobs:
                for lender in choose_lenders(job, await self._index.nodes(now, role=Role.PEER), holders):
                    await self._order_relay(lender, job, now)

    async def _renew(self, link: Link, message: m.Renew) -> None:
        try:
            certificate = await self._registrar.renew(link.peer.node)
        except Refused as error:
            link.post(failure(message.request, error.code, error.sentence))
        except StorageFull as error:
            log.error("register cannot grow", reason=str(error))
            link.post(failure(message.request, "unavailable", "the tracker's disk is full"))
        else:
            log.info("certificate renewed", node=link.peer.node)
            link.post(m.Renewed(request=message.request, certificate=certificate))

    def _dated(self, inventory: m.Inventory) -> m.Inventory:
        """Return ``inventory`` with what comes from the future dated now."""
        wall = int(self._runtime.clock.wall())
        if all(holding.since <= wall + AHEAD_SECONDS_MAX for holding in inventory.held):
            return inventory
        held = tuple(dataclasses.replace(holding, since=min(holding.since, wall)) for holding in inventory.held)
        return dataclasses.replace(inventory, held=held)

    # --- what goes ---

    async def _order(self, node: NodeId, tags: Sequence[Tag], now: float, *, patient: bool = False) -> None:
        """Order ``node`` to help the open jobs of ``tags``. ``patient``: not those it was ordered to help just now."""
        could = []
        for tag in tags:
            for job in await self._index.jobs_of(tag, now):
                last = self._ordered.get((node, tag, job.storage))
                if patient and last is not None and now - last < self._interval_seconds:
                    continue
                could.append((job, await self._helpers_of(job, now)))
        given = 0
        for job in fair_order((job, len(helpers)) for job, helpers in could):
            if given == ORDERS_AT_ONCE_MAX:
                return
            if not await self._may_help(node, job, now):
                continue
            order = await self._order_for(node, job, now)
            if self._post_order(node, order, (node, job.tag, job.storage), now):
                pushed = sum(one.bytes_pushed for one in job.pushed if one.node == node)
                self._trust.ordered(node, (job.tag, job.storage), job.chunks_stored, pushed, now)
                self.journal.ordered(node, job.tag, job.storage, self._runtime.clock.wall())
                given += 1

    def _repute(self, now: float) -> Callable[[NodeId], Repute]:
        return lambda node: self._trust.of(node, now)

    async def _helpers_of(self, job: Job, now: float) -> set[NodeId]:
        """Return who was chosen to help a job; chosen anew once in an interval."""
        key = (job.tag, job.storage)
        at, helpers = self._chosen.get(key, (-math.inf, set()))
        if now - at >= self._interval_seconds:
            holders = await self._index.holders(job.tag, now)
            helpers = set(choose_helpers(job, holders, self._repute(now)))
            self._chosen[key] = now, helpers
        return helpers

    async def _may_help(self, node: NodeId, job: Job, now: float) -> bool:
        helpers = await self._helpers_of(job, now)
        if node not in helpers and len(helpers) < HELPERS_PER_JOB_MAX and self._trust.of(node, now).trust >= TRUST_MIN:
            helpers.add(node)  # it has gained something since they were chosen
        return node in helpers

    async def _order_relays(self, node: NodeId, now: float) -> None:
        """Order a node that lends to relay for the oldest open jobs."""
        lender = await self._index.node(node, now)
        for job in (await self._index.jobs(now))[:RELAY_JOBS_MAX]:
            if lender is not None and is_lender(job, lender, await self._index.holder(job.tag, node, now)):
                await self._order_relay(lender, job, now)

    async def _order_relay(self, lender: NodeView, job: Job, now: float) -> None:
        holders = await self._index.holders(job.tag, now)
        order = relay_order_of(job, await self._index.node(job.storage, now), lender, holders)
        self._post_order(lender.node, order, (lender.node, job.tag, job.storage), now)

    async def _order_meetings(self, asker: NodeId, answer: m.WhereAnswer, now: float) -> None:
        """Order those who have a file to dial whoever asks for it, as it does them."""
        view = await self._index.node(asker, now)
        for holder in answer.holders:
            key = (holder.node, answer.tag, asker)
            last = self._ordered.get(key)
            if last is None or now - last >= self._interval_seconds:
                order = meeting_order_of(answer.tag, view, await self._index.node(holder.node, now))
                self._post_order(holder.node, order, key, now)

    def _post_order(
        self, node: NodeId, order: m.Order | m.RelayOrder | None, key: tuple[NodeId, Tag, NodeId], now: float
    ) -> bool:
        """Say an order to a node, here or by the tracker that it is linked to; return whether that could be tried."""
        link = self._link_to(node)
        if order is None or (link is None and self.post_elsewhere is None):
            return False
        if link is not None:
            link.post(order)
        elif self.post_elsewhere is not None:
            self.post_elsewhere(node, order)
        self._ordered[key] = now
        self.counts.orders += 1
        return True

    def _link_to(self, node: NodeId) -> Link | None:
        return next((link for link in reversed(self._links.get(node, ())) if link.alive), None)

    async def _order_for(self, node: NodeId, job: Job, now: float) -> m.Order | None:
        helper = await self._index.holder(job.tag, node, now)
        if helper is None:
            return None
        storage = await self._index.node(job.storage, now)
        stored = await self._index.holder(job.tag, job.storage, now)
        return order_of(job, storage, helper, stored)
