"""Settings of the peer daemon: one frozen dataclass, read once (runtime/config.py), defaults beside their reasons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from daemon.timetable import Timetable
from protocol.errors import ConfigError
from protocol.ids import parse_address
from protocol.limits import ADDRESSES_MAX, WORD_BYTES_MAX
from runtime.places import Places

LISTEN_DEFAULT = "0.0.0.0:4101"


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonConfig:
    """Raises ``ConfigError`` when a setting is impossible. Caps are bytes per second, None is none; what ``limit``
    changed while running goes before them."""

    places: Places
    listen: str = LISTEN_DEFAULT
    # Where others reach us, when that is not where we listen (a port forwarding, several networks).
    advertise: tuple[str, ...] = ()
    # For people; the machine's when empty.
    name: str = ""
    # Also relay what nobody here wants. Somebody else's upload costs our line, so it is asked for, not assumed.
    lend: bool = False
    up_bytes_per_second: float | None = None
    down_bytes_per_second: float | None = None
    help_bytes_per_second: float | None = None
    # Put chunks straight into a storage node's object store when it says so; else it carries them.
    direct: bool = True
    # Caps are about the line to the outside; nodes on the LAN are not on it.
    lan_exempt: bool = True
    # Help others only as far as nobody on this line notices (exchange/courtesy.py).
    help_when_idle: bool = False
    # Lower caps at some hours of the week: daemon/timetable.py. Of two caps the lower one holds.
    timetable: str = ""
    # Downloads that are not told where to go; None: "Downloads" in the user's home.
    download_folder: Path | None = None
    # Folders whose files are put as soon as they have stopped changing; more by ``upswarm watch add``.
    watch: tuple[Path, ...] = ()
    # Told of every transfer that has ended: a program with its arguments (no shell), and an address for a POST.
    hook_command: tuple[str, ...] = ()
    hook_url: str = ""
    mdns: bool = True
    log_level: str = "info"

    def __post_init__(self) -> None:
        for key, text in (("listen", self.listen), *(("advertise", one) for one in self.advertise)):
            try:
                host, port = parse_address(text)
            except ValueError as error:
                raise ConfigError(f"[daemon] {key}: {error}") from error
            if key == "advertise" and (port == 0 or not host):
                raise ConfigError(f"[daemon] advertise: {text!r} cannot be dialled; HOST:PORT with both is needed")
        if len(self.advertise) > ADDRESSES_MAX:
            raise ConfigError(f"[daemon] advertise: {len(self.advertise)} addresses, at most {ADDRESSES_MAX}")
        for key, rate in (
            ("up_bytes_per_second", self.up_bytes_per_second),
            ("down_bytes_per_second", self.down_bytes_per_second),
            ("help_bytes_per_second", self.help_bytes_per_second),
        ):
            if rate is not None and rate < 0:
                raise ConfigError(f"[daemon] {key}: {rate:g} is below zero; leave it out for no cap")
        try:
            Timetable.parse(self.timetable)
        except ValueError as error:
            raise ConfigError(f"[daemon] timetable: {error}") from error
        if self.hook_url and not self.hook_url.startswith(("http://", "https://")):
            raise ConfigError(f"[daemon] hook_url: {self.hook_url[:80]!r}; an address such as https://… was expected")
        if self.hook_command and not Path(self.hook_command[0]).is_absolute():
            raise ConfigError(f"[daemon] hook_command: {self.hook_command[0][:80]!r} is no absolute path of a program")
        if len(self.name.encode("utf-8")) > WORD_BYTES_MAX:
            raise ConfigError(f"[daemon] name: at most {WORD_BYTES_MAX} bytes")

    @property
    def downloads(self) -> Path:
        """Where downloads go that are not told where."""
        if self.download_folder is not None:
            return self.download_folder
        return self.places.home / "downloads" if self.places.home is not None else Path.home() / "Downloads"
