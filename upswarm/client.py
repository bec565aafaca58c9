"""The Python client: commands a running daemon, storage node or tracker over its control socket. Plain blocking
calls, no trio; upswarm.trio_client is the same for trio::

    with Client.of_home() as daemon:
        outcome = daemon.put([Path("film.mov")])["results"][0]
        first = daemon.read(outcome["tag"], 0, 4096)

Every answer that says "no" is a CommandError with a stable ``code`` and the command line's ``exit_code``. The methods
and their answers are specified in docs/commands.md#control-socket.
"""

from __future__ import annotations

import base64
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

from protocol.errors import CommandError
from runtime.places import Places
from upswarm.rpc import (
    READ_BYTES_MAX,
    FileRow,
    GetResult,
    Lines,
    NoProgram,
    PutOutcome,
    PutResult,
    Wait,
    absolute,
    get_params,
    gone,
    is_answer,
    not_connected,
    notice_of,
    put_params,
    request_line,
    result_of,
)

__all__ = ["Client", "FileRow", "GetResult", "NoProgram", "Notice", "PutOutcome", "PutResult", "Wait", "absolute"]

CONNECT_SECONDS_MAX = 5.0
# A verb that only asks; those that wait for transfers wait without end.
ANSWER_SECONDS_MAX = 60.0
READ_SECONDS_MAX = 150.0  # The daemon gives up before that, and says so.
LINE_BYTES_MAX = 64 << 20  # `ls` of a hundred thousand files; beyond that it is no answer of ours.
_RECEIVE_BYTES = 256 * 1024

Notice = Callable[[str, dict[str, Any]], None]


