"""Settings of the tracker, each with its default and the reason. Read once, by the command line (runtime/config.py).

Checked here, so that what cannot work is refused before anything is opened or listened on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from protocol.errors import ConfigError
from protocol.ids import parse_address
from protocol.limits import ADDRESSES_MAX, WORD_BYTES_MAX
from runtime.config import NO_SECRET, Secret

# What runtime/heartbeat.py goes along with.
HEARTBEAT_SECONDS_MIN = 0.1
HEARTBEAT_SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerConfig:
    """Raises ``ConfigError`` when a setting is impossible; the sentence says what would be right."""

    # Folder of everything this program keeps; None: the platform's usual places.
    home: Path | None = None
    # Nodes must reach it: every interface.
    listen: str = "0.0.0.0:4100"
    # The status page shows file names: this machine only, unless somebody says otherwise. None ("off"): no page.
    http: str | None = "127.0.0.1:4180"
    # Where invites say we are, when that is not where we listen (NAT, several networks, a name in DNS).
    advertise: tuple[str, ...] = ()
    # Names by which the page may be asked for, besides this machine's name, localhost and plain addresses.
    http_hosts: tuple[str, ...] = ()
    # A helper that got its chunks a moment ago is found within one; a dead one is given up after two and a half.
    heartbeat_seconds: float = 5.0
    # Tell the LAN where we are (addresses only; identity always comes from the handshake).
    mdns: bool = True
    # Where the index is that several trackers of this swarm share, as redis://HOST:PORT; empty: there is one tracker.
    redis: str = ""
    redis_password: Secret = NO_SECRET
    log_level: str = "info"
    # What people see; empty: the machine's name.
    name: str = ""

    def __post_init__(self) -> None:
        for key, text in (
            ("listen", self.listen),
            ("http", self.http),
            *(("advertise", one) for one in self.advertise),
        ):
            if text is not None:
                try:
                    host, port = parse_address(text)
                except ValueError as error:
                    raise ConfigError(f"[tracker] {key}: {error}") from error
                if key == "advertise" and (port == 0 or not host):
                    raise ConfigError(f"[tracker] advertise: {text!r} cannot be dialled; HOST:PORT with both is needed")
        if len(self.advertise) > ADDRESSES_MAX:
            raise ConfigError(f"[tracker] advertise: {len(self.advertise)} addresses, at most {ADDRESSES_MAX}")
        if not HEARTBEAT_SECONDS_MIN <= self.heartbeat_seconds <= HEARTBEAT_SECONDS_MAX:
            raise ConfigError(
                f"[tracker] heartbeat_seconds: {self.heartbeat_seconds:g} is not between "
                f"{HEARTBEAT_SECONDS_MIN:g} and {HEARTBEAT_SECONDS_MAX:g}"
            )
        if self.redis:
            _check_redis(self.redis)
        if len(self.name.encode("utf-8", "replace")) > WORD_BYTES_MAX:
            raise ConfigError(f"[tracker] name: longer than {WORD_BYTES_MAX} bytes")


def _check_redis(address: str) -> None:
    # Its library need not be installed where nobody asks for it.
    try:
        from runtime.redis import RedisAddress
    except ImportError as error:
        raise ConfigError(f"[tracker] redis: {error.name} is not installed: pip install upswarm[redis]") from error
    try:
        RedisAddress.parse(address)
    except ValueError as error:
        raise ConfigError(f"[tracker] redis: {error}") from error
