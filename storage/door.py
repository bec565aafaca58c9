"""What was stored, read by HTTP: GET and HEAD by tag and by name, with ranges, behind a token.

    /tag/<tag>        a stored file; its content never changes
    /name/<name>      the newest file of that name
    /tus/             uploads, where they are allowed (storage/tus/)
    /metrics          for Prometheus (storage/metrics.py)

Any HTTP client can read it: browsers, curl, wget, media players. The token comes as ``Authorization: Bearer TOKEN``, or
as the password of Basic authorization (any user), because that is what they can say; never in a URL, which ends up in
logs and histories. Nothing is answered without it, not even what is there and what is not.

Files are strangers' bytes: they are sent under a policy in which a browser runs nothing of them. Memory does not depend
on the file, and a reader who hangs up ends the reading. Knows no sockets (runtime/http.py serves it); it only reads.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog
import trio

from protocol.errors import ChunkMissing, ConfigError, StorageUnavailable
from protocol.ids import Tag
from protocol.limits import NAME_BYTES_MAX
from runtime.seam import Runtime
from storage.answers import GUARDED, Answer, Head, Send, send_file, type_of
from storage.backends.base import Backend
from storage.ledger.base import Ledger, StoredFile
from storage.ranges import Unsatisfiable, wanted_spans
from storage.shelf import Shelf
from storage.tus.handler import PATH, TusHandler

log = structlog.get_logger()

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

READERS_MAX = 64
_TOKEN_WANTED = [("www-authenticate", "Bearer"), ("www-authenticate", 'Basic realm="upswarm", charset="UTF-8"')]
TOKEN_CHARACTERS_MIN = 16


class Door:
    """An ASGI application. ``token``: who says it may read everything that is stored here, and with ``tus`` upload."""

    def __init__(
        self,
        shelf: Shelf,
        ledger: Ledger,
        backend: Backend,
        token: str,
        tus: TusHandler | None = None,
        metrics: Callable[[], bytes] | None = None,
    ) -> None:
        self._metrics = metrics
        self._shelf = shelf
        self._tus = tus
        self._ledger = ledger
        self._backend = backend
        # Digests have one length, so comparing tells nothing of the token's.
        self._token = hashlib.sha256(token.encode()).digest()
        self._readers = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            answer = Answer(send, head_only=scope["method"] == "HEAD")
            headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
            if not self._may(headers.get("authorization", "")):
                wanted = [
                    ("www-authenticate", "Bearer"),
                    ("www-authenticate", 'Basic realm="upswarm", charset="UTF-8"'),
                ]
                await answer.refuse(401, "the token of this storage node is needed", wanted)
                return
            if self._tus is not None and f"{scope['path']}/".startswith(f"{PATH}/"):
                # Its requests have bodies, and an upload goes on being stored when its client has gone.
                await self._tus.answer(scope["method"], scope["path"], headers, receive, answer)
                return
            async with trio.open_nursery() as reading:

                async def watch() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    reading.cancel_scope.cancel()

                reading.start_soon(watch, name="door watch")
                await self._answer(scope, headers, answer)
                reading.cancel_scope.cancel()

    async def _answer(self, scope: Scope, headers: dict[str, str], answer: Answer) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await answer.refuse(405, "only GET and HEAD", [("allow", "GET, HEAD")])
        elif self._readers >= READERS_MAX:
            await answer.refuse(503, "too many readers", [("retry-after", "5")])
        else:
            self._readers += 1
            try:
                await self._read(scope["path"], headers, answer)
            finally:
                self._readers -= 1

    def _may(self, authorization: str) -> bool:
        scheme, _, said = authorization.partition(" ")
        said = said.strip()
        if scheme.lower() == "basic":
            try:
                said = base64.b64decode(said, validate=True).decode("utf-8").partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(hashlib.sha256(said.encode("utf-8", "replace")).digest(), self._token)

    async def _find(self, path: str) -> tuple[StoredFile, str, str] | None:
        """Return the file that ``path`` means, the name to give it, and how long its answer holds."""
        kind, _, what = path.removeprefix("/").partition("/")
        if kind == "tag":
            try:
                file = self._shelf.stored.get(Tag.parse(what))
            except ValueError:
                return None
            if file is not None:
                name = file.names[0] if file.names else what
                return file, name, "private, max-age=31536000, immutable"
        if kind == "name" and 0 < len(what.encode("utf-8", "replace")) <= NAME_BYTES_MAX:
            for version in (await self._ledger.versions(what))[:1]:
                file = self._shelf.stored.get(version.tag)
                if file is not None:
                    return file, what, "private, no-cache"
        return None

    async def _read(self, path: str, headers: dict[str, str], answer: Answer) -> None:
        if path == "/metrics" and self._metrics is not None:
            text = self._metrics()
            own = [("content-length", str(len(text))), ("content-type", "text/plain; version=0.0.4; charset=utf-8")]
            await answer.begin(200, [*own, ("cache-control", "no-store"), *GUARDED])
            await answer.send(text)
            await answer.end()
            return
        found = await self._find(path)
        if found is None:
            await answer.refuse(
                404, "nothing of that name or tag is stored here; /tag/<tag> and /name/<name> are known"
            )
            return
        file, name, lasts = found
        size, etag = file.size_bytes, f'"{file.tag}"'
        head: Head = [
            ("etag", etag),
            ("accept-ranges", "bytes"),
            ("cache-control", lasts),
            ("content-disposition", f"inline; filename*=UTF-8''{quote(name.rpartition('/')[2], safe='')}"),
            *GUARDED,
        ]
        if not _matches(headers.get("if-match", "*"), etag):
            await answer.refuse(412, "that file is another one now")
            return
        if _matches(headers.get("if-none-match", ""), etag):
            await answer.begin(304, head)
            await answer.end()
            return
        try:
            spans = None
            if headers.get("if-range", etag) == etag:
                spans = wanted_spans(headers.get("range", ""), size)
        except Unsatisfiable:
            await answer.refuse(
                416, "nothing of the file is in that range", [("content-range", f"bytes */{size}"), *head]
            )
            return
        try:
            async with await self._backend.open(file.tag) as opened:
                await send_file(answer, opened, head, type_of(name), spans)
        except (ChunkMissing, StorageUnavailable) as error:
            log.warning("a stored file cannot be read", tag=str(file.tag), reason=str(error))
            if not answer.begun:
                await answer.refuse(503, "the store does not give it now", [("retry-after", "10")])
            # Else it is cut off: with a length said before, its reader knows that this is not all.


def _matches(header: str, etag: str) -> bool:
    return etag in (tag.strip().removeprefix("W/") for tag in header.split(",")) or header.strip() == "*"


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def door_token(runtime: Runtime, path: Path) -> str:
    """Return the token in ``path``; made there (0600) when there is none.

    Raises:
        ConfigError: others may read it, or it is too short to be one.
    """

    def work() -> str:
        try:
            text = runtime.disk.read_secret(path).decode("utf-8", "replace").strip()
        except FileNotFoundError:
            text = runtime.token_bytes(32).hex()
            runtime.disk.make_folder(path.parent)
            runtime.disk.write_small(path, text.encode() + b"\n")
        except OSError as error:
            raise ConfigError(f"[storage] http_token: {path}: cannot be read ({error.strerror or error})") from error
        if len(text) < TOKEN_CHARACTERS_MIN or not text.isascii() or not text.isprintable():
            raise ConfigError(
                f"[storage] http_token: {path}: a token has at least {TOKEN_CHARACTERS_MIN} letters and digits; remove"
                " the file, and one is made"
            )
        return text

    return await runtime.run_sync(work)
