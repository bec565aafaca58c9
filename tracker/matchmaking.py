"""Who should help whom, who should store what, whom to ask for what. Pure: pictures of the index in, decisions out.

Every rule is a hint to nodes that check for themselves: a wrong picture costs time, never a byte. What the pictures are
made of is in index/base.py; who carries the decisions out is access.py.

Considered: leaving out helpers all of whose chunks storage claims to have already, even when it claims to have all. But
a storage node that has all and keeps its job open has found something rotten, or is about to commit; the one needs
help, and to the other an offer too many does no harm.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from protocol.bitmap import Bitmap
from protocol.ids import NodeAddress, NodeId, Role, Tag, parse_address
from protocol.limits import HOLDERS_PER_ANSWER_MAX, ORDER_SECONDS_MAX, RELAY_SOURCES_MAX
from protocol.messages import JobState, Order, RelayOrder, Whereabouts
from tracker.index.base import Holder, Job, NodeView
from tracker.index.summary import keepers_of

# Nodes that are asked to relay for one job: more lines than that fill any storage node's.
RELAYS_PER_JOB_MAX = 32
# Nodes that are ordered to help one job: as many lines fill any storage node's, and each costs it a link.
HELPERS_PER_JOB_MAX = 64
# Below this a node's word about what it holds is believed only when there is no other (trust.py).
TRUST_MIN = 0.5
# An order to meet who asks for a file: it asks again every few seconds, as long as it needs somebody.
MEETING_SECONDS = 15.0
# So many orders at once to one node: beyond that it has its hands full, and the next heartbeat brings more.
ORDERS_AT_ONCE_MAX = 64


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tag is stored, is being stored, or should be."""

    state: Whereabouts
    storage: NodeView | None


def is_helpful(job: Job, helper: Holder, stored: Holder | None) -> bool:
    """Whether ``helper`` should offer its chunks to the storage node of ``job``. ``stored``: what that node says it
    holds of the tag, None when it says nothing."""
    if job.state is not JobState.OPEN or helper.node.node == job.storage:
        return False
    if not helper.node.fresh or helper.node.paused or not helper.any:
        return False
    if stored is None or stored.bitmap is None or helper.bitmap is None:
        return True
    return bool(helper.bitmap - stored.bitmap)


@dataclass(frozen=True, slots=True)
class Repute:
    """What trust.py says of a node now: how far it is trusted, and whether one that is not may be tried again."""

    trust: float = 1.0
    due: bool = True


def choose_helpers(
    job: Job,
    holders: Sequence[Holder],
    repute: Callable[[NodeId], Repute],
    limit: int = HELPERS_PER_JOB_MAX,
) -> list[NodeId]:
    """Return whom to order to help ``job``, best first, at most ``limit``.

    Those who kept their word come before those who did not, and among equals a lot decides that falls otherwise for
    each job, so that jobs share the helpers. Who is not trusted is ordered only for what nobody better claims to hold;
    and one of those who have been left alone for long is tried again.
    """
    stored = next((holder for holder in holders if holder.node.node == job.storage), None)
    found = [(repute(one.node.node), one) for one in holders if is_helpful(job, one, stored)]
    found.sort(key=lambda pair: (-round(pair[0].trust, 1), lot(job.tag, pair[1].node.node)))
    chosen = [holder for fame, holder in found if fame.trust >= TRUST_MIN][:limit]
    doubtful = [(fame, holder) for fame, holder in found if fame.trust < TRUST_MIN]
    covered = _claims(job.tag, chosen)
    needed = [holder for _, holder in doubtful if _claims(job.tag, [holder]) - covered]
    again = [holder for fame, holder in doubtful if fame.due and holder not in needed][:1]
    return [holder.node.node for holder in (*chosen, *needed, *again)][:limit]


def _claims(tag: Tag, holders: Iterable[Holder]) -> Bitmap:
    claimed = Bitmap(tag.chunks)
    for holder in holders:
        if holder.bitmap is None:
            return Bitmap.full(tag.chunks)
        claimed |= holder.bitmap
    return claimed


