"""The Python client: commands a running daemon, storage node or tracker over its control socket. Plain blocking
calls, no trio.

    with Client.of_home() as daemon:
        outcome = daemon.put([Path("film.mov")])["results"][0]

Every answer that says "no" is a CommandError with a stable ``code`` and the command line's ``exit_code``. The methods
and their answers are specified in docs/commands.md#control-socket.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, Self, TypedDict, cast

from protocol.errors import CommandError
from runtime.places import Places

CONNECT_SECONDS_MAX = 5.0
# A verb that only asks; those that wait for transfers wait without end.
ANSWER_SECONDS_MAX = 60.0
LINE_BYTES_MAX = 64 << 20  # `ls` of a hundred thousand files; beyond that it is no answer of ours.
_RECEIVE_BYTES = 256 * 1024

Notice = Callable[[str, dict[str, Any]], None]
Wait = Literal["stored", "safe", "no"]


class Failed(TypedDict):
    """Why a transfer failed: a stable word, a sentence, the command line's exit code."""

    code: str
    message: str
    exit_code: int


class PutResult(TypedDict):
    """What became of one file of a put. Sizes in bytes; ``pushed``: verified bytes by node id; ``seconds``: None while
    it lasts; ``safe``: this node is no longer needed for it."""

    id: str
    path: str
    name: str
    tag: str | None
    size: int
    link: str | None
    state: str
    seconds: float | None
    instant: bool
    safe: bool
    pushed: dict[str, int]
    error: NotRequired[Failed]


class Skipped(TypedDict):
    """What a folder holds that is no file to put, and why not."""

    path: str
    reason: str


class PutOutcome(TypedDict):
    """One result for each file."""

    results: list[PutResult]
    skipped: NotRequired[list[Skipped]]


GetResult = TypedDict(
    "GetResult",
    {
        "id": str,
        "tag": str,
        "size": int,
        "name": str,
        "path": str,
        "state": str,
        "seconds": float | None,
        "instant": bool,
        "from": dict[str, int],
        "error": NotRequired[Failed],
    },
)
"""What a get fetched; ``from``: verified bytes by node id."""


