"""Settings of the storage node: one frozen dataclass, read once (runtime/config.py), defaults beside their reasons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from protocol.errors import ConfigError
from protocol.ids import parse_address
from protocol.limits import WORD_BYTES_MAX
from runtime.places import Places

LISTEN_DEFAULT = "0.0.0.0:4200"


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """``data`` None: the folder ``data`` below the program's state. ``advertise``: where others reach us, if not where
    we listen (behind a port forwarding, say)."""

    places: Places
    listen: str = LISTEN_DEFAULT
    advertise: tuple[str, ...] = ()
    data: Path | None = None
    name: str = ""  # for people; the machine's when empty
    log_level: str = "info"
    mdns: bool = True
    # Left free whatever comes: a full disk would stop the ledger and the machine around us.
    reserve_bytes: int = 1 << 30
    # None: what we send is not capped. A storage node is there to serve.
    up_bytes_per_second: float | None = None
    # So many small files may be on their way from one node at a time; a folder of files is put a few at a time.
    node_jobs_max: int = 256
    # What was durable of a cancelled upload waits so long for a later put of the same file.
    rest_seconds: float = 24 * 3600.0
    # An open job that nobody was connected for in so long is cancelled; its uploader may come back from a long weekend.
    idle_seconds: float = 7 * 24 * 3600.0

    def __post_init__(self) -> None:
        for address in (self.listen, *self.advertise):
            try:
                parse_address(address)
            except ValueError as error:
                raise ConfigError(f"[storage] listen or advertise: {error}") from error
        for key, value in (("node_jobs_max", self.node_jobs_max - 1), ("reserve_bytes", self.reserve_bytes)):
            if value < 0:
                raise ConfigError(f"[storage] {key}: too small; the default would be right for most")
        if len(self.name.encode("utf-8")) > WORD_BYTES_MAX:
            raise ConfigError(f"[storage] name: at most {WORD_BYTES_MAX} bytes")

    @property
    def data_folder(self) -> Path:
        """Where everything is kept: ledger.db, objects/, spool/, lock."""
        return self.data if self.data is not None else self.places.state / "data"
