"""An HTTP answer on its way: status, headers, a file or spans of it. What is answered is decided in door.py.

Files are sent in pieces, so memory does not depend on them. A file that cannot be read to its end is cut off; its
length was said before, so its reader knows that this is not all.
"""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from protocol.limits import KIB
from storage.backends.base import StoredObject
from storage.ranges import Span

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Head = list[tuple[str, str]]

PIECE_BYTES = 256 * KIB
# The types that Python knows by itself; those of this machine would make answers differ from node to node.
_TYPES = mimetypes.MimeTypes(filenames=())
GUARDED: Head = [
    ("x-content-type-options", "nosniff"),
    (
        "content-security-policy",
        "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'",
    ),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
]


async def send_file(
    answer: Answer, opened: StoredObject, head: Head, content_type: str, spans: list[Span] | None
) -> None:
    """Send an open file, or the spans of it: several as multipart/byteranges (RFC 9110 §14.6).

    Raises:
        ChunkMissing, StorageUnavailable: it cannot be read (any more).
    """
    size = opened.size_bytes
    if spans is not None and len(spans) > 1:
        mark = f"upswarm-{hashlib.sha256(repr(spans).encode()).hexdigest()[:32]}"
        begin = f"\r\n--{mark}\r\ncontent-type: {content_type}\r\ncontent-range: "
        heads = [f"{begin}{span.content_range(size)}\r\n\r\n".encode() for span in spans]
        last = f"\r\n--{mark}--\r\n".encode()
        length = sum(map(len, heads)) + sum(span.end - span.start for span in spans) + len(last)
        multi = ("content-type", f"multipart/byteranges; boundary={mark}")
        await answer.begin(206, [("content-length", str(length)), multi, *head])
        for text, span in zip(heads, spans, strict=True):
            await answer.send(text)
            await answer.send_all(_Pieces(opened, span))
        await answer.send(last)
    else:
        span = spans[0] if spans else Span(0, size)
        status = 206 if spans else 200
        ranged = [("content-range", span.content_range(size))] if spans else []
        length = span.end - span.start
        await answer.begin(status, [("content-length", str(length)), ("content-type", content_type), *ranged, *head])
        await answer.send_all(_Pieces(opened, span))
    await answer.end()


class _Pieces:
    """The bytes of a span, piece by piece."""

    def __init__(self, opened: StoredObject, span: Span) -> None:
        self._opened = opened
        self._at, self._end = span.start, span.end

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._at >= self._end:
            raise StopAsyncIteration
        piece = bytearray(min(PIECE_BYTES, self._end - self._at))
        await self._opened.read_into(memoryview(piece), self._at)
        self._at += len(piece)
        return bytes(piece)


class Answer:
    """One answer on its way. Of HEAD the body is left out, and nothing is read for it."""

    def __init__(self, send: Send, *, head_only: bool) -> None:
        self.begun = False
        self._send = send
        self._head_only = head_only

    async def begin(self, status: int, head: Head) -> None:
        """Send status and headers."""
        self.begun = True
        headers = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in head]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes) -> None:
        """Send some of the body."""
        if not self._head_only:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def send_all(self, pieces: AsyncIterator[bytes]) -> None:
        """Send more of the body, piece by piece."""
        if not self._head_only:
            async for piece in pieces:
                await self.send(piece)

    async def end(self) -> None:
        """It was all."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def refuse(self, status: int, sentence: str, head: Head | None = None) -> None:
        """Answer with a sentence for people; ``head``: further headers."""
        body = f"{sentence}\n".encode()
        own = [("content-length", str(len(body))), ("content-type", "text/plain; charset=utf-8")]
        await self.begin(status, [*own, *(head or GUARDED)])
        await self.send(body)
        await self.end()


def type_of(name: str) -> str:
    """Return the content type that a name suggests."""
    kind, encoding = _TYPES.guess_type(name)
    # An archive is the file that was stored, not a way to send what is in it.
    return kind if kind is not None and encoding is None else "application/octet-stream"
