"""Bugs, planted one at a time, and the worlds in which they must be found: that measures the simulation itself.

Each is a patch of production code that lasts as long as its context manager; none is in production code. ``hunt`` runs
one world and raises when something is wrong there. What each costs, in seeds, is in docs/testing.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import trio
from simulation import stories
from simulation.chaos import run_chaos
from simulation.disk import SimDisk
from simulation.promises import Promise
from simulation.schedule import CHAOS_SECONDS, Deed, Fault, Schedule
from simulation.world import Shape
from support.patches import patched

import daemon.orders
import daemon.puts
import exchange.buffers
import exchange.engine
import exchange.picker
import exchange.spool
import exchange.strikes
import runtime.database
import runtime.identity
import runtime.inventory
import runtime.link
import runtime.links
import runtime.tls
import storage.backends.directory
import storage.durability
import storage.passage
import storage.possession
import storage.reports
import tracker.index.memory
from exchange.assembly import CELL_BYTES
from protocol.errors import NotTrusted
from protocol.ids import NodeId, Role
from protocol.messages import JobState
from storage.jobs import Job
from storage.ledger.base import KeptJob
from storage.ledger.sql import SqlLedger

Patch = Callable[[], contextlib.AbstractContextManager[None]]
Hunt = Callable[[int], object]


@dataclass(frozen=True)
class Planted:
    """One bug. ``breaks``: what it must be found by; ``seeds_max``: in so many worlds."""

    name: str
    patch: Patch
    hunt: Hunt
    breaks: Promise
    seeds_max: int = 200


# --- worlds ---

STORAGE = 2  # of ("peer1", "peer2", "storage1", "tracker")


def storage_dies(seed: int) -> object:
    """Power cuts and kills of the storage node while two daemons put large files."""
    rng = random.Random(f"{seed}/storage dies")
    faults = tuple(
        Fault(
            round(rng.uniform(1, CHAOS_SECONDS), 3),
            rng.choice(("power", "power-at", "power-at", "kill")),
            STORAGE,
            rng.uniform(0.1, 6),
        )
        for _ in range(8)
    )
    deeds = tuple(
        Deed(round(rng.uniform(0, CHAOS_SECONDS * 0.7), 3), "put", number, content)
        for number, content in enumerate(rng.sample(range(7), 5))
    )
    return run_chaos(seed, Schedule(Shape(2, 1), faults, deeds, (1e6,)))


def spools_rot(seed: int) -> object:
    """Bits flip in spool files while two daemons put large files over slow lines."""
    rng = random.Random(f"{seed}/spools rot")
    faults = tuple(Fault(round(2 + number * 0.7, 3), "rot", STORAGE, 1) for number in range(30))
    deeds = tuple(Deed(round(rng.uniform(0, 10), 3), "put", number, content) for number, content in enumerate((6, 5)))
    return run_chaos(seed, Schedule(Shape(2, 1), faults, deeds, (4e5,)))


def told(story: Any, shape: Shape) -> Hunt:
    """Return the hunt that tells ``story``."""
    return lambda seed: stories.tell(story, shape, seed=seed)


PLAIN = told(stories.plain_put, Shape(3, 1))
LIARS = told(stories.liars, Shape(7, 1))
THIEF = told(stories.claims_without_bytes, Shape(2, 1))
LEAVING = told(stories.uploader_leaves, Shape(4, 1))
REVOKED = told(stories.revoked_amid, Shape(3, 1))
RESTARTS = told(stories.memory_after_restarts, Shape(2, 1))
IMPOSTOR = told(stories.impostor_answers, Shape(2, 1))
SWAPPED = told(stories.addresses_swapped, Shape(2, 2))
SILENCE = told(stories.silence_amid, Shape(1, 1))
LATE_ORDERS = told(stories.orders_that_come_too_late, Shape(3, 1))


def little_memory(seed: int) -> object:
    """Six puts at once to a storage node that may hold no more than one cell in memory."""
    schedule = Schedule(Shape(6, 1), (), tuple(Deed(1.0, "put", number, number) for number in range(6)), (1e6,))
    with patched(exchange.engine, "RECEIVING_BYTES_MAX", CELL_BYTES):
        return run_chaos(seed, schedule)


# --- durability ---


@contextlib.contextmanager
def acknowledge_before_fsync() -> Iterator[None]:
    async def no_sync(*_: Any) -> None:
        return

    with patched(storage.durability.Durability, "_sync", no_sync):
        yield


@contextlib.contextmanager
def without_sync_folder(wanted: Callable[[Path], bool]) -> Iterator[None]:
    sync_folder = SimDisk.sync_folder

    def sync_some(disk: SimDisk, path: Path) -> None:
        if not wanted(path):
            sync_folder(disk, path)

    with patched(SimDisk, "sync_folder", sync_some):
        yield


def no_fsync_of_the_spool_folder() -> contextlib.AbstractContextManager[None]:
    return without_sync_folder(lambda path: path.name == "spool")


def no_fsync_of_the_objects_folder() -> contextlib.AbstractContextManager[None]:
    backend = storage.backends.directory.DirectoryBackend
    store = backend._store

    def store_carelessly(self: Any, *args: Any) -> None:
        with without_sync_folder(lambda path: True):
            store(self, *args)

    return patched(backend, "_store", store_carelessly)


@contextlib.contextmanager
def ledger_with_synchronous_normal() -> Iterator[None]:
    connect = apsw.Connection

    class Careless(connect):  # type: ignore[misc, valid-type]  # apsw has no types
        def execute(self, statement: str, *args: Any, **settings: Any) -> Any:
            return super().execute(statement.replace("synchronous=FULL", "synchronous=NORMAL"), *args, **settings)

    with patched(runtime.database.apsw, "Connection", Careless):
        yield


@contextlib.contextmanager
def stored_before_the_object_is_in_place() -> Iterator[None]:
    passage = storage.passage.Passage
    place = passage._place

    async def hasty(self: Any, entry: Any) -> None:
        state, entry.job.state = entry.job.state, storage.passage.JobState.STORED
        self._means.reporter.closed(entry, frozenset(node for node, _ in entry.job.grants()))
        entry.job.state = state
        await place(self, entry)

    with patched(passage, "_place", hasty):
        yield


@contextlib.contextmanager
def resume_forgets_durable_chunks() -> Iterator[None]:
    jobs = SqlLedger.jobs

    async def forgetful(self: Any) -> list[KeptJob]:
        kept = await jobs(self)
        return [
            KeptJob(Job(one.job.manifest, state=one.job.state, claims=one.job.claims), one.moved_at) for one in kept
        ]

    with patched(SqlLedger, "jobs", forgetful):
        yield


@contextlib.contextmanager
def get_placed_without_fsync() -> Iterator[None]:
    sync = exchange.spool.Spool.sync

    async def no_sync(self: Any, **how: Any) -> None:
        if "spool" in self.path.parts:
            await sync(self, **how)

    with patched(exchange.spool.Spool, "sync", no_sync):
        yield


@contextlib.contextmanager
def puts_forgotten_at_a_restart() -> Iterator[None]:
    async def load_nothing(_self: Any) -> None:
        return

    with patched(daemon.puts.Puts, "load", load_nothing):
        yield


# --- integrity ---


@contextlib.contextmanager
def no_final_verification() -> Iterator[None]:
    async def all_right(*_: Any) -> list[int]:
        return []

    with patched(storage.passage, "rotten_in_spool", all_right):
        yield


@contextlib.contextmanager
def wrong_digests_accepted() -> Iterator[None]:
    write_blocks = exchange.spool.Spool.write_blocks

    def gullible(self: Any, writes: Any) -> list[tuple[int, bool]]:
        return [(chunk, True) for chunk, _ in write_blocks(self, writes)]

    with patched(exchange.spool.Spool, "write_blocks", gullible):
        yield


@contextlib.contextmanager
def commit_with_a_missing_chunk() -> Iterator[None]:
    passage = storage.passage.Passage
    acknowledged = passage._acknowledged

    def hasty(self: Any, entry: Any, chunks: list[int]) -> None:
        acknowledged(self, entry, chunks)
        if len(entry.job.durable.missing()) <= 1:
            entry.all_durable.set()

    async def fill(self: Any, entry: Any) -> None:
        async with trio.open_nursery() as filling:

            async def run() -> None:
                await real_fill(self, entry)
                filling.cancel_scope.cancel()

            filling.start_soon(run)
            await entry.all_durable.wait()
            filling.cancel_scope.cancel()

    real_fill = passage._fill
    with (
        patched(passage, "_acknowledged", hasty),
        patched(passage, "_fill", fill),
        patched(Job, "begin_commit", lambda job, arrived=(): job._move(storage.passage.JobState.COMMITTING)),
        no_final_verification(),
    ):
        yield


@contextlib.contextmanager
def possession_proven_by_anything() -> Iterator[None]:
    with patched(storage.possession.Challenge, "accepts", lambda self, digest, ranges_bytes: True):
        yield


# --- trust ---


@contextlib.contextmanager
def strikes_forgotten() -> Iterator[None]:
    with patched(exchange.strikes.Strikes, "strike", lambda self, node, now: False):
        yield


@contextlib.contextmanager
def revocation_ignored() -> Iterator[None]:
    def renew(self: Any, credentials: Any) -> None:
        self.credentials = credentials

    with patched(runtime.links.Links, "renew", renew):
        yield


@contextlib.contextmanager
def whoever_answers_is_trusted() -> Iterator[None]:
    honest = runtime.identity.Credentials.judge

    def judge(self: Any, certificate: bytes) -> runtime.identity.Peer:
        try:
            return honest(self, certificate)
        except NotTrusted:
            return runtime.identity.Peer(NodeId("a" * 52), Role.STORAGE, self.swarm)

    with (
        patched(runtime.identity.Credentials, "judge", judge),
        patched(runtime.tls.Expected, "check", lambda self, peer: None),
    ):
        yield


# --- bookkeeping ---


@contextlib.contextmanager
def blocks_assigned_twice() -> Iterator[None]:
    picker = exchange.picker.Picker
    ask = picker._ask

    def ask_and_forget(self: Any, source: Any, chunk: int, first: int, count: int, now: float) -> Any:
        free = self._free.get(chunk, 0)
        pick = ask(self, source, chunk, first, count, now)
        self._set_free(chunk, free)
        return pick

    with patched(picker, "_ask", ask_and_forget):
        yield


@contextlib.contextmanager
def stored_never_told() -> Iterator[None]:
    with patched(storage.reports.Reporter, "stored", lambda self, entry, chunks: self.moved(entry)):
        yield


@contextlib.contextmanager
def stale_index_after_a_restart() -> Iterator[None]:
    index = tracker.index.memory.MemoryIndex
    beat = index.beat

    async def content(self: Any, profile: Any, heartbeat: Any, now: float, **rest: Any) -> bool:
        known = profile.node in self._nodes and self._nodes[profile.node].arrivals > 1
        wanted = await beat(self, profile, heartbeat, now, **rest)
        return wanted and not known

    with patched(index, "beat", content):
        yield


@contextlib.contextmanager
def inventory_changes_off_by_one() -> Iterator[None]:
    book = runtime.inventory.InventoryBook
    messages = book._messages

    def short(self: Any, held: Any, dropped: Any, *, full: bool) -> Any:
        return messages(self, held if full else held[1:] if len(held) > 1 else held, dropped, full=full)

    with patched(book, "_messages", short):
        yield


@contextlib.contextmanager
def drops_not_told() -> Iterator[None]:
    book = runtime.inventory.InventoryBook
    messages = book._messages

    def deaf(self: Any, held: Any, dropped: Any, *, full: bool) -> Any:
        return messages(self, held, [], full=full)

    with patched(book, "_messages", deaf):
        yield


@contextlib.contextmanager
def orders_lost() -> Iterator[None]:
    with patched(daemon.orders.Orders, "receive", lambda self, order: None):
        yield


@contextlib.contextmanager
def acknowledged_chunks_off_by_one() -> Iterator[None]:
    """The ledger is told of one chunk less than is acknowledged."""
    honest = storage.durability._with

    def short(job: Any, pending: Any) -> Any:
        batch = honest(job, pending)
        durable = batch.durable.copy()
        durable.discard(max(pending))
        return storage.durability.Acknowledgement(tag=batch.tag, durable=durable, pushed=batch.pushed)

    with patched(storage.durability, "_with", short):
        yield


@contextlib.contextmanager
def whoever_answers_is_whom_we_want() -> Iterator[None]:
    """The certificate is judged, and taken for the one of the node that was dialled."""
    links = runtime.links.Links
    meet = links._meet

    async def meet_anybody(self: Any, text: str, expected: runtime.tls.Expected) -> Any:
        stream, peer = await meet(self, text, expected)
        return stream, runtime.identity.Peer(expected.node or peer.node, peer.role, peer.swarm)

    with patched(links, "_meet", meet_anybody), patched(runtime.tls.Expected, "check", lambda self, peer: None):
        yield


def silence_not_noticed() -> contextlib.AbstractContextManager[None]:
    async def watch_nothing(_self: Any) -> None:
        await trio.sleep_forever()

    return patched(runtime.link.Link, "_watch_silence", watch_nothing)


def orders_kept_for_ever() -> contextlib.AbstractContextManager[None]:
    return patched(daemon.orders.Orders, "_next_target", lambda self: None)


def buffers_without_bound() -> contextlib.AbstractContextManager[None]:
    return patched(exchange.buffers.BufferPool, "_has_room", lambda self, capacity: True)


@contextlib.contextmanager
def tracker_calls_stored_what_has_begun() -> Iterator[None]:
    index = tracker.index.memory.MemoryIndex
    job = index.job

    async def hopeful(self: Any, storage: NodeId, update: Any, now: float) -> bool:
        if update.chunks_stored:
            update = dataclasses.replace(update, state=JobState.STORED)
        return await job(self, storage, update, now)

    with patched(index, "job", hopeful):
        yield


ALL = (
    Planted("acknowledge before fsync", acknowledge_before_fsync, storage_dies, Promise.ACKNOWLEDGED_IS_DURABLE),
    Planted(
        "no fsync of the spool folder", no_fsync_of_the_spool_folder, storage_dies, Promise.ACKNOWLEDGED_IS_DURABLE
    ),
    Planted("no fsync of the objects folder", no_fsync_of_the_objects_folder, storage_dies, Promise.STORED_IS_READABLE),
    Planted(
        "ledger with synchronous=NORMAL", ledger_with_synchronous_normal, storage_dies, Promise.ACKNOWLEDGED_IS_DURABLE
    ),
    Planted(
        "stored said before the object is in place",
        stored_before_the_object_is_in_place,
        storage_dies,
        Promise.STORED_IS_READABLE,
    ),
    Planted(
        "resume forgets durable chunks", resume_forgets_durable_chunks, storage_dies, Promise.ACKNOWLEDGED_IS_DURABLE
    ),
    Planted(
        "ledger told of one chunk less", acknowledged_chunks_off_by_one, storage_dies, Promise.ACKNOWLEDGED_IS_DURABLE
    ),
    Planted("get put into place without fsync", get_placed_without_fsync, PLAIN, Promise.GOT_IS_RIGHT),
    Planted("puts forgotten at a restart", puts_forgotten_at_a_restart, LEAVING, Promise.ALL_ENDS),
    Planted("no final verification", no_final_verification, spools_rot, Promise.VERIFIED_ONLY),
    Planted("wrong digests accepted", wrong_digests_accepted, LIARS, Promise.ACKNOWLEDGED_IS_DURABLE),
    Planted("commit with a missing chunk", commit_with_a_missing_chunk, PLAIN, Promise.STORED_IS_READABLE),
    Planted("possession proven by anything", possession_proven_by_anything, THIEF, Promise.HAVING_IS_PROVEN),
    Planted("strikes forgotten", strikes_forgotten, LIARS, Promise.STRUCK_IS_NOT_ASKED),
    Planted("revocation ignored", revocation_ignored, REVOKED, Promise.REVOKED_IS_SHUT_OUT),
    Planted("whoever answers is trusted", whoever_answers_is_trusted, IMPOSTOR, Promise.STRANGERS_HEAR_NOTHING),
    Planted("blocks assigned twice", blocks_assigned_twice, PLAIN, Promise.NOTHING_COMES_TWICE),
    Planted("Stored never told", stored_never_told, PLAIN, Promise.ALL_IS_TOLD),
    Planted("stale index after a restart", stale_index_after_a_restart, RESTARTS, Promise.REST_IS_THE_MODEL),
    Planted("inventory changes off by one", inventory_changes_off_by_one, RESTARTS, Promise.REST_IS_THE_MODEL),
    Planted("drops not told", drops_not_told, RESTARTS, Promise.REST_IS_THE_MODEL),
    Planted("orders lost", orders_lost, LEAVING, Promise.ALL_ENDS),
    Planted("whoever answers is whom we want", whoever_answers_is_whom_we_want, SWAPPED, Promise.RIGHT_NODE_ONLY),
    Planted("silence not noticed", silence_not_noticed, SILENCE, Promise.REQUESTS_END),
    Planted("orders kept for ever", orders_kept_for_ever, LATE_ORDERS, Promise.ORDERS_END),
    Planted("buffers without bound", buffers_without_bound, little_memory, Promise.MEMORY_IS_BOUNDED),
    Planted("stored what has begun", tracker_calls_stored_what_has_begun, PLAIN, Promise.TRACKER_IS_RIGHT),
)
