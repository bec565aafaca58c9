"""tus 1.0 over HTTP: what each method does, and how it is answered. Who may ask was judged by door.py before.

    POST   /tus/       creation, with the first bytes if the client likes: 201, Location
    HEAD   /tus/<id>   how far it is
    PATCH  /tus/<id>   more bytes: 204; with the last of them only once the file is stored
    DELETE /tus/<id>   the client gives it up
    OPTIONS            what this server can do

An answer to the last bytes says that the file is stored, verified and named, as for any put; its tag is in
``Upswarm-Tag``. If that takes longer than a client waits, it is told to come again, and hears then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import trio

from protocol.limits import FILE_BYTES_MAX
from storage.answers import GUARDED, Answer, Head
from storage.tus.arrivals import Arrival, Arrivals
from storage.tus.headers import (
    CHECKSUMS,
    EXTENSIONS,
    VERSION,
    Flaw,
    check_body_type,
    check_version,
    checksum_of,
    expires_text,
    length_of,
    metadata_of,
    name_of,
    offset_of,
)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

PATH = "/tus"
METHODS = "POST, HEAD, PATCH, DELETE, OPTIONS"
# A client that sends nothing for so long has lost its connection; it comes again and goes on.
BODY_SECONDS_MAX = 60.0
# Uploads that send at the same time; each has a file open and a megabyte or two in memory.
SENDERS_MAX = 32
# Clients and proxies wait a minute or more for an answer.
STORED_SECONDS_MAX = 50.0
LOCKED, NOT_FOUND, TOO_SLOW = 423, 404, 408
_SPOKEN: Head = [("tus-resumable", VERSION), ("cache-control", "no-store"), *GUARDED]


class HungUp(Exception):
    """The client has gone; nobody waits for an answer."""


class Body:
    """The pieces of a request's body."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._more = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._more:
            raise StopAsyncIteration
        message = None
        with trio.move_on_after(BODY_SECONDS_MAX):
            message = await self._receive()
        if message is None:
            raise Flaw(TOO_SLOW, f"nothing came for {BODY_SECONDS_MAX:.0f} seconds")
        if message["type"] == "http.disconnect":
            raise HungUp
        self._more = message.get("more_body", False)
        return bytes(message.get("body", b""))