class Client:
    """A connection to one program's control socket. One call at a time; a second call needs a second client."""

    def __init__(self, path: Path, program: str = "daemon") -> None:
        """Connect.

        Raises:
            NoProgram: it does not run, or not here.
            CommandError: it may not be reached, or belongs to another user.
        """
        self._program = program
        self._number = 0
        self._lines = Lines(program, LINE_BYTES_MAX)
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(CONNECT_SECONDS_MAX)
            self._socket.connect(os.fsencode(path))
            check_owner(self._socket, path)
        except CommandError:
            self._socket.close()
            raise
        except OSError as error:
            self._socket.close()
            raise not_connected(error, program, path) from error

    @classmethod
    def of_home(cls, home: Path | None = None, program: str = "daemon") -> Self:
        """Connect to ``program`` of ``home``; None means the platform's usual places. Raises as the constructor."""
        return cls(Places.of(home, program).control_socket, program)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; what was being waited for is no longer waited for. Jobs of the program go on."""
        self._socket.close()

    def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        notice: Notice | None = None,
        seconds_max: float | None = ANSWER_SECONDS_MAX,
    ) -> Any:
        """Call ``method`` and return its result; ``notice`` gets each notification before it.

        Raises:
            CommandError: the program says no, went away, or did not answer in ``seconds_max``.
        """
        for message in self._answers(method, params, seconds_max):
            told = notice_of(message)
            if told is None:
                return result_of(message, self._program)
            if notice is not None:
                notice(*told)
        raise gone(self._program)

    # --- the daemon's methods ---

    def put(
        self,
        paths: Iterable[Path],
        *,
        name: str | None = None,
        wait: Wait = "stored",
        expires_seconds: float | None = None,
        progress: Notice | None = None,
    ) -> PutOutcome:
        """Store files and folders; return when what ``wait`` says has happened for each, or cannot.

        ``expires_seconds``: how long their names shall hold once they are stored; None: as the storage node is set.
        """
        return cast(
            PutOutcome, self.call("put", put_params(paths, name, wait, expires_seconds), progress, seconds_max=None)
        )

    def get(self, what: str, output: Path | None = None, *, progress: Notice | None = None) -> GetResult:
        """Fetch a file by tag, name or link. ``output``: a file or folder; None: the daemon's download folder."""
        return cast(GetResult, self.call("get", get_params(what, output), progress, seconds_max=None))

    def wait(self, job: str, *, progress: Notice | None = None) -> PutResult | GetResult:
        """Wait until a put or get that was begun by anybody has ended; return what it has become."""
        return cast("PutResult | GetResult", self.call("wait", {"id": job}, progress, seconds_max=None))

    def cancel(self, job: str) -> None:
        """Give a put or get up."""
        self.call("cancel", {"id": job})

    def pause(self, job: str | None = None) -> None:
        """Pause one put or get, or everything."""
        self.call("pause", {} if job is None else {"id": job})

    def resume(self, job: str | None = None) -> None:
        """Undo ``pause``."""
        self.call("resume", {} if job is None else {"id": job})

    def share(self, paths: Sequence[Path], *, progress: Notice | None = None) -> Any:
        """Offer files for download without storing them."""
        return self.call("share", {"paths": [absolute(path) for path in paths]}, progress, seconds_max=None)

    def read(self, what: str, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of a file from ``offset`` on, fewer only at its end. Fetches what is not here."""
        data = bytearray()
        while len(data) < length:
            count = min(length - len(data), READ_BYTES_MAX)
            params = {"what": what, "offset": offset + len(data), "length": count}
            answer = self.call("read", params, seconds_max=READ_SECONDS_MAX)
            piece = base64.b64decode(answer["data"])
            data += piece
            if len(piece) < count:
                break
        return bytes(data)

    def list_files(self, *, stored: bool = False, local: bool = False) -> list[FileRow]:
        """Return the files of the swarm and of this machine; only those in storage, or only those here."""
        return cast(list[FileRow], self.call("ls", {"stored": stored, "local": local})["files"])

    def show(self, what: str) -> dict[str, Any]:
        """Return all that is known of a file. Raises ``NotFound`` as CommandError with the code ``not-found``."""
        return cast(dict[str, Any], self.call("show", {"tag": what}))

    def status(self) -> dict[str, Any]:
        """Return the program's state."""
        return cast(dict[str, Any], self.call("status"))

    def events(self, notice: Notice, *, follow: bool = False) -> Any:
        """Give ``notice`` what happened; with ``follow`` also what happens, until the caller hangs up."""
        return self.call("events", {"follow": follow}, notice, seconds_max=None if follow else ANSWER_SECONDS_MAX)

    def follow_events(self) -> Iterator[dict[str, Any]]:
        """Yield what happened lately and then what happens, oldest first, without end. The client is for nothing else
        afterwards."""
        for message in self._answers("events", {"follow": True}, None):
            told = notice_of(message)
            if told is None:
                result_of(message, self._program)
                return
            yield told[1]

    def limit(self, **rates: float | str) -> dict[str, Any]:
        """Set ``up``, ``down``, ``help`` (bytes per second, "off"), ``timetable``; return them, and what holds now."""
        return cast(dict[str, Any], self.call("limit", dict(rates)))

    # --- lines ---

    def _answers(
        self, method: str, params: Mapping[str, Any] | None, seconds_max: float | None
    ) -> Iterator[dict[str, Any]]:
        """Send a request; yield its notifications, then its answer."""
        self._number += 1
        try:
            self._socket.settimeout(seconds_max)
            self._socket.sendall(request_line(self._number, method, params))
        except OSError as error:
            # Its last word may still lie there: it says why it hung up.
            answer = self._last_word()
            if answer is None:
                raise gone(self._program) from error
            yield answer
            return
        while True:
            message = self._message(seconds_max)
            if notice_of(message) is not None:
                yield message
            elif is_answer(message, self._number):
                yield message
                return

    def _message(self, seconds_max: float | None) -> dict[str, Any]:
        while (message := self._lines.next_message()) is None:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except TimeoutError as error:
                raise CommandError("timeout", f"no answer of the {self._program} in {seconds_max:.0f} s", 10) from error
            except OSError as error:
                raise gone(self._program) from error
            if not data:
                raise gone(self._program)
            self._lines.feed(data)
        return message

    def _last_word(self) -> dict[str, Any] | None:
        try:
            self._socket.settimeout(CONNECT_SECONDS_MAX)
            return self._message(CONNECT_SECONDS_MAX)
        except (CommandError, OSError):
            return None


def check_owner(connected: socket.socket, path: Path) -> None:
    """Refuse a socket that another user put where ours should be; it would get our paths and invites."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _process, user, _group = struct.unpack("3i", credentials)
    if user not in (os.geteuid(), 0) and os.geteuid() != 0:
        raise CommandError("refused", f"user {user} listens at {path}, not you and not root", 6)
