"""The tracker for Prometheus: one function from a snapshot to text. No thread, no registry of its own, no history.

Names are ours and stay; a counter counts since the start of this process. Labels are roles, states and node ids of
storage nodes: what a peer can make up never becomes a label.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tracker.statistics import TrackerStatistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_of(shown: TrackerStatistics, readers: int) -> bytes:
    """Return the exposition. ``readers``: how many live pages are open."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(list(_families(shown, readers))))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(shown: TrackerStatistics, readers: int) -> Iterable[Metric]:
    about, traffic, nodes = shown.about, shown.traffic, shown.nodes_by_state
    build = GaugeMetricFamily("upswarm_build_info", "Version of this tracker.", labels=["version"])
    build.add_metric([about.version], 1)
    yield build
    yield GaugeMetricFamily("upswarm_uptime_seconds", "Since this tracker started.", shown.uptime_seconds)
    states = GaugeMetricFamily("upswarm_nodes", "Nodes by state.", labels=["state"])
    for state in ("fresh", "paused", "silent"):
        states.add_metric([state], getattr(nodes, state))
    yield states
    roles = GaugeMetricFamily("upswarm_members", "Nodes by role, whatever their state.", labels=["role"])
    roles.add_metric(["peer"], nodes.peers)
    roles.add_metric(["storage"], nodes.storages)
    yield roles
    room = GaugeMetricFamily("upswarm_storage_room_bytes", "What a storage node can still take.", labels=["node"])
    for storage in shown.storages:
        room.add_metric([storage.node], storage.room_bytes)
    yield room
    for name, words, value in (
        ("upswarm_links", "Open links to nodes.", traffic.links),
        ("upswarm_files", "Files that somebody holds.", shown.tag_count),
        ("upswarm_holdings", "Pairs of node and file.", shown.holding_count),
        ("upswarm_open_jobs", "Uploads that are open.", shown.job_count),
        ("upswarm_throughput_bytes_per_second", "Into storage, now.", shown.bytes_per_second),
        ("upswarm_trackers", "Trackers of this swarm.", traffic.trackers),
        ("upswarm_alone", "1 while the index that trackers share cannot be used.", int(traffic.alone is not None)),
        ("upswarm_page_readers", "Live pages that are open.", readers),
    ):
        yield GaugeMetricFamily(name, words, value)
    for name, words, value in (
        ("upswarm_pushed_bytes", "Verified bytes pushed into storage.", shown.bytes_pushed),
        ("upswarm_heartbeats", "Heartbeats heard.", traffic.heartbeats),
        ("upswarm_inventories", "Inventory messages heard.", traffic.inventories),
        ("upswarm_questions", "Questions answered.", traffic.questions),
        ("upswarm_orders", "Orders given.", traffic.orders),
        ("upswarm_joins", "Nodes that joined.", traffic.joined),
        ("upswarm_joins_refused", "Nodes refused at the join door.", traffic.joins_refused),
    ):
        yield CounterMetricFamily(name, words, value)