class TusHandler:
    """Answers requests below ``PATH``."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._senders = 0

    async def answer(
        self, method: str, path: str, headers: Mapping[str, str], receive: Receive, answer: Answer
    ) -> None:
        """Deal with one request; ``path`` as it was asked for."""
        # For clients behind proxies that know only GET and POST.
        method = headers.get("x-http-method-override", method).upper()
        try:
            if method == "OPTIONS":
                await self._options(answer)
                return
            check_version(headers.get("tus-resumable"))
            id = path.removeprefix(PATH).strip("/")
            if not id and method == "POST":
                await self._create(path, headers, receive, answer)
            elif id and method in ("HEAD", "PATCH", "DELETE"):
                arrival = self._arrivals.get(id)
                if arrival is None:
                    raise Flaw(NOT_FOUND, "no upload of that id is known here (any more)")
                if method == "HEAD":
                    await self._head(arrival, answer)
                elif method == "PATCH":
                    await self._patch(arrival, headers, receive, answer)
                else:
                    await self._delete(arrival, answer)
            else:
                await answer.refuse(405, f"known here are {METHODS}", [("allow", METHODS), *_SPOKEN])
        except Flaw as flaw:
            more: Head = [("tus-version", VERSION)] if flaw.status == 412 else []
            if flaw.status in (LOCKED, 503):
                more.append(("retry-after", "5"))
            if not answer.begun:
                await answer.refuse(flaw.status, str(flaw), [*more, *_SPOKEN])
        except HungUp:
            return

    async def _options(self, answer: Answer) -> None:
        head: Head = [
            ("tus-version", VERSION),
            ("tus-extension", EXTENSIONS),
            ("tus-checksum-algorithm", ",".join(CHECKSUMS)),
            ("tus-max-size", str(FILE_BYTES_MAX)),
            ("allow", METHODS),
        ]
        await answer.begin(204, [*head, *_SPOKEN])
        await answer.end()

    async def _create(self, path: str, headers: Mapping[str, str], receive: Receive, answer: Answer) -> None:
        length = length_of(headers.get("upload-length"), headers.get("upload-defer-length"))
        metadata = headers.get("upload-metadata", "")
        name = name_of(metadata_of(metadata))
        with_bytes = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        checksum = None
        if with_bytes:
            check_body_type(headers.get("content-type"))
            checksum = checksum_of(headers.get("upload-checksum"))
        arrival = await self._arrivals.create(length, metadata, name)
        if with_bytes:
            try:
                await self._append(arrival, 0, receive, checksum)
            except (Flaw, HungUp):
                # The client does not know where its upload is, so nobody would ever go on with it.
                await self._arrivals.end(arrival)
                raise
        if arrival.complete:
            await self._wait_stored(arrival)
        # Relative, so that it holds behind a proxy too.
        place = arrival.record.id if path.endswith("/") else f"{PATH.strip('/')}/{arrival.record.id}"
        await self._say(201, arrival, answer, [("location", place)])

    async def _head(self, arrival: Arrival, answer: Answer) -> None:
        with trio.move_on_after(STORED_SECONDS_MAX) as scope:
            await self._arrivals.settled(arrival)
        if scope.cancelled_caught:
            raise Flaw(LOCKED, "all bytes are here, and are being stored now")
        if arrival.record.failed:
            raise Flaw(410, arrival.record.failed)
        record = arrival.record
        head: Head = [("upload-length", str(record.length))]
        if record.metadata:
            head.append(("upload-metadata", record.metadata))
        await self._say(200, arrival, answer, head)

    async def _patch(self, arrival: Arrival, headers: Mapping[str, str], receive: Receive, answer: Answer) -> None:
        check_body_type(headers.get("content-type"))
        offset, checksum = offset_of(headers.get("upload-offset")), checksum_of(headers.get("upload-checksum"))
        await self._append(arrival, offset, receive, checksum)
        if arrival.complete:
            await self._wait_stored(arrival)
        await self._say(204, arrival, answer, [])

    async def _append(self, arrival: Arrival, offset: int, receive: Receive, checksum: Any) -> None:
        if self._senders >= SENDERS_MAX:
            raise Flaw(503, f"{SENDERS_MAX} uploads are under way, which is as many as can be at a time")
        self._senders += 1
        try:
            await self._arrivals.append(arrival, offset, Body(receive), checksum)
        finally:
            self._senders -= 1

    async def _delete(self, arrival: Arrival, answer: Answer) -> None:
        with trio.move_on_after(STORED_SECONDS_MAX) as scope:
            await self._arrivals.end(arrival)
        if scope.cancelled_caught:
            raise Flaw(LOCKED, "all bytes are here, and are being stored now")
        await answer.begin(204, _SPOKEN)
        await answer.end()

    async def _wait_stored(self, arrival: Arrival) -> None:
        with trio.move_on_after(STORED_SECONDS_MAX) as scope:
            await arrival.ended.wait()
        if scope.cancelled_caught:
            raise Flaw(503, "all bytes are here, but the file is not stored yet; ask again")
        if arrival.record.failed:
            raise Flaw(410, arrival.record.failed)

    async def _say(self, status: int, arrival: Arrival, answer: Answer, head: Head) -> None:
        record = arrival.record
        more: Head = [("upload-offset", str(record.offset))]
        expires = self._arrivals.expires_at(arrival)
        if expires is not None:
            more.append(("upload-expires", expires_text(expires)))
        if record.stored:
            more.append(("upswarm-tag", record.tag))
        if status != 204:
            more.append(("content-length", "0"))
        await answer.begin(status, [*head, *more, *_SPOKEN])
        await answer.end()
