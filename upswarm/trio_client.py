"""The Python client for programs that use trio: as upswarm.client.Client, every call async and cancellable::

    async with await connect() as daemon:
        outcome = await daemon.put([Path("film.mov")])
        async with aclosing(daemon.follow_events()) as events:
            async for event in events: ...

A cancelled call ends the connection, because its answer would still come; the job goes on in the daemon. Imports trio;
nothing else of upswarm/ imports this.
"""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import trio

from protocol.errors import CommandError
from runtime.places import Places
from upswarm.client import LINE_BYTES_MAX, check_owner
from upswarm.rpc import (
    READ_BYTES_MAX,
    FileRow,
    GetResult,
    Lines,
    PutOutcome,
    PutResult,
    Wait,
    get_params,
    gone,
    is_answer,
    not_connected,
    notice_of,
    put_params,
    request_line,
    result_of,
)

CONNECT_SECONDS_MAX = 5.0
_RECEIVE_BYTES = 256 * 1024

Notice = Callable[[str, dict[str, Any]], Awaitable[None]]


async def connect(home: Path | None = None, program: str = "daemon") -> TrioClient:
    """Connect to ``program`` of ``home``; None means the platform's usual places.

    Raises:
        NoProgram: it does not run, or not here.
        CommandError: it may not be reached, or belongs to another user.
    """
    path = Places.of(home, program).control_socket
    connected = trio.socket.socket(trio.socket.AF_UNIX)
    try:
        with trio.fail_after(CONNECT_SECONDS_MAX):
            await connected.connect(os.fsencode(path))
        # trio's socket answers getsockopt as the blocking one does.
        check_owner(cast(Any, connected), path)
    except trio.TooSlowError as error:
        connected.close()
        raise CommandError("timeout", f"the {program} at {path} does not answer", 10) from error
    except OSError as error:
        connected.close()
        raise not_connected(error, program, path) from error
    except BaseException:
        connected.close()
        raise
    return TrioClient(trio.SocketStream(connected), program)


class TrioClient:
    """A connection to one program's control socket. Made by ``connect``; one call at a time, others wait."""

    def __init__(self, stream: trio.SocketStream, program: str) -> None:
        self._stream = stream
        self._program = program
        self._number = 0
        self._lines = Lines(program, LINE_BYTES_MAX)
        self._turn = trio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Hang up; what was being waited for is no longer waited for. Jobs of the program go on."""
        await self._stream.aclose()

    async def call(self, method: str, params: Mapping[str, Any] | None = None, notice: Notice | None = None) -> Any:
        """Call ``method`` and return its result; ``notice`` gets each notification before it. Put a deadline around it
        with trio.

        Raises:
            CommandError: the program says no, or went away.
        """
        async with self._turn:
            answered = False
            try:
                await self._send(method, params)
                while True:
                    message = await self._message()
                    told = notice_of(message)
                    if told is None and is_answer(message, self._number):
                        answered = True
                        return result_of(message, self._program)
                    if told is not None and notice is not None:
                        await notice(*told)
            finally:
                if not answered:
                    # Its answer would be taken for that of the next call.
                    await trio.aclose_forcefully(self._stream)

    async def put(
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
        return cast(PutOutcome, await self.call("put", put_params(paths, name, wait, expires_seconds), progress))

    async def get(self, what: str, output: Path | None = None, *, progress: Notice | None = None) -> GetResult:
        """Fetch a file by tag, name or link. ``output``: a file or folder; None: the daemon's download folder."""
        return cast(GetResult, await self.call("get", get_params(what, output), progress))

    async def wait(self, job: str, *, progress: Notice | None = None) -> PutResult | GetResult:
        """Wait until a put or get that was begun by anybody has ended; return what it has become."""
        return cast("PutResult | GetResult", await self.call("wait", {"id": job}, progress))

    async def read(self, what: str, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of a file from ``offset`` on, fewer only at its end. Fetches what is not here."""
        data = bytearray()
        while len(data) < length:
            count = min(length - len(data), READ_BYTES_MAX)
            answer = await self.call("read", {"what": what, "offset": offset + len(data), "length": count})
            piece = base64.b64decode(answer["data"])
            data += piece
            if len(piece) < count:
                break
        return bytes(data)

    async def list_files(self, *, stored: bool = False, local: bool = False) -> list[FileRow]:
        """Return the files of the swarm and of this machine; only those in storage, or only those here."""
        return cast(list[FileRow], (await self.call("ls", {"stored": stored, "local": local}))["files"])

    async def show(self, what: str) -> dict[str, Any]:
        """Return all that is known of a file."""
        return cast(dict[str, Any], await self.call("show", {"tag": what}))

    async def status(self) -> dict[str, Any]:
        """Return the program's state."""
        return cast(dict[str, Any], await self.call("status"))

    async def follow_events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what happened lately and then what happens, oldest first, without end. The client is for nothing else
        afterwards."""
        await self._send("events", {"follow": True})
        while True:
            message = await self._message()
            told = notice_of(message)
            if told is not None:
                yield told[1]
            elif is_answer(message, self._number):
                result_of(message, self._program)
                return

    async def _send(self, method: str, params: Mapping[str, Any] | None) -> None:
        self._number += 1
        try:
            await self._stream.send_all(request_line(self._number, method, params))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise gone(self._program) from error

    async def _message(self) -> dict[str, Any]:
        while (message := self._lines.next_message()) is None:
            try:
                data = await self._stream.receive_some(_RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise gone(self._program) from error
            if not data:
                raise gone(self._program)
            self._lines.feed(data)
        return message
