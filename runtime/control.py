"""The control socket: how the person at this machine speaks to a running program. JSON-RPC 2.0, one object a line.

Decides who may speak (this user and root, by the kernel's word), what is well-formed, and when a caller has gone. What
the methods do is the program's. Requests of one client are answered one after the other, so that the notifications
which precede a result are known to be its own; who wants two things at once connects twice. A client that hangs up
cancels what it was waiting for. Nothing here listens on a network. Specification: docs/commands.md#control-socket.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import socket as stdlib_socket
import stat
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
import trio

from protocol.errors import CommandError, ConfigError, StorageBroken, UpswarmError
from runtime.places import check_socket_path

log = structlog.get_logger()

Notify = Callable[[str, dict[str, Any]], Awaitable[None]]
Handler = Callable[[dict[str, Any], Notify], Awaitable[Any]]

LINE_BYTES_MAX = 1 << 20  # `put` of some ten thousand paths; more go in several calls.
CLIENTS_MAX = 64  # A forgotten `--follow` costs one; a loop gone wild must not cost all our descriptors.
WAITING_LINES_MAX = 8
BATCH_MAX = 64
LINE_SECONDS_MAX = 10.0  # From the first byte of a line to its last: it is a local socket.
IDLE_SECONDS_MAX = 600.0
# A reader that was stopped (Ctrl-Z) may come back; for longer we keep nothing for it.
SEND_SECONDS_MAX = 300.0
_RECEIVE_BYTES = 64 * 1024
_PAUSE_SECONDS = 0.1

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
COMMAND_FAILED = -32000


class ControlServer:
    """Serves ``methods`` on the Unix socket ``path``."""

    def __init__(self, path: Path, methods: Mapping[str, Handler]) -> None:
        self._path = path
        self._methods = dict(methods)
        self._clients = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then the socket is gone.

        Raises:
            ConfigError: another process serves there already, or the place is not ours to use.
        """
        with _locked(self._path), _listening(self._path) as listener:
            async with trio.open_nursery() as clients:
                task_status.started()
                while True:
                    try:
                        socket, _ = await listener.accept()
                    except OSError as error:
                        # Out of descriptors or memory for a moment; what waits in the backlog keeps waiting.
                        log.warning("control socket cannot accept", error=str(error))
                        await trio.sleep(_PAUSE_SECONDS)
                        continue
                    clients.start_soon(self._serve, socket, name="control client")

    async def _serve(self, socket: trio.socket.SocketType) -> None:
        with socket:
            user = peer_user(socket)
            if not may_command(user, os.geteuid()):
                log.warning("control socket refused a user", user=user)
                return
            client = _Client(socket, self._methods)
            if self._clients >= CLIENTS_MAX:
                await client.refuse("busy", f"{CLIENTS_MAX} clients are connected already; close some")
                return
            self._clients += 1
            try:
                await client.run()
            finally:
                self._clients -= 1


class _Gone(Exception):
    """The client hung up, or is too slow to be one."""


