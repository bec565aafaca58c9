"""What the tracker shows of itself: frozen snapshots that the page, its JSON, the control socket and tests read.

Only plain values and bounded lists, so that they are JSON as they are and looking cannot disturb the swarm; made by
sight.py, decided upon by nobody. Names, addresses and reasons are text that strangers wrote. Sizes are bytes, times
seconds, dates seconds since 1970; what lies back is given as ``…_ago``, so that clocks need not agree. ``docs`` of the
JSON are made of these classes, too: what stands here in prose is read by people who never see this file.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracker.flow import Point

NODES_SHOWN_MAX = 30
TAGS_SHOWN_MAX = 20
JOBS_SHOWN_MAX = 50
ENDED_SHOWN_MAX = 10
HOLDERS_SHOWN_MAX = 16
EVENTS_SHOWN_MAX = 40
HELD_SHOWN_MAX = 100
PAGE_ROWS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatistics:
    """A node. ``state`` is fresh, paused or silent; ``version`` is empty when another tracker holds its link."""

    node: str
    role: str
    name: str
    addresses: tuple[str, ...]
    state: str
    seen_seconds_ago: float
    tags: int
    room_bytes: int
    lend: bool
    paused: bool
    version: str
    bytes_per_second: int  # what it pushes into storage now


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderStatistics:
    """How many chunks of a tag a node holds."""

    node: str
    name: str
    role: str
    chunks: int
    fresh: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TagStatistics:
    """A tag and some of its holders; ``state`` is stored, open or shared. ``holders_complete`` and ``holders_partial``
    count all holders."""

    tag: str
    names: tuple[str, ...]
    size_bytes: int
    chunks: int
    since: int
    state: str
    storage: str | None
    storage_name: str
    holders_complete: int
    holders_partial: int
    holders: tuple[HolderStatistics, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedStatistics:
    """What one node contributed to a job, in verified bytes. ``place`` counts who began when, from 0, and stays."""

    node: str
    name: str
    place: int
    bytes_pushed: int
    bytes_per_second: int
    is_uploader: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatistics:
    """An upload. ``state`` is open or committing, or how it ended: stored, failed, cancelled.

    ``safe``: every chunk is stored, or held by somebody who is not an uploader. ``copies``: how many whole copies the
    nodes that are there now hold together, its uploaders left out; 1.25 means one, and of a quarter of the chunks two.
    ``bytes_per_second``: now; ``average_bytes_per_second``: since it opened; ``seconds_left``: at the present rate.
    """

    tag: str
    name: str
    size_bytes: int
    chunks: int
    state: str
    reason: str
    storage: str
    storage_name: str
    chunks_stored: int
    bytes_stored: int
    safe: bool
    copies: float
    uploaders: tuple[str, ...]
    open_seconds: float
    updated_seconds_ago: float
    bytes_per_second: int
    average_bytes_per_second: int
    seconds_left: float | None
    pushed: tuple[PushedStatistics, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventStatistics:
    """Something that happened. ``what`` is a word, ``words`` are for people; ``name``: the node; ``file``: upload."""

    at: int
    what: str
    words: str
    node: str | None
    name: str
    tag: str | None
    file: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatistics:
    """So many chunks in a row of one state (missing, coming or stored) and from one node, if it is known."""

    chunks: int
    state: str
    node: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MapStatistics:
    """Every chunk of an upload, from the first to the last. ``detailed``: with who sends what, as the storage node
    shows it; else made of what it says it holds."""

    tag: str
    size_bytes: int
    chunk_bytes: int
    chunks: int
    detailed: bool
    stored: int
    coming: int
    missing: int
    runs: tuple[RunStatistics, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDetail:
    """All about one upload."""

    job: JobStatistics
    holders: tuple[HolderStatistics, ...]
    holder_count: int
    events: tuple[EventStatistics, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldStatistics:
    """What one node holds of one tag."""

    tag: str
    name: str
    size_bytes: int
    chunks: int
    chunks_held: int
    since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderStatistics:
    """An order in force: push what you have of ``tag`` to ``storage``."""

    tag: str
    name: str
    storage: str
    storage_name: str
    bytes_pushed: int
    bytes_per_second: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDetail:
    """All about one node. ``held`` is the newest of ``node.tags``."""

    node: NodeStatistics
    remote: str
    round_trip_seconds: float | None
    orders: tuple[OrderStatistics, ...]
    jobs: tuple[JobStatistics, ...]  # it uploads them, or stores them
    held: tuple[HeldStatistics, ...]
    events: tuple[EventStatistics, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDetail:
    """All about one file. ``link`` is what ``upswarm get`` takes. ``copies``: whole copies, all holders counted."""

    file: TagStatistics
    link: str
    copies: float
    job: JobStatistics | None
    events: tuple[EventStatistics, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobList:
    """Open uploads, the oldest first, and some that ended lately, newest first. ``count`` is of the open ones."""

    count: int
    jobs: tuple[JobStatistics, ...]
    ended: tuple[JobStatistics, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeList:
    """A page of nodes in the order of their ids; ``after`` asks for the next one, null: this was the last."""

    count: int
    nodes: tuple[NodeStatistics, ...]
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileList:
    """A page of files in the order of their tags; ``after`` asks for the next one, null: this was the last."""

    count: int
    files: tuple[TagStatistics, ...]
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What flowed into storage in the last hour, in steps of five seconds; the last step is not over yet."""

    step_seconds: int
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What does not change while a tracker runs."""

    swarm: str
    node: str
    name: str
    version: str
    listen: str
    http: str | None
    addresses: tuple[str, ...]
    heartbeat_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Counts since the start; ``links`` are open now, ``trackers`` the swarm has. ``alone``: why the index that
    trackers share cannot be used now; null when it can, or there is none."""

    links: int
    heartbeats: int
    inventories: int
    questions: int
    orders: int
    joined: int
    joins_refused: int
    trackers: int = 1
    alone: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCounts:
    """How many nodes there are of each state and role."""

    fresh: int
    paused: int
    silent: int
    peers: int
    storages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerStatistics:
    """All at a glance. The counts are of everything; the lists may be cut.

    ``bytes_pushed``: into storage, since this tracker started; ``room_bytes``: what all storage nodes that are there
    could still take.
    """

    about: About
    uptime_seconds: float
    taken_at: int
    traffic: Traffic
    node_count: int
    nodes_by_state: NodeCounts
    tag_count: int
    holding_count: int
    job_count: int
    bytes_per_second: int
    bytes_pushed: int
    room_bytes: int
    storages: tuple[NodeStatistics, ...]
    nodes: tuple[NodeStatistics, ...]
    tags: tuple[TagStatistics, ...]
    jobs: tuple[JobStatistics, ...]
    ended_jobs: tuple[JobStatistics, ...]
