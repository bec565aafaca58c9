"""A connection to Redis or Valkey: kept up, asked within a deadline, and given up for a while when it does not answer.

Foreign errors become ours here: whoever asks hears ``StorageUnavailable`` and nothing else. While the server is away
nobody waits for it: questions fail at once, and one probe a second looks whether it is back. What is kept there, and
under which keys, is not known here (tracker/index/redis.py). Scripts are sent once and then named by their digest.

One server, or an address behind which a primary is chosen; a Redis Cluster is not spoken to.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import coredis
import structlog
import trio
from coredis.exceptions import NoScriptError, RedisError
from coredis.retry import NoRetryPolicy

from protocol.errors import StorageUnavailable

T = TypeVar("T")

log = structlog.get_logger()
# Each try of each command; that the server is away is said once, by us.
logging.getLogger("coredis").setLevel(logging.WARNING)

# A script takes a fraction of a millisecond. Behind one that replaces a million holdings others wait for seconds; they
# are better served without the shared index then.
ANSWER_SECONDS_MAX = 2.0
CONNECT_SECONDS_MAX = 2.0
PROBE_SECONDS = 1.0
CONNECTIONS_MAX = 8
PORT = 6379


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a server is. ``tls``: inside TLS, its certificate checked against this machine's authorities."""

    host: str
    port: int
    database: int = 0
    user: str | None = None
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> RedisAddress:
        """Return the address that ``redis://[USER@]HOST[:PORT][/NUMBER]`` (or ``rediss://``, with TLS) is.

        Raises:
            ValueError: it is none, or holds a password; the sentence says what would be right.
        """
        parts = urlsplit(text)
        number = parts.path.removeprefix("/") or "0"
        try:
            port = PORT if parts.port is None else parts.port
        except ValueError:
            port = 0
        if parts.password is not None:
            raise ValueError("a password has no place in an address; set the environment's ..._PASSWORD instead")
        if (
            parts.scheme not in ("redis", "rediss")
            or not parts.hostname
            or not port
            or not (number.isascii() and number.isdigit() and len(number) < 4)
            or parts.query
            or parts.fragment
        ):
            raise ValueError(f"{text[:80]!r} is not redis://HOST:PORT or rediss://HOST:PORT (TLS)")
        user = unquote(parts.username) if parts.username else None
        return cls(parts.hostname, port, int(number), user, parts.scheme == "rediss")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis{'s' if self.tls else ''}://{host}:{self.port}/{self.database}"


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script: what happens in one step, seen by nobody half done."""

    source: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())


class RedisServer:
    """``run()`` it beside whoever asks. ``on_back()`` is called each time it can be asked again."""

    def __init__(self, address: RedisAddress, password: str = "", on_back: Callable[[], None] | None = None) -> None:
        self.address = address
        self.trouble: str | None = "not connected yet"  # why it cannot be asked now; None: it can
        self._password = password or None
        self._on_back = on_back
        self._client: coredis.Redis[bytes] | None = None
        self._lost = trio.Event()

    @property
    def available(self) -> bool:
        """Whether it can be asked now."""
        return self.trouble is None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connection until cancelled. Started once it was tried: a server that is away stops nobody."""
        started = False
        while True:
            try:
                async with coredis.Redis(
                    host=self.address.host,
                    port=self.address.port,
                    db=self.address.database,
                    username=self.address.user,
                    password=self._password,
                    ssl=self.address.tls,
                    connect_timeout=CONNECT_SECONDS_MAX,
                    max_connections=CONNECTIONS_MAX,
                ) as client:
                    self._client = client
                    while True:
                        await self._probe(client)
                        if not started:
                            task_status.started()
                            started = True
                        if self.available:
                            await self._lost.wait()
                        await trio.sleep(PROBE_SECONDS)
            except (RedisError, OSError, BaseExceptionGroup) as error:
                # The client itself has fallen, which it does when it is let in no further than the door.
                self._away(_failure(error))
            finally:
                self._client = None
            if not started:
                task_status.started()
                started = True
            await trio.sleep(PROBE_SECONDS)

    async def script(self, script: Script, key: str, arguments: Sequence[str | bytes | int | float]) -> Any:
        """Run ``script`` with one key and return what it returns.

        Raises:
            StorageUnavailable: the server is away, or refused it.
        """

        async def run(client: coredis.Redis[bytes]) -> Any:
            try:
                return await client.evalsha(script.digest, [key], list(arguments))
            except NoScriptError:
                # It was started anew, or never saw this one.
                return await client.eval(script.source, [key], list(arguments))

        return await self._ask(run)

    async def seconds(self) -> float:
        """Return the server's clock, in seconds since 1970. Raises ``StorageUnavailable``."""

        async def run(client: coredis.Redis[bytes]) -> float:
            return (await client.time()).timestamp()

        return await self._ask(run)

    async def publish(self, channel: str, data: bytes) -> None:
        """Tell everybody who listens to ``channel`` now. Raises ``StorageUnavailable``."""

        async def run(client: coredis.Redis[bytes]) -> None:
            await client.publish(channel, data)

        await self._ask(run)

    async def listen(
        self, channel: str, hear: Callable[[bytes], Awaitable[None]], on_listening: Callable[[], None]
    ) -> None:
        """Call ``hear`` with whatever is published on ``channel``, until cancelled. What is said while the server is
        away is lost: ``on_listening`` is called each time from which on nothing is."""
        while True:
            client = self._client
            if client is not None and self.available:
                try:
                    # As it comes it would try again by itself, later each time, and say nothing.
                    async with client.pubsub(channels=[channel], retry_policy=NoRetryPolicy()) as heard:
                        async for message in heard:
                            if message["type"] == "subscribe":
                                on_listening()
                            if message["type"] == "message" and isinstance(message["data"], bytes):
                                await hear(message["data"])
                except (RedisError, OSError, BaseExceptionGroup) as error:
                    self._away(_failure(error))
            await trio.sleep(PROBE_SECONDS)

    async def read_map(self, key: str) -> dict[bytes, bytes]:
        """Return all of a hash; {} when there is none. Raises ``StorageUnavailable``."""

        async def run(client: coredis.Redis[bytes]) -> dict[bytes, bytes]:
            return dict(await client.hgetall(key))

        return await self._ask(run)

    async def write_map(self, key: str, values: Mapping[bytes, bytes], seconds: int) -> None:
        """Put values into a hash, which is kept for so long from now on. Raises ``StorageUnavailable``."""

        async def run(client: coredis.Redis[bytes]) -> None:
            await client.hset(key, dict(values))
            await client.expire(key, seconds)

        await self._ask(run)

    async def _ask(self, question: Callable[[coredis.Redis[bytes]], Awaitable[T]]) -> T:
        client = self._client
        if client is None or not self.available:
            raise StorageUnavailable(f"{self.address} is away: {self.trouble}", PROBE_SECONDS)
        try:
            with trio.fail_after(ANSWER_SECONDS_MAX):
                return await question(client)
        except (RedisError, OSError, ExceptionGroup, trio.TooSlowError) as error:
            self._away(error)
            raise StorageUnavailable(f"{self.address}: {_reason(error)}", PROBE_SECONDS) from error

    async def _probe(self, client: coredis.Redis[bytes]) -> None:
        try:
            with trio.fail_after(ANSWER_SECONDS_MAX):
                # Writes as well: a server without memory, or a replica, would answer a ping.
                await client.set("upswarm:probe", b"1", ex=60)
        except (RedisError, OSError, trio.TooSlowError) as error:
            self._away(error)
            return
        if self.trouble is not None:
            log.info("redis connected", address=str(self.address))
            self.trouble = None
            self._lost = trio.Event()
            if self._on_back is not None:
                self._on_back()

    def _away(self, error: Exception) -> None:
        reason = _reason(error)
        if reason != self.trouble:
            log.warning("redis is away", address=str(self.address), reason=reason)
        self.trouble = reason
        self._lost.set()


def _failure(error: BaseException) -> Exception:
    """Return what failed, unless somebody wants us to stop: then that is raised, without what failed beside it. A
    client that is cancelled takes leave of the server on a connection that it may have closed before."""
    if not isinstance(error, BaseExceptionGroup):
        assert isinstance(error, Exception)
        return error
    failed, stopped = error.split(Exception)
    if stopped is not None:
        raise stopped
    assert isinstance(failed, ExceptionGroup)
    return failed


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, trio.TooSlowError):
        return f"no answer in {ANSWER_SECONDS_MAX:.0f} s"
    return str(error).strip() or type(error).__name__