def fair_order(jobs: Iterable[tuple[Job, int]]) -> list[Job]:
    """Return in which order one helper should hear of the jobs it could help, when it cannot hear of all; each with how
    many helpers it has. Those with the fewest first, then the oldest."""
    ranked = sorted(jobs, key=lambda one: (one[1], -one[0].opened_seconds_ago, one[0].tag, one[0].storage))
    return [job for job, _ in ranked]


def order_of(job: Job, storage: NodeView | None, helper: Holder, stored: Holder | None) -> Order | None:
    """Return the order for ``helper`` to offer the tag of ``job`` to its storage node; None when it should not, or that
    node is not there: it tells its jobs anew as soon as it is."""
    if storage is None or not storage.fresh or not storage.addresses or not is_helpful(job, helper, stored):
        return None
    return Order(tag=job.tag, target=storage.address, lifetime_seconds=int(ORDER_SECONDS_MAX))


def meeting_order_of(tag: Tag, asker: NodeView | None, holder: NodeView | None) -> Order | None:
    """Return the order for ``holder`` to dial ``asker`` and offer; None when that cannot help.

    ``asker`` dials by itself whom it is told of; but the holder may be behind a NAT, where only this way leads.
    """
    if asker is None or holder is None or asker.role is not Role.PEER or holder.role is not Role.PEER:
        return None
    if asker.node == holder.node or not asker.addresses or not holder.fresh or holder.paused:
        return None
    return Order(tag=tag, target=asker.address, lifetime_seconds=int(MEETING_SECONDS))


def is_lender(job: Job, node: NodeView, held: Holder | None) -> bool:
    """Whether ``node`` may be asked to relay for ``job``. ``held``: what it holds of it itself."""
    wants_it = node.node in job.uploaders or (held is not None and held.complete)
    return (
        job.state is JobState.OPEN
        and node.role is Role.PEER
        and node.lend
        and node.fresh
        and not node.paused
        and not wants_it
    )


def relay_order_of(
    job: Job, storage: NodeView | None, lender: NodeView, holders: Sequence[Holder]
) -> RelayOrder | None:
    """Return the order for ``lender`` to relay for ``job``; None when its storage node is not there, or nobody has any
    of it.

    Its uploaders come first, then holders that seem near to the lender. Which of them is really near only the lender
    can tell.
    """
    if storage is None or not storage.fresh or not storage.addresses:
        return None
    able = [
        holder.node
        for holder in holders
        if holder.any and holder.node.fresh and holder.node.role is Role.PEER and holder.node.node != lender.node
    ]
    able.sort(key=lambda node: (-nearness(lender, node), node.node))
    # Its uploaders have it, whether we have heard of that already or not.
    sources = dict.fromkeys((*job.uploaders, *(node.node for node in able)))
    if not sources:
        return None
    return RelayOrder(
        tag=job.tag,
        target=storage.address,
        sources=tuple(sources)[:RELAY_SOURCES_MAX],
        lifetime_seconds=int(ORDER_SECONDS_MAX),
    )


def choose_lenders(job: Job, nodes: Sequence[NodeView], holders: Sequence[Holder]) -> list[NodeView]:
    """Return whom to ask to relay for ``job``: those first that seem near to one of its uploaders."""
    by_node = {holder.node.node: holder for holder in holders}
    lenders = [node for node in nodes if is_lender(job, node, by_node.get(node.node))]
    uploaders = [node for node in nodes if node.node in job.uploaders]
    near = {node.node: max((nearness(node, one) for one in uploaders), default=Nearness.APART) for node in lenders}
    lenders.sort(key=lambda node: (-near[node.node], lot(job.tag, node.node)))
    return lenders[:RELAYS_PER_JOB_MAX]


class Nearness(IntEnum):
    """How near two nodes seem to be; only they can tell for sure."""

    APART = 0
    SITE = 1  # behind the same router: seen at one public address
    LAN = 2  # and of the same private network


def nearness(one: NodeView | None, other: NodeView | None) -> Nearness:
    """Return how near two nodes are, by the addresses they announce and those they were seen at.

    Private networks alone say little: half of all homes are 192.168.1.0/24. They count where nothing public tells the
    two apart.
    """
    if one is None or other is None:
        return Nearness.APART
    ours, theirs = _places(one.addresses), _places(other.addresses)
    if ours.public and theirs.public and not ours.public & theirs.public:
        return Nearness.APART
    if ours.networks & theirs.networks:
        return Nearness.LAN
    return Nearness.SITE if ours.hosts & theirs.hosts else Nearness.APART


