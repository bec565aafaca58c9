"""Requests to HTTP servers of others: httpx2, held to our bounds. Knows no server and signs nothing.

Only who needs it imports it: httpx2 takes a fifth of a second to load. Certificates are judged by this machine's own
store of authorities. Nothing is read from the environment: neither proxies nor a .netrc, whose passwords would go out
beside a signature.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import metadata

import httpx2
import trio

from protocol.errors import LinkLost
from runtime.seam import Web, WebAnswer, WebBody

CONNECT_SECONDS_MAX = 10.0
# Nothing sent or received for so long. A store may be busy with a large object for half a minute before it answers.
STALL_SECONDS_MAX = 60.0
CONNECTIONS_MAX = 64
KEPT_SECONDS = 30.0

# Their lines at INFO and DEBUG carry whole URLs and headers; signed ones are nobody's to read.
for _name in ("httpx2", "httpcore2"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class HttpxWeb:
    """Made by ``open_web``."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | WebBody = b"",
        *,
        target: memoryview | None = None,
        bytes_max: int = 1 << 20,
        seconds_max: float = 60.0,
    ) -> WebAnswer:
        sent = {"accept-encoding": "identity", **headers}
        if not isinstance(body, bytes):
            # Without it the body would be sent in HTTP chunks, which S3 does not take.
            sent["content-length"] = str(body.size_bytes)
        where = f"{method} {url.partition('?')[0]}"
        try:
            with trio.fail_after(seconds_max):
                async with self._client.stream(method, url, headers=sent, content=body) as answer:
                    return await _received(answer, target, bytes_max, where)
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, trio.TooSlowError) as error:
            reason = str(error) or type(error).__name__
            raise LinkLost(f"{where}: {reason}") from error


async def _received(answer: httpx2.Response, target: memoryview | None, bytes_max: int, where: str) -> WebAnswer:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    if not answer.is_success:
        target = None
    limit = bytes_max if target is None else len(target)
    body = bytearray()
    count = 0
    # Whoever breaks out of the loop leaves generators within generators behind; cancelled, all of them end in order.
    with trio.CancelScope() as reading:
        async for piece in answer.aiter_raw():
            count += len(piece)
            if count > limit:
                reading.cancel()
            elif target is None:
                body += piece
            else:
                target[count - len(piece) : count] = piece
    if count > limit:
        raise LinkLost(f"{where}: more than {limit} bytes came")
    return WebAnswer(answer.status_code, headers, bytes(body), 0 if target is None else count)


@asynccontextmanager
async def open_web(transport: httpx2.AsyncBaseTransport | None = None) -> AsyncIterator[Web]:
    """Make requests possible while the block lasts. ``transport`` instead of TCP: for tests."""
    async with httpx2.AsyncClient(
        timeout=httpx2.Timeout(STALL_SECONDS_MAX, connect=CONNECT_SECONDS_MAX, pool=None),
        limits=httpx2.Limits(
            max_connections=CONNECTIONS_MAX,
            max_keepalive_connections=CONNECTIONS_MAX,
            keepalive_expiry=KEPT_SECONDS,
        ),
        headers={"user-agent": f"upswarm/{metadata.version('upswarm')}"},
        follow_redirects=False,
        trust_env=False,
        transport=transport,
    ) as client:
        yield HttpxWeb(client)
