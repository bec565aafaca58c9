"""Puts chunks straight into an object store when a storage node says so (docs/protocol.md#direct-parts).

The storage node has signed each request for this very chunk; here it is judged whether to make it, the chunk is read as
for any other transfer, and its bytes go under the same caps. A storage node is a member, and yet no reason to talk to
whatever it names: only HTTP, no redirects, and neither this machine itself nor its link-local neighbours, unless the
storage node is on this machine, too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from urllib.parse import urlsplit

import structlog
import trio

from daemon.library import Library
from exchange.engine import Engine
from protocol import messages as m
from protocol.errors import ChunkMissing, LinkLost
from protocol.ids import Tag, parse_address
from protocol.limits import KIB, SENTENCE_BYTES_MAX
from runtime.bodies import PiecedBody
from runtime.link import Link
from runtime.seam import Web

log = structlog.get_logger()

OpenWeb = Callable[[], AbstractAsyncContextManager[Web]]

# Of all storage nodes together. Each has a connection and a piece in memory.
AT_ONCE_MAX = 16
_PIECE_BYTES = 256 * KIB
_ANSWER_BYTES_MAX = 64 * KIB
# The storage node takes a grant back much sooner; this ends what nobody waits for any more.
_SECONDS_MAX = 900.0


class ChunkBody(PiecedBody):
    """A chunk as the body of a request, read and paid for piece by piece."""

    def __init__(self, engine: Engine, library: Library, tag: Tag, chunk: int, size_bytes: int) -> None:
        super().__init__(size_bytes, _PIECE_BYTES)
        self._engine = engine
        self._library = library
        self._tag = tag
        self._chunk = chunk

    async def piece(self, offset: int, size_bytes: int) -> bytes:
        """See ``PiecedBody``. Waits until they may leave."""
        piece = bytearray(size_bytes)
        await self._engine.leave(self._tag, size_bytes)
        await self._library.read_block(self._tag, self._chunk, offset, memoryview(piece))
        return bytes(piece)


class DirectParts:
    """``open_web`` None: nothing is put, and storage nodes are told so."""

    def __init__(self, engine: Engine, library: Library, open_web: OpenWeb | None) -> None:
        self._engine = engine
        self._library = library
        self._open_web = open_web
        self._puts: dict[tuple[Link, Tag, int], trio.CancelScope] = {}
        self._granted_in, self._granted = trio.open_memory_channel[tuple[Link, m.PartGrant, trio.CancelScope]](
            AT_ONCE_MAX
        )

    async def run(self) -> None:
        """Put what is granted, until cancelled."""
        if self._open_web is None:
            await trio.sleep_forever()
        first = await self._granted.receive()
        # Only now: it takes a moment to load, and most daemons never need it.
        async with self._open_web() as web, trio.open_nursery() as putting:
            putting.start_soon(self._put, web, *first)
            async for grant in self._granted:
                putting.start_soon(self._put, web, *grant)

    def granted(self, link: Link, grant: m.PartGrant) -> None:
        """A storage node lets us put a chunk."""
        flaw = self._flaw(link, grant)
        if flaw is not None:
            log.warning("a grant is not used", node=link.peer.node, reason=flaw)
            self._say_failed(link, grant, "refused", flaw)
            return
        held = self._library.holding(grant.tag)
        if held is None or grant.chunk not in held.bitmap:
            self._say_failed(link, grant, "gone", "")
            return
        scope = trio.CancelScope()
        self._puts[link, grant.tag, grant.chunk] = scope
        self._granted_in.send_nowait((link, grant, scope))

    def recalled(self, link: Link, recall: m.PartRecall) -> None:
        """It is not to be put any more."""
        scope = self._puts.get((link, recall.tag, recall.chunk))
        if scope is not None:
            scope.cancel()

    def link_ended(self, link: Link) -> None:
        """Nobody waits for what was granted over ``link``."""
        for (whose, _, _), scope in self._puts.items():
            if whose is link:
                scope.cancel()

    def _flaw(self, link: Link, grant: m.PartGrant) -> str | None:
        if self._open_web is None:
            return "this node puts nothing into stores by itself"
        if len(self._puts) >= AT_ONCE_MAX or (link, grant.tag, grant.chunk) in self._puts:
            return f"more than {AT_ONCE_MAX} grants at once, or the same one twice"
        return flaw_of_url(grant.url, link.remote)

    async def _put(self, web: Web, link: Link, grant: m.PartGrant, scope: trio.CancelScope) -> None:
        code, reason = "recalled", ""
        try:
            with scope:
                code, reason = await self._ask(web, grant)
        finally:
            self._puts.pop((link, grant.tag, grant.chunk), None)
            if not code:
                link.post(m.PartPut(tag=grant.tag, chunk=grant.chunk))
            else:
                self._say_failed(link, grant, code, reason)

    async def _ask(self, web: Web, grant: m.PartGrant) -> tuple[str, str]:
        """Return code and reason of a failure, or nothing."""
        held = self._library.holding(grant.tag)
        if held is None:
            return "gone", ""
        body = ChunkBody(self._engine, self._library, grant.tag, grant.chunk, held.layout.bytes_of(grant.chunk))
        try:
            answer = await web.ask(
                "PUT",
                grant.url,
                {"x-amz-checksum-sha256": grant.checksum},
                body,
                bytes_max=_ANSWER_BYTES_MAX,
                seconds_max=_SECONDS_MAX,
            )
        except ChunkMissing as error:
            return "gone", str(error)
        except LinkLost as error:
            return "store", str(error)
        if answer.status == 200:
            return "", ""
        return "store", f"{answer.status} {answer.body[:200].decode('utf-8', 'replace')}"

    def _say_failed(self, link: Link, grant: m.PartGrant, code: str, reason: str) -> None:
        text = " ".join(reason.split()).encode("utf-8")[:SENTENCE_BYTES_MAX].decode("utf-8", "ignore")
        link.post(m.PartFailed(tag=grant.tag, chunk=grant.chunk, code=code, reason=text))


def flaw_of_url(url: str, remote: str) -> str | None:
    """Return why a storage node at ``remote`` (host:port) may not send us to ``url``; None: it may."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "not an address"
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        return "not an address of a store: http or https, with a host and no user"
    if host == "localhost" or host.endswith(".localhost"):
        host = "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None  # a name
    near = _is_loopback(remote)
    if address.is_link_local or address.is_multicast or address.is_unspecified or (address.is_loopback and not near):
        return f"an address on this machine or beside it ({address}), where no store is"
    return None


def _is_loopback(remote: str) -> bool:
    try:
        return ipaddress.ip_address(parse_address(remote)[0]).is_loopback
    except ValueError:
        return False
