"""The index in Redis or Valkey: shared by several trackers of one swarm, and gone through by none of them alone.

Keeps what base.py demands; each method is one script (scripts.py), which is what makes it atomic. Times there are the
server's: monotonic clocks of two machines have nothing in common, so each tracker adds what its own differs by, which
``agree_on_time`` finds out. Errors: ``StorageUnavailable`` from everything while the server is away (steady.py goes on
without it then).

A node's link is held by one tracker. Another one's ``left`` for a link that has moved on meanwhile changes nothing.

Considered: an index of each tracker's own, and news of its nodes told to all others. It needs no scripts, and answers
without asking anybody; but every tracker then does the work of all, and that is what a second one is started for.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Any

import msgpack

from protocol.bitmap import Bitmap
from protocol.ids import NodeId, Role, Tag
from protocol.messages import Heartbeat, Holding, Inventory, JobState, JobUpdate, Pushed
from runtime.redis import RedisServer, Script
from tracker.index import scripts
from tracker.index.base import (
    ENDED_JOBS_MAX,
    HOLDINGS_MAX,
    OPEN_STATES,
    Counts,
    Holder,
    Job,
    NodeView,
    Patience,
    Profile,
    Standing,
    TagState,
    TagView,
    chunks_of,
)
from tracker.index.summary import newest_of, tag_view_of

# A page of a long list is looked through in steps of so many tags.
PAGE_TAGS = 256
# Keys outlive by this factor what they hold: a tracker that is there removes it sooner, and properly.
KEPT_FACTOR = 1.5
# Clocks drift, and somebody may set the server's: how often to look.
TIME_SECONDS = 60.0
_NAME_BYTES = 20
_TAG_BYTES = Tag.WIRE_BYTES


class RedisIndex:
    """See ``base.Index``. ``swarm`` keeps swarms apart on one server; ``tracker`` is who we are. ``run`` nothing: the
    server's connection is somebody else's."""

    def __init__(self, server: RedisServer, patience: Patience, *, swarm: str, tracker: NodeId) -> None:
        self._server = server
        self._patience = patience
        self._tracker = tracker
        self._prefix = f"upswarm:{{{swarm}}}:"
        self._ahead_seconds = 0.0  # what the common time is ahead of ``now``
        self._kept_seconds = math.ceil(KEPT_FACTOR * patience.forgotten_seconds) + 1

    async def agree_on_time(self, now: float) -> None:
        """Take the server's clock for the common time from now on. Raises ``StorageUnavailable``."""
        self._ahead_seconds = await self._server.seconds() - now

    # --- what nodes say ---

    async def arrived(self, profile: Profile, now: float) -> None:
        """See ``base.Index``."""
        await self._run(scripts.ARRIVED, now, *self._who(profile, None))

    async def left(self, node: NodeId, now: float) -> None:
        """See ``base.Index``."""
        await self._run(scripts.LEFT, now, node, self._tracker)

    async def beat(
        self, profile: Profile, heartbeat: Heartbeat, now: float, *, interval_seconds: float | None = None
    ) -> bool:
        """See ``base.Index``."""
        flags = f"{heartbeat.lend:d}{heartbeat.paused:d}"
        told = (heartbeat.room_bytes, flags, heartbeat.epoch, heartbeat.sequence)
        return bool(await self._run(scripts.BEAT, now, *self._who(profile, interval_seconds), *told))

    async def take(self, node: NodeId, inventory: Inventory, now: float) -> tuple[Tag, ...] | None:
        """See ``base.Index``."""
        packed = [(one.tag.to_bytes(), _pack(one, chunks_of(one))) for one in inventory.held]
        gained = await self._run(
            scripts.TAKE,
            now,
            node,
            f"{inventory.full:d}",
            inventory.epoch,
            inventory.sequence,
            HOLDINGS_MAX[Role.PEER],
            HOLDINGS_MAX[Role.STORAGE],
            len(inventory.dropped),
            *(tag.to_bytes() for tag in inventory.dropped),
            *(part for pair in packed for part in pair),
        )
        return None if gained is None else tuple(Tag.from_bytes(tag) for tag in gained)

    async def job(self, storage: NodeId, update: JobUpdate, now: float) -> bool:
        """See ``base.Index``."""
        is_open = f"{update.state in OPEN_STATES:d}"
        told = (is_open, _pack_update(update), ENDED_JOBS_MAX)
        return bool(
            await self._run(scripts.JOB, now, storage, update.tag.to_bytes(), self._patience.silent_seconds, *told)
        )

    async def forget(self, node: NodeId) -> None:
        """See ``base.Index``."""
        # Without a time of its own; nobody is forgotten before the beginning of time.
        await self._server.script(scripts.FORGET, self._prefix, (0, 0, self._kept_seconds, node))

    async def sweep(self, now: float) -> tuple[NodeId, ...]:
        """See ``base.Index``."""
        gone = await self._run(scripts.SWEEP, now, self._patience.silent_seconds)
        return tuple(sorted(NodeId(node.decode()) for node in gone))

    # --- what is asked ---

    async def node(self, node: NodeId, now: float) -> NodeView | None:
        """See ``base.Index``."""
        found = await self._run(scripts.NODE, now, node)
        return None if found is None else self._view(found, now)

    async def nodes(self, now: float, *, role: Role | None = None) -> tuple[NodeView, ...]:
        """See ``base.Index``."""
        views = [self._view(found, now) for found in await self._run(scripts.NODES, now)]
        return tuple(sorted((view for view in views if role in (None, view.role)), key=lambda view: view.node))

    async def holders(self, tag: Tag, now: float) -> tuple[Holder, ...]:
        """See ``base.Index``."""
        return self._holders(tag, await self._run(scripts.HOLDERS, now, tag.to_bytes()), now)

    async def holder(self, tag: Tag, node: NodeId, now: float) -> Holder | None:
        """See ``base.Index``."""
        found = await self._run(scripts.HOLDER, now, tag.to_bytes(), node)
        return None if found is None else self._holder(tag, found, now)

    async def held_by(self, node: NodeId, now: float, limit: int) -> tuple[tuple[Tag, Holder], ...]:
        """See ``base.Index``."""
        found = await self._run(scripts.HELD_BY, now, node, limit)
        if found is None:
            return ()
        tags = [(Tag.from_bytes(tag), value) for tag, value in found[1]]
        return tuple((tag, self._holder(tag, (found[0], value), now)) for tag, value in tags)

    async def named(self, name: str, now: float) -> Tag | None:
        """See ``base.Index``."""
        found = await self._run(scripts.NAMED, now, _digest(name))
        claims = [(Tag.from_bytes(tag), one) for tag, one in found]
        return newest_of((tag, self._holder(tag, one, now)) for tag, one in claims)

    async def tag(self, tag: Tag, now: float) -> TagView | None:
        """See ``base.Index``."""
        found = await self._run(scripts.TAG, now, self._patience.silent_seconds, tag.to_bytes())
        return self._tag_view(found, now)

    async def tags(self, now: float, *, after: Tag | None, limit: int, stored_only: bool) -> tuple[TagView, ...]:
        """See ``base.Index``."""
        page: list[TagView] = []
        begin = b"" if after is None else after.to_bytes()
        while len(page) < limit:
            step = max(limit - len(page), PAGE_TAGS) if stored_only else limit - len(page)
            found = await self._run(scripts.PAGE, now, self._patience.silent_seconds, step, begin)
            for one in found:
                view = self._tag_view(one, now)
                if view is not None and (not stored_only or view.state is TagState.STORED):
                    page.append(view)
            if len(found) < step:
                break
            begin = found[-1][0]
        return tuple(page[:limit])

    async def newest_tags(self, now: float, limit: int) -> tuple[TagView, ...]:
        """See ``base.Index``."""
        found = await self._run(scripts.NEWEST, now, self._patience.silent_seconds, limit)
        views = (self._tag_view(one, now) for one in found)
        return tuple(view for view in views if view is not None)

    async def jobs(self, now: float) -> tuple[Job, ...]:
        """See ``base.Index``."""
        return self._jobs(await self._run(scripts.JOBS, now, self._patience.silent_seconds, b""), now)

    async def jobs_of(self, tag: Tag, now: float) -> tuple[Job, ...]:
        """See ``base.Index``."""
        return self._jobs(await self._run(scripts.JOBS, now, self._patience.silent_seconds, tag.to_bytes()), now)

    async def open_tags_of(self, node: NodeId, now: float) -> tuple[Tag, ...]:
        """See ``base.Index``."""
        found = await self._run(scripts.OPEN_TAGS_OF, now, node, self._patience.silent_seconds)
        return tuple(Tag.from_bytes(tag) for tag in found)

    async def ended_jobs(self, now: float) -> tuple[Job, ...]:
        """See ``base.Index``."""
        begin = _TAG_BYTES + len(self._tracker)
        found = await self._run(scripts.ENDED, now)
        return tuple(self._job(one[:begin], one[begin:], now)[1] for one in found)

    async def counts(self, now: float) -> Counts:
        """See ``base.Index``."""
        nodes, tags, holdings = await self._run(scripts.COUNTS, now)
        return Counts(nodes=nodes, tags=tags, holdings=holdings)

    # --- to and fro ---

    async def _run(self, script: Script, now: float, *arguments: str | bytes | float) -> Any:
        common = (repr(now + self._ahead_seconds), repr(self._patience.forgotten_seconds), self._kept_seconds)
        return await self._server.script(script, self._prefix, (*common, *arguments))

    def _who(self, profile: Profile, interval_seconds: float | None) -> tuple[str | bytes | float, ...]:
        packed: bytes = msgpack.packb((profile.role.value, profile.name, profile.addresses))
        silent_seconds = self._patience.silent_after(interval_seconds)
        return profile.node, packed, profile.role.value, self._tracker, silent_seconds

    def _view(self, found: Any, now: float) -> NodeView:
        packed, heard, linked, silent, room, flags, tags, node = found
        role, name, addresses = msgpack.unpackb(packed)
        seconds = now + self._ahead_seconds - float(heard)
        fresh = bool(linked) and seconds <= float(silent)
        return NodeView(
            node=NodeId(node.decode()),
            role=Role(role),
            name=name,
            addresses=tuple(addresses),
            standing=Standing.FRESH if fresh else Standing.SILENT,
            seen_seconds_ago=seconds,
            tags=tags,
            room_bytes=int(room or 0),
            lend=(flags or b"00")[:1] == b"1",
            paused=(flags or b"00")[1:] == b"1",
        )

    def _holder(self, tag: Tag, found: Any, now: float) -> Holder:
        view, value = found
        size_bytes, names, since, bitmap = _unpack(tag, value)
        return Holder(node=self._view(view, now), bitmap=bitmap, size_bytes=size_bytes, names=names, since=since)

    def _holders(self, tag: Tag, found: Iterable[Any], now: float) -> tuple[Holder, ...]:
        return tuple(self._holder(tag, one, now) for one in found)

    def _tag_view(self, found: Any, now: float) -> TagView | None:
        packed, holders, jobs = found
        tag = Tag.from_bytes(packed)
        return tag_view_of(tag, self._holders(tag, holders, now), self._jobs(jobs, now))

    def _jobs(self, found: Iterable[Any], now: float) -> tuple[Job, ...]:
        jobs = [self._job(key, job, now) for key, job in found]
        return tuple(job for _, job in sorted(jobs, key=lambda one: (one[0], one[1].tag, one[1].storage)))

    def _job(self, key: bytes, packed: bytes, now: float) -> tuple[float, Job]:
        """Return when a job was opened, in the common time, and the job."""
        opened, updated, _, told = packed.split(b"\n", 3)
        size_bytes, name, state, reason, stored, safe, uploaders, pushed = msgpack.unpackb(told)
        common = now + self._ahead_seconds
        return float(opened), Job(
            tag=Tag.from_bytes(key[:_TAG_BYTES]),
            storage=NodeId(key[_TAG_BYTES:].decode()),
            size_bytes=size_bytes,
            name=name,
            state=JobState(state),
            reason=reason,
            chunks_stored=stored,
            safe=safe,
            uploaders=tuple(NodeId(one) for one in uploaders),
            pushed=tuple(Pushed(node=NodeId(node), bytes_pushed=count) for node, count in pushed),
            opened_seconds_ago=common - float(opened),
            updated_seconds_ago=common - float(updated),
        )


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8")).digest()[:_NAME_BYTES]