@dataclass(frozen=True, slots=True)
class _Places:
    """Hosts of a node's addresses, those of them that are public, and the private networks of the others."""

    hosts: frozenset[str]
    public: frozenset[str]
    networks: frozenset[object]


@functools.lru_cache(maxsize=16384)
def _places(addresses: tuple[str, ...]) -> _Places:
    hosts = frozenset(parse_address(address)[0] for address in addresses)
    public, networks = set(), set()
    for host in hosts:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            continue  # a name
        if address.is_global:
            public.add(host)
        elif address.is_private and not address.is_loopback:
            bits = 24 if address.version == 4 else 64
            networks.add(ipaddress.ip_network(f"{address}/{bits}", strict=False))
    return _Places(hosts, frozenset(public), frozenset(networks))


def find_place(
    tag: Tag,
    size_bytes: int,
    *,
    to_put: bool,
    jobs: Sequence[Job],
    holders: Sequence[Holder],
    storages: Sequence[NodeView],
    grace_seconds: float,
) -> Place:
    """Return where ``tag`` is stored, else where it is on its way to, else (``to_put``) where it should go.

    A storage node that is silent may be starting again, with all it has acknowledged: for ``grace_seconds`` it is named
    all the same, rather than sending everything a second time elsewhere.
    """
    by_node = {view.node: view for view in storages}
    known = [Place(Whereabouts.STORED, holder.node) for holder in keepers_of(holders, jobs)]
    known += [Place(Whereabouts.OPEN, by_node.get(job.storage)) for job in jobs]
    there = [place for place in known if place.storage is not None]
    for place in there:
        if place.storage is not None and place.storage.fresh:
            return place
    waited_for = [place for place in there if place.storage and place.storage.seen_seconds_ago <= grace_seconds]
    if waited_for:
        return waited_for[0]
    if to_put:
        chosen = choose_storage(tag, size_bytes, storages, holders)
        if chosen is not None:
            return Place(Whereabouts.ASSIGNED, chosen)
    return there[0] if there else Place(Whereabouts.NONE, None)


def choose_storage(
    tag: Tag, size_bytes: int, storages: Iterable[NodeView], holders: Sequence[Holder] = ()
) -> NodeView | None:
    """Return the storage node that should take a new tag; None when none is there that has room.

    One that holds chunks of it (an upload that failed) goes on with it. Otherwise rendezvous hashing: everybody who
    asks at the same time gets the same answer, and a node that comes or goes moves only its own share.
    """
    begun = {holder.node.node: len(holder.bitmap) if holder.bitmap is not None else tag.chunks for holder in holders}
    able = [
        view
        for view in storages
        if view.role is Role.STORAGE
        and view.fresh
        and not view.paused
        and view.addresses
        and view.room_bytes >= size_bytes
    ]
    return max(able, key=lambda view: (begun.get(view.node, 0), lot(tag, view.node)), default=None)


def choose_holders(
    tag: Tag,
    asker: NodeId,
    holders: Iterable[Holder],
    limit: int = HOLDERS_PER_ANSWER_MAX,
    *,
    seen: NodeView | None = None,
) -> tuple[NodeAddress, ...]:
    """Return whom ``asker`` may ask for chunks: fresh ones first, near ones first, complete ones first, and among
    equals in an order that is another one for each asker, so that they spread. ``seen``: the asker as the index knows
    it."""
    able = [
        holder
        for holder in holders
        if holder.any and holder.node.node != asker and not holder.node.paused and holder.node.addresses
    ]
    able.sort(
        key=lambda holder: (
            not holder.node.fresh,
            -nearness(seen, holder.node),
            not holder.complete,
            lot(tag, holder.node.node, asker),
        )
    )
    return tuple(holder.node.address for holder in able[:limit])


def lot(tag: Tag, *nodes: NodeId) -> bytes:
    """Draw a lot that is the same whenever it is drawn."""
    return hashlib.sha256(tag.to_bytes() + "".join(nodes).encode("ascii")).digest()