class _Client:
    def __init__(self, socket: trio.socket.SocketType, methods: Mapping[str, Handler]) -> None:
        self._socket = socket
        self._methods = methods
        self._sending = trio.Lock()

    async def refuse(self, code: str, sentence: str) -> None:
        with contextlib.suppress(_Gone):
            await self._send(_error(None, COMMAND_FAILED, sentence, {"code": code, "exit_code": 5}))

    async def run(self) -> None:
        lines, waiting = trio.open_memory_channel[bytes](WAITING_LINES_MAX)
        async with trio.open_nursery() as tasks:
            tasks.start_soon(self._read, lines, tasks.cancel_scope)
            try:
                while True:
                    try:
                        # Idle time is counted between requests only: one may take as long as it takes.
                        with trio.fail_after(IDLE_SECONDS_MAX):
                            line = await waiting.receive()
                    except (trio.EndOfChannel, trio.TooSlowError):
                        break
                    answer = await self._answer_line(line)
                    if answer is not None:
                        await self._send(answer)
            except _Gone:
                pass
            tasks.cancel_scope.cancel()

    async def _read(self, lines: trio.MemorySendChannel[bytes], scope: trio.CancelScope) -> None:
        received = bytearray()
        line_due = math.inf
        with lines:
            while True:
                try:
                    with trio.fail_at(line_due):
                        data = await self._socket.recv(_RECEIVE_BYTES)
                except (OSError, trio.TooSlowError):
                    data = b""
                if not data:
                    if received:
                        log.warning("control client refused", reason="silent or gone in the middle of a line")
                    scope.cancel()
                    return
                if not received:
                    line_due = trio.current_time() + LINE_SECONDS_MAX
                begin = len(received)
                received += data
                while 0 <= (end := received.find(b"\n", begin)) <= LINE_BYTES_MAX:
                    line = bytes(received[:end]).strip()
                    del received[: end + 1]
                    begin = 0
                    line_due = trio.current_time() + LINE_SECONDS_MAX
                    if not line:
                        continue
                    try:
                        lines.send_nowait(line)
                    except trio.WouldBlock:
                        await self._hang_up(
                            f"more than {WAITING_LINES_MAX} requests wait; read the answers first", scope
                        )
                        return
                if not received:
                    line_due = math.inf
                if len(received) > LINE_BYTES_MAX:
                    await self._hang_up(f"a line of more than {LINE_BYTES_MAX} bytes", scope)
                    return

    async def _hang_up(self, sentence: str, scope: trio.CancelScope) -> None:
        log.warning("control client refused", reason=sentence)
        with contextlib.suppress(_Gone), trio.move_on_after(1):
            await self._send(_error(None, INVALID_REQUEST, sentence))
        scope.cancel()

    async def _answer_line(self, line: bytes) -> Any:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            return _refused(None, PARSE_ERROR, f"not JSON: {type(error).__name__}")
        if isinstance(request, list):
            if not 1 <= len(request) <= BATCH_MAX:
                return _refused(None, INVALID_REQUEST, f"a batch has 1 to {BATCH_MAX} requests")
            answers = [await self._answer(one) for one in request]
            return [answer for answer in answers if answer is not None] or None
        return await self._answer(request)

    async def _answer(self, request: Any) -> dict[str, Any] | None:
        if not isinstance(request, dict):
            return _refused(None, INVALID_REQUEST, "a request is an object")
        number = request.get("id")
        if not isinstance(number, str | int | float | None) or isinstance(number, bool):
            return _refused(None, INVALID_REQUEST, "an id is a number, a text or null")
        method = request.get("method")
        if request.get("jsonrpc") != "2.0" or not isinstance(method, str):
            return _refused(number, INVALID_REQUEST, 'jsonrpc must be "2.0" and method a text')
        params = request.get("params", {})
        if not isinstance(params, dict):
            return _error(number, INVALID_PARAMS, "params are an object: name and value")
        handler = self._methods.get(method)
        if handler is None:
            return _error(number, METHOD_NOT_FOUND, f"no method {method[:80]!r}")
        answer = await self._call(handler, method, params, number)
        return answer if "id" in request else None

    async def _call(self, handler: Handler, method: str, params: dict[str, Any], number: Any) -> dict[str, Any]:
        try:
            result = await handler(params, self._notify)
            answer = {"jsonrpc": "2.0", "id": number, "result": result}
            json.dumps(answer, allow_nan=False)
            return answer
        except StorageBroken as error:
            # The process must end (protocol/errors.py); the caller hears it first.
            with contextlib.suppress(_Gone):
                await self._send(_failed(number, error))
            raise
        except (UpswarmError, ExceptionGroup) as raised:
            failure = _sole(raised)
            if failure is None:
                log.exception("control method failed", method=method)
                return _error(number, INTERNAL_ERROR, f"{method} failed inside; the log has the traceback")
            if isinstance(failure, StorageBroken | _Gone):
                raise failure from raised
            return _failed(number, failure)
        except _Gone:
            raise
        except Exception:
            # A bug in one command is the caller's bad luck, not the end of all transfers. The log has its traceback.
            log.exception("control method failed", method=method)
            return _error(number, INTERNAL_ERROR, f"{method} failed inside; the log has the traceback")

    async def _notify(self, method: str, params: dict[str, Any]) -> None:
        await self._send({"jsonrpc": "2.0", "method": method, "params": params})

    async def _send(self, thing: Any) -> None:
        rest = memoryview(json.dumps(thing, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n")
        try:
            with trio.fail_after(SEND_SECONDS_MAX):
                async with self._sending:
                    while rest:
                        rest = rest[await self._socket.send(rest) :]
        except (OSError, trio.TooSlowError) as error:
            raise _Gone from error


def _refused(number: Any, code: int, message: str) -> dict[str, Any]:
    """Return the error for what is no request; whoever looks for who says such things finds it in the log."""
    log.warning("control request refused", reason=message)
    return _error(number, code, message)


def _error(number: Any, code: int, message: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": number, "error": error}


def _failed(number: Any, error: UpswarmError) -> dict[str, Any]:
    word = error.code if isinstance(error, CommandError) else _word(type(error).__name__)
    return _error(number, COMMAND_FAILED, str(error), {"code": word, "exit_code": error.exit_code})


def _word(name: str) -> str:
    """Return ``LinkLost`` as ``link-lost``."""
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")


def _sole(raised: BaseException) -> UpswarmError | _Gone | None:
    """Return the one error of ours inside groups that nurseries wrapped around it; None when there are others."""
    while isinstance(raised, BaseExceptionGroup) and len(raised.exceptions) == 1:
        raised = raised.exceptions[0]
    return raised if isinstance(raised, UpswarmError | _Gone) else None


def peer_user(socket: trio.socket.SocketType) -> int:
    """Return the user id of the process at the other end, as the kernel knows it."""
    credentials = socket.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_PEERCRED, struct.calcsize("3i"))
    _process, user, _group = struct.unpack("3i", credentials)
    return int(user)


def may_command(user: int, own_user: int) -> bool:
    """Whether ``user`` may command a program that runs as ``own_user``."""
    return user in (own_user, 0)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the socket's folder. The lock, not the file, says who lives: it dies with its process."""
    check_socket_path(path)
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{folder}: no folder for a control socket ({error.strerror})") from error
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(
                f"{folder}: must belong to user {os.geteuid()} and be writable by nobody else (chmod 700)"
            )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise ConfigError(f"{folder}: cannot be locked ({error.strerror})") from error
            raise ConfigError(f"already running: another process serves {path}") from error
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[trio.socket.SocketType]:
    """Listen on ``path`` with the lock held: a socket file that is there already has outlived its process."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"{path}: is not a socket; move it away")
        path.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as socket:
        try:
            # The folder is writable by us alone, and peer_user() is asked besides: nobody slips in before chmod.
            socket.bind(os.fsencode(path))
            path.chmod(0o600)
            socket.listen(CLIENTS_MAX)
            listener = trio.socket.from_stdlib_socket(socket)
        except OSError as error:
            raise ConfigError(f"{path}: cannot listen ({error.strerror})") from error
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)