class NoProgram(CommandError):
    """Nobody listens: the program does not run here."""

    def __init__(self, sentence: str) -> None:
        super().__init__("no-daemon", sentence, 3)


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
        self._received = bytearray()
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(CONNECT_SECONDS_MAX)
            self._socket.connect(os.fsencode(path))
            _check_owner(self._socket, path)
        except CommandError:
            self._socket.close()
            raise
        except OSError as error:
            self._socket.close()
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
                raise NoProgram(f"no {program} runs here ({path}); start it: upswarm {program}") from error
            if error.errno in (errno.EACCES, errno.EPERM):
                raise CommandError("refused", f"the {program} at {path} belongs to another user", 6) from error
            raise CommandError("unreachable", f"the {program} at {path} does not answer: {error}", 5) from error

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
        params: dict[str, Any] | None = None,
        notice: Notice | None = None,
        seconds_max: float | None = ANSWER_SECONDS_MAX,
    ) -> Any:
        """Call ``method`` and return its result; ``notice`` gets each notification before it.

        Raises:
            CommandError: the program says no, went away, or did not answer in ``seconds_max``.
        """
        self._number += 1
        request = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params or {}}
        try:
            self._socket.settimeout(seconds_max)
            self._socket.sendall(json.dumps(request, separators=(",", ":")).encode("ascii") + b"\n")
        except OSError as error:
            # Its last word may still lie there: it says why it hung up.
            answer = next(self._lines_left(), None)
            if answer is None:
                raise self._gone() from error
            return self._result(answer)
        while True:
            message = self._line(seconds_max)
            if "method" in message and "id" not in message:
                if notice is not None:
                    notice(str(message["method"]), dict(message.get("params") or {}))
                continue
            # An error without id is about the line or the connection, and so about us.
            if message.get("id") == self._number or (message.get("id") is None and "error" in message):
                return self._result(message)

    # --- the daemon's methods ---

    def put(
        self, paths: Iterable[Path], *, name: str | None = None, wait: Wait = "stored", progress: Notice | None = None
    ) -> PutOutcome:
        """Store files and folders; return when what ``wait`` says has happened for each, or cannot."""
        params: dict[str, Any] = {"paths": [absolute(path) for path in paths], "wait": wait}
        if name is not None:
            params["name"] = name
        return cast(PutOutcome, self.call("put", params, progress, seconds_max=None))

    def get(self, what: str, output: Path | None = None, *, progress: Notice | None = None) -> GetResult:
        """Fetch a file by tag, name or link."""
        target = None if output is None else absolute(output)
        return cast(GetResult, self.call("get", {"what": what, "output": target}, progress, seconds_max=None))

    def share(self, paths: Sequence[Path], *, progress: Notice | None = None) -> Any:
        """Offer files for download without storing them."""
        return self.call("share", {"paths": [absolute(path) for path in paths]}, progress, seconds_max=None)

    def status(self) -> dict[str, Any]:
        """Return the program's state."""
        return cast(dict[str, Any], self.call("status"))

    def events(self, notice: Notice, *, follow: bool = False) -> Any:
        """Give ``notice`` what happened; with ``follow`` also what happens, until the caller hangs up."""
        return self.call("events", {"follow": follow}, notice, seconds_max=None if follow else ANSWER_SECONDS_MAX)

    def limit(self, **rates: float | str) -> dict[str, Any]:
        """Set ``up``, ``down``, ``help`` (bytes per second or "off") or ``timetable``; return them, and what holds now."""
        return cast(dict[str, Any], self.call("limit", dict(rates)))

    # --- lines ---

    def _line(self, seconds_max: float | None) -> dict[str, Any]:
        begin = 0
        while (end := self._received.find(b"\n", begin)) < 0:
            begin = len(self._received)
            if begin > LINE_BYTES_MAX:
                raise CommandError("protocol", f"the {self._program} sent a line of more than {LINE_BYTES_MAX} bytes")
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except TimeoutError as error:
                raise CommandError("timeout", f"no answer of the {self._program} in {seconds_max:.0f} s", 10) from error
            except OSError as error:
                raise self._gone() from error
            if not data:
                raise self._gone()
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CommandError("protocol", f"the {self._program} sent a line that is no JSON") from error
        if not isinstance(message, dict):
            raise CommandError("protocol", f"the {self._program} sent a line that is no JSON-RPC message")
        return message

    def _lines_left(self) -> Iterator[dict[str, Any]]:
        try:
            while True:
                yield self._line(CONNECT_SECONDS_MAX)
        except CommandError:
            return

    def _result(self, message: dict[str, Any]) -> Any:
        error = message.get("error")
        if error is None:
            return message.get("result")
        if not isinstance(error, dict):
            raise CommandError("protocol", f"the {self._program} sent an error that is none")
        data = error.get("data")
        data = data if isinstance(data, dict) else {}
        exit_code = data.get("exit_code", 1)
        raise CommandError(
            str(data.get("code", "failed")),
            str(error.get("message", "failed")),
            exit_code if isinstance(exit_code, int) and 1 <= exit_code <= 255 else 1,
        )

    def _gone(self) -> CommandError:
        return CommandError(
            "hung-up", f"the {self._program} ended or hung up before it answered; is it still running?", 5
        )


def absolute(path: Path) -> str:
    """Return ``path`` for a program whose working folder is another: absolute, without ``..``."""
    # Not resolve() for all: the name that somebody gave to a symbolic link is the name of the file.
    path = path.absolute()
    if ".." not in path.parts:
        return str(path)
    return str(path.resolve() if path.name == ".." else path.parent.resolve() / path.name)


def _check_owner(connected: socket.socket, path: Path) -> None:
    """Refuse a socket that another user put where ours should be; it would get our paths and invites."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _process, user, _group = struct.unpack("3i", credentials)
    if user not in (os.geteuid(), 0) and os.geteuid() != 0:
        raise CommandError("refused", f"user {user} listens at {path}, not you and not root", 6)
