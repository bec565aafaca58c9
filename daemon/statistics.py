"""How the daemon stands, as frozen snapshots: what ``status`` and ``peers`` show, and tests read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from daemon.getrecord import Get
from daemon.putrecord import Put
from daemon.timetable import Caps
from exchange.engine import EngineStatistics
from protocol.ids import NodeId, Role
from runtime.heartbeat import TrackerLinkStatistics
from runtime.link import Link

# A put that failed or was given up holds nobody back from leaving.
ENDED = ("stored", "failed", "cancelled")
ENDED_SHOWN_MAX = 20

J = TypeVar("J", Put, Get)


def recent(jobs: list[J]) -> list[J]:
    """Return the last jobs that have ended, and all that have not."""
    ended = [job for job in jobs if job.state.final]
    return ended[-ENDED_SHOWN_MAX:] + [job for job in jobs if not job.state.final]


@dataclass(frozen=True, slots=True)
class PeerStatistics:
    """A link. Bytes of both directions, all kinds of messages together."""

    node: NodeId
    role: Role
    name: str
    address: str
    dialled: bool
    round_trip_seconds: float | None
    bytes_sent: int
    bytes_received: int

    @classmethod
    def of(cls, link: Link) -> PeerStatistics:
        """Return the snapshot of a link that is up."""
        return cls(
            link.peer.node,
            link.peer.role,
            link.hello.name,
            link.remote,
            link.dialled,
            link.round_trip_seconds,
            link.bytes_sent,
            link.bytes_received,
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as a command answers it."""
        return {
            "node": self.node,
            "role": self.role.value,
            "name": self.name,
            "address": self.address,
            "dialled": self.dialled,
            "round_trip_seconds": self.round_trip_seconds,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
        }


@dataclass(frozen=True, slots=True)
class DaemonStatistics:
    """The whole daemon. ``caps``: what holds now. ``puts`` and ``gets``: those that have not
    ended, and the last ones that have."""

    node: NodeId
    swarm: str
    name: str
    listen: str
    uptime_seconds: float
    paused: bool
    lend: bool
    caps: Caps
    timetable: str
    tracker: TrackerLinkStatistics
    engine: EngineStatistics
    links: int
    lan_nodes: int
    files: int
    partial_files: int
    orders_carried_out: int
    orders_refused: int
    puts: tuple[Mapping[str, Any], ...]
    gets: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as ``status`` answers it."""
        tracker, engine = self.tracker, self.engine
        return {
            "program": "daemon",
            "node": self.node,
            "swarm": self.swarm,
            "name": self.name,
            "listen": self.listen,
            "uptime_seconds": round(self.uptime_seconds, 1),
            "paused": self.paused,
            "safe": all(put["safe"] for put in self.puts if put["state"] not in ENDED),
            "tracker": {
                "connected": tracker.connected,
                "address": tracker.address,
                "trouble": tracker.trouble,
                "round_trip_seconds": tracker.round_trip_seconds,
            },
            "limits": {"up": self.caps.up, "down": self.caps.down, "help": self.caps.help},
            "timetable": self.timetable or None,
            "lend": self.lend,
            "links": self.links,
            "lan_nodes": self.lan_nodes,
            "files": self.files,
            "partial_files": self.partial_files,
            "traffic": {
                "sent_own_bytes": engine.sent_own_bytes,
                "sent_help_bytes": engine.sent_help_bytes,
                "received_bytes": engine.received_bytes,
                "wasted_bytes": engine.wasted_bytes,
            },
            "orders": {"carried_out": self.orders_carried_out, "refused": self.orders_refused},
            "puts": [dict(put) for put in self.puts],
            "gets": [dict(get) for get in self.gets],
        }
