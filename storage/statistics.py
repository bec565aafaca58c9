"""What the storage node shows of itself: frozen snapshots that the control socket, pages and tests read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from exchange.engine import EngineStatistics
from protocol.ids import NodeId
from runtime.heartbeat import TrackerLinkStatistics
from storage.jobs import JobSnapshot
from storage.keeping.keeper import KeeperStatistics
from storage.keeping.scrubber import ScrubStatistics
from storage.ledger.base import StoredFile


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveJobStatistics:
    """A job that is open or being committed. ``sources``: nodes that offer some of it now."""

    job: JobSnapshot
    safe: bool
    sources: tuple[NodeId, ...]
    links: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageStatistics:
    """The node at one moment."""

    node: NodeId
    name: str
    listen: str
    data: str
    uptime_seconds: float
    free_bytes: int
    reserve_bytes: int
    stored_files: int
    stored_bytes: int
    resting_jobs: int
    links: int
    jobs: tuple[LiveJobStatistics, ...]
    engine: EngineStatistics
    tracker: TrackerLinkStatistics
    scrub: ScrubStatistics
    keeping: KeeperStatistics
    uploads_by_http: int


def job_to_json(live: LiveJobStatistics) -> dict[str, Any]:
    """Return a job as the control socket tells it: sizes in bytes."""
    job = live.job
    return {
        "tag": str(job.tag),
        "size": job.size_bytes,
        "name": job.name,
        "state": job.state.value,
        "reason": job.reason,
        "chunks": job.chunks,
        "chunks_stored": job.chunks_stored,
        "bytes_stored": job.bytes_stored,
        "safe": live.safe,
        "uploaders": list(job.uploaders),
        "sources": list(live.sources),
        "pushed": {pushed.node: pushed.bytes_pushed for pushed in job.pushed},
    }


def file_to_json(file: StoredFile) -> dict[str, Any]:
    """Return a stored file as the control socket tells it."""
    return {
        "tag": str(file.tag),
        "size": file.size_bytes,
        "name": file.names[0] if file.names else "",
        "names": list(file.names),
        "state": "stored",
        "since": file.since,
    }


def status_to_json(shot: StorageStatistics) -> dict[str, Any]:
    """Return the whole snapshot as the control socket tells it."""
    return {
        "program": "storage",
        "node": shot.node,
        "name": shot.name,
        "listen": shot.listen,
        "data": shot.data,
        "uptime_seconds": shot.uptime_seconds,
        "free_bytes": shot.free_bytes,
        "reserve_bytes": shot.reserve_bytes,
        "stored_files": shot.stored_files,
        "stored_bytes": shot.stored_bytes,
        "resting_jobs": shot.resting_jobs,
        "links": shot.links,
        "jobs": [job_to_json(live) for live in shot.jobs],
        "sent_bytes": shot.engine.sent_own_bytes + shot.engine.sent_help_bytes,
        "received_bytes": shot.engine.received_bytes,
        "wasted_bytes": shot.engine.wasted_bytes,
        "uploads_by_http": shot.uploads_by_http,
        "scrub": asdict(shot.scrub),
        "keeping": asdict(shot.keeping),
        "tracker": {
            "connected": shot.tracker.connected,
            "address": shot.tracker.address,
            "trouble": shot.tracker.trouble,
            "round_trip_seconds": shot.tracker.round_trip_seconds,
        },
    }
