"""Where a program keeps its things on this machine. Decides paths only; makes no folder and reads no file.

With a home everything stands under it; without one in the platform's usual places. Imports no trio: the command line
uses it too.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from protocol.errors import ConfigError, StorageBroken, StorageError, StorageFull

if TYPE_CHECKING:
    # The command line reads this module, and starts without trio.
    from runtime.seam import Disk, File

Program = Literal["daemon", "storage", "tracker"]
PROGRAMS: tuple[Program, ...] = ("daemon", "storage", "tracker")

# sockaddr_un holds 108 bytes on Linux and 104 elsewhere, with a closing NUL; a little is kept back for whoever
# appends a suffix.
SOCKET_PATH_BYTES_MAX = 100


@dataclass(frozen=True, slots=True)
class Places:
    """The paths of one program. ``home`` None: the platform's places."""

    home: Path | None
    program: Program
    state: Path
    control_socket: Path
    config_file: Path

    @classmethod
    def of(cls, home: Path | None, program: str) -> Places:
        """Return the places of ``program``: daemon, storage or tracker.

        Raises:
            ConfigError: the control socket's path would be too long for the operating system.
        """
        known = next((name for name in PROGRAMS if name == program), None)
        if known is None:
            raise ConfigError(f"{program!r} is no program: {', '.join(PROGRAMS)} are")
        if home is not None:
            home = home.expanduser().absolute()
            places = cls(home, known, home / known, home / known / "control.sock", home / "upswarm.toml")
        else:
            # Imported where it is needed: who names a home need not wait for it.
            from platformdirs import user_config_path, user_state_path

            state = user_state_path("upswarm", appauthor=False) / known
            places = cls(
                None,
                known,
                state,
                (_session_folder(known) or state) / "control.sock",
                user_config_path("upswarm", appauthor=False) / "upswarm.toml",
            )
        check_socket_path(places.control_socket)
        return places

    @property
    def identity(self) -> Path:
        """The folder of key, certificate and whatever else makes this node a member."""
        return self.state / "identity"


def _session_folder(program: str) -> Path | None:
    """Return the folder for ``program`` (the control server locks it) below the session's, when the system made one.

    Considered: platformdirs. It falls back to a folder below /tmp, which others could make first, and warns each time.
    """
    session = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    if session.is_absolute() and session.is_dir() and os.access(session, os.W_OK | os.X_OK):
        return session / "upswarm" / program
    return None


def check_socket_path(path: Path) -> None:
    """Raise ``ConfigError`` when no Unix socket can have this path."""
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(
            f"{path}: {size} bytes are too long for the path of a Unix socket (at most {SOCKET_PATH_BYTES_MAX}); "
            "use a shorter --home"
        )


def folder_trouble(folder: Path, error: OSError | StorageError, advice: str) -> ConfigError | StorageError:
    """Return what a program ends with when it cannot begin to work in ``folder``.

    A folder that we may not write to, or that is none, is the operator's matter, and starting again changes nothing: a
    ``ConfigError`` with ``advice``. A disk that failed or is full may be all right a moment later: a ``StorageError``.
    """
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(error, StorageFull):
        return error
    if isinstance(cause, OSError) and cause.errno != errno.EIO:
        return ConfigError(f"{folder}: cannot be used ({error}); {advice}")
    return error if isinstance(error, StorageError) else StorageBroken(f"{folder}: {error}")


def lock_folder(disk: Disk, folder: Path, taken: str, advice: str) -> File:
    """Make ``folder`` if it is missing, and take it for this process; whoever closes the lock gives it back.

    Raises:
        ConfigError: another process has it (``taken`` says what that means), or as ``folder_trouble``.
        StorageError: the disk failed, or is full.
    """
    try:
        disk.make_folder(folder)
        lock = disk.lock(folder / "lock")
    except (OSError, StorageError) as error:
        raise folder_trouble(folder, error, advice) from error
    if lock is None:
        raise ConfigError(f"{folder}: {taken}")
    return lock
