"""What a storage node tells Prometheus, from one snapshot. All names begin with ``upswarm_storage_node_`` and stay."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from storage.statistics import StorageStatistics

_START = "upswarm_storage_node_"


class _Snapshot(Collector):
    def __init__(self, shot: StorageStatistics) -> None:
        self._shot = shot

    def collect(self) -> Iterator[Metric]:
        shot, scrub, keeping = self._shot, self._shot.scrub, self._shot.keeping
        for name, help, value in (
            ("free_bytes", "What may still be stored, beyond the reserve and what was promised.", shot.free_bytes),
            ("stored_files", "Files that are stored.", shot.stored_files),
            ("stored_bytes", "Their bytes.", shot.stored_bytes),
            ("open_jobs", "Uploads that are open, and files that are being mended.", len(shot.jobs)),
            ("uploads_by_http", "Uploads by tus that are known.", shot.uploads_by_http),
            ("scrub_due_files", "Files that are due to be read again.", scrub.due),
            ("scrub_behind", "1 when the pace is too slow for what is stored.", int(scrub.behind)),
        ):
            yield GaugeMetricFamily(_START + name, help, value)
        for name, help, value in (
            ("received_bytes", "Bytes of chunks that came.", shot.engine.received_bytes),
            ("sent_bytes", "Bytes of chunks that left.", shot.engine.sent_own_bytes + shot.engine.sent_help_bytes),
            ("scrubbed_bytes", "Bytes that were read again.", scrub.bytes),
            ("rotten_chunks", "Chunks that were rotten when they were read again.", scrub.rotten_chunks),
            ("mended_files", "Files that were opened again to have rotten chunks replaced.", scrub.files_mended),
            ("ended_names", "Names whose time was over.", keeping.names_ended),
            ("removed_files", "Files that were removed or collected.", keeping.files_removed),
        ):
            yield CounterMetricFamily(_START + name, help, value)


def metrics_text(shot: StorageStatistics) -> bytes:
    """Return the snapshot as Prometheus reads it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(shot))
    return generate_latest(registry)