def _pack(holding: Holding, bitmap: Bitmap | None) -> bytes:
    """Return a holding as scripts.py reads it."""
    names = tuple(dict.fromkeys(holding.names))
    bits = b"" if bitmap is None else bitmap.to_bytes()
    digests = b"".join(map(_digest, names))
    rest: bytes = msgpack.packb((holding.size_bytes, names))
    return b"%016d%d%b%04d%b%b" % (holding.since, len(names), digests, len(bits), bits, rest)


def _unpack(tag: Tag, value: bytes) -> tuple[int, tuple[str, ...], int, Bitmap | None]:
    """Return size, names, date and bitmap of a packed holding."""
    begin = 17 + _NAME_BYTES * int(value[16:17])
    length = int(value[begin : begin + 4])
    end = begin + 4 + length
    size_bytes, names = msgpack.unpackb(value[end:])
    bitmap = Bitmap.from_bytes(tag.chunks, value[begin + 4 : end]) if length else None
    return size_bytes, tuple(names), int(value[:16]), bitmap


def _pack_update(update: JobUpdate) -> bytes:
    packed: bytes = msgpack.packb(
        (
            update.size_bytes,
            update.name,
            update.state.value,
            update.reason,
            update.chunks_stored,
            update.safe,
            update.uploaders,
            tuple((one.node, one.bytes_pushed) for one in update.pushed),
        )
    )
    return packed
