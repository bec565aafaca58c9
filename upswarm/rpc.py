"""JSON-RPC over a control socket, as a caller sees it: requests to bytes, bytes to messages, answers to results.

No socket and no waiting: client.py is the blocking side of it, trio_client.py the one for trio.
Specification: docs/commands.md#control-socket.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from protocol.errors import CommandError
from upswarm.paths import current_folder

Wait = Literal["stored", "safe", "no"]

# The daemon gives no more in one answer.
READ_BYTES_MAX = 4 << 20


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


class FileRow(TypedDict):
    """A file as ``ls`` lists it; more keys may come."""

    tag: str
    size: int
    name: str
    state: str


class NoProgram(CommandError):
    """Nobody listens: the program does not run here."""

    def __init__(self, sentence: str) -> None:
        super().__init__("no-daemon", sentence, 3)


class Lines:
    """Bytes as they come, messages as they are whole. ``program``: who speaks, for errors."""

    def __init__(self, program: str, line_bytes_max: int) -> None:
        self._program = program
        self._line_bytes_max = line_bytes_max
        self._received = bytearray()
        self._looked_at = 0

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._received += data

    def next_message(self) -> dict[str, Any] | None:
        """Return the next whole message, or None until more bytes come.

        Raises:
            CommandError: ``protocol``: that is no message, or too long for one.
        """
        end = self._received.find(b"\n", self._looked_at)
        if end < 0:
            self._looked_at = len(self._received)
            if self._looked_at > self._line_bytes_max:
                raise self._nonsense(f"a line of more than {self._line_bytes_max} bytes")
            return None
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        self._looked_at = 0
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._nonsense("a line that is no JSON") from error
        if not isinstance(message, dict):
            raise self._nonsense("a line that is no JSON-RPC message")
        return message

    def _nonsense(self, what: str) -> CommandError:
        return CommandError("protocol", f"the {self._program} sent {what}")


def request_line(number: int, method: str, params: Mapping[str, Any] | None) -> bytes:
    """Return a request as it is sent."""
    request = {"jsonrpc": "2.0", "id": number, "method": method, "params": dict(params or {})}
    return json.dumps(request, separators=(",", ":")).encode("ascii") + b"\n"


def notice_of(message: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return method and params of a notification; None when the message is none."""
    if "method" in message and "id" not in message:
        return str(message["method"]), dict(message.get("params") or {})
    return None


def is_answer(message: Mapping[str, Any], number: int) -> bool:
    """Whether this answers request ``number``. An error without id is about the line or the connection, so about us."""
    return message.get("id") == number or (message.get("id") is None and "error" in message)


def result_of(message: Mapping[str, Any], program: str) -> Any:
    """Return the result of an answer. Raises ``CommandError`` with what the program says instead."""
    error = message.get("error")
    if error is None:
        return message.get("result")
    if not isinstance(error, dict):
        raise CommandError("protocol", f"the {program} sent an error that is none")
    data = error.get("data")
    data = data if isinstance(data, dict) else {}
    exit_code = data.get("exit_code", 1)
    raise CommandError(
        str(data.get("code", "failed")),
        str(error.get("message", "failed")),
        exit_code if isinstance(exit_code, int) and 1 <= exit_code <= 255 else 1,
    )


def gone(program: str) -> CommandError:
    """Return the error for a program that hung up."""
    return CommandError("hung-up", f"the {program} ended or hung up before it answered; is it still running?", 5)


def not_connected(error: OSError, program: str, path: Path) -> CommandError:
    """Return the error for a socket that could not be connected to."""
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
        return NoProgram(f"no {program} runs here ({path}); start it: upswarm {program}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return CommandError("refused", f"the {program} at {path} belongs to another user", 6)
    return CommandError("unreachable", f"the {program} at {path} does not answer: {error}", 5)


def put_params(
    paths: Iterable[Path], name: str | None, wait: Wait, expires_seconds: float | None = None
) -> dict[str, Any]:
    """Return the params of ``put``."""
    named: dict[str, Any] = {} if name is None else {"name": name}
    if expires_seconds is not None:
        named["expires"] = expires_seconds
    return {"paths": [absolute(path) for path in paths], "wait": wait, **named}


def get_params(what: str, output: Path | None) -> dict[str, Any]:
    """Return the params of ``get``."""
    return {"what": what, "output": None if output is None else absolute(output)}


def absolute(path: Path) -> str:
    """Return ``path`` for a program whose working folder is another: absolute, without ``..``.

    Raises:
        CommandError: it is relative, and the folder one stands in is gone.
    """
    # Not resolve() for all: the name that somebody gave to a symbolic link is the name of the file.
    path = path if path.is_absolute() else current_folder() / path
    if ".." not in path.parts:
        return str(path)
    return str(path.resolve() if path.name == ".." else path.parent.resolve() / path.name)
