"""PostgreSQL behind the seam: the same ``Database`` as SQLite's (database.py), but shared. psycopg, in threads.

Every transaction is serializable and durable (synchronous_commit on) whatever the server's settings say; one that lost
against another is run again. When the server does not answer, the connection is made anew and the transaction is run
again, as often as it takes: who waits for a ledger has nothing better to do, and a node that is not the owner of a job
any more learns it from the first answer. So ``work`` may run several times, and even once more after its COMMIT was
carried out and its answer was lost: whatever it writes it must be able to write twice.

Only who needs it imports it: psycopg is an optional package (``pip install upswarm[postgresql]``).

Text in PostgreSQL has no NUL; names may have one. DLE escapes both on the way in and out.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Literal, TypeVar

import structlog
import trio

from protocol.errors import ConfigError, StorageBroken, StorageError, StorageFull
from runtime.seam import RunSync

try:
    import psycopg
    from psycopg import errors
    from psycopg.conninfo import make_conninfo
except ImportError as error:
    raise ConfigError("PostgreSQL needs psycopg; install it: pip install 'upswarm[postgresql]'") from error

T = TypeVar("T")
log = structlog.get_logger()
# Their lines name servers and users; ours say what matters.
logging.getLogger("psycopg").setLevel(logging.ERROR)

CONNECT_SECONDS_MAX = 10
# A server that is gone without a word is noticed after so long; a node that was frozen in the middle of a transaction
# holds what it locked no longer than that.
ANSWER_SECONDS_MAX = 20
PAUSE_SECONDS_FIRST = 0.02
PAUSE_SECONDS_MAX = 5.0
# At the start an operator waits for a sentence.
OPEN_SECONDS_MAX = 30.0

_SETTINGS = {
    "synchronous_commit": "on",
    "statement_timeout": f"{ANSWER_SECONDS_MAX}s",
    "lock_timeout": f"{ANSWER_SECONDS_MAX}s",
    "idle_in_transaction_session_timeout": f"{ANSWER_SECONDS_MAX}s",
    "client_encoding": "UTF8",
}
_SOCKET: dict[str, Any] = {
    "connect_timeout": CONNECT_SECONDS_MAX,
    "tcp_user_timeout": ANSWER_SECONDS_MAX * 1000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "application_name": "upswarm",
}
# Whoever creates the tables does it alone: CREATE ... IF NOT EXISTS of two at once may fail.
_SCHEMA_LOCK = 0x7570_7377_6172_6D01
# What an operator must mend; told at once.
_WRONG = ("authentication failed", "does not exist", "no password supplied", "no pg_hba.conf", "permission denied")


class PostgresCursor:
    """What ``work`` gets: SQLite's way of asking. Placeholders are ``?``; answers are fetched whole."""

    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        self._cursor = cursor

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        self._cursor.execute(_translated(statement), [_escaped(value) for value in values])
        if self._cursor.description is None:
            return iter(())
        return iter([tuple(map(_unescaped, row)) for row in self._cursor.fetchall()])

    def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each of ``rows``."""
        self._cursor.executemany(_translated(statement), [[_escaped(value) for value in row] for row in rows])


@cache
def _translated(statement: str) -> bytes:
    return statement.replace("%", "%%").replace("?", "%s").encode()


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x10", "\x101").replace("\0", "\x100")
    return value


def _unescaped(value: Any) -> Any:
    if isinstance(value, str) and "\x10" in value:
        return value.replace("\x100", "\0").replace("\x101", "\x10")
    return bytes(value) if isinstance(value, memoryview) else value


def _turned(error: psycopg.Error) -> StorageError | Literal["again", "reconnect"] | None:
    """Return what to do about ``error``; None for a bug of ours, which is let fall as it is."""
    if isinstance(error, errors.SerializationFailure | errors.DeadlockDetected | errors.UniqueViolation):
        # Of two that insert the same row at once, one may be told that it is there before it could see it.
        return "again"
    if isinstance(error, errors.DiskFull):
        return StorageFull(f"ledger: {_sentence(error)}")
    if isinstance(error, errors.DataCorrupted | errors.IndexCorrupted):
        return StorageBroken(f"ledger: {_sentence(error)}")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | errors.ReadOnlySqlTransaction):
        return "reconnect"
    return None


def _sentence(error: psycopg.Error) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


class PostgresDatabase:
    """One connection, and a lock that lets one thread at it. Made by ``open``."""

    def __init__(self, address: str, password: str, run_sync: RunSync) -> None:
        self._address = address
        self._password = password
        self._run_sync = run_sync
        self._connection: psycopg.Connection[Any] | None = None
        self._turn = trio.Lock()

    @classmethod
    async def open(cls, address: str, password: str, schema: str, run_sync: RunSync) -> PostgresDatabase:
        """Connect to ``address`` (a postgresql:// URL) and run ``schema``: statements that end with ";"; after a ";"
        within one the next line begins with a space.

        Raises:
            ConfigError: it cannot be used; the sentence has no password in it.
        """
        database = cls(address, password, run_sync)

        def prepare(cursor: PostgresCursor) -> None:
            cursor.execute(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
            for statement in re.split(r";\n(?! )", schema):
                if statement.strip():
                    cursor.execute(statement)

        last = ""
        with trio.move_on_after(OPEN_SECONDS_MAX):
            pause = PAUSE_SECONDS_FIRST
            while True:
                try:
                    await run_sync(database._try, prepare, psycopg.IsolationLevel.SERIALIZABLE)
                except psycopg.Error as error:
                    await run_sync(database._hang_up)
                    last = _sentence(error)
                    if any(word in last for word in _WRONG) or _turned(error) is None:
                        break
                else:
                    return database
                await trio.sleep(pause)
                pause = min(2 * pause, PAUSE_SECONDS_MAX)
        raise ConfigError(f"the ledger's PostgreSQL cannot be used: {last or 'it does not answer'}")

    async def transaction(self, work: Callable[[Any], T]) -> T:
        """See ``seam.Database.transaction``; ``work`` may run more than once. Waits for a server that is away."""
        return await self._run(work, psycopg.IsolationLevel.SERIALIZABLE)

    async def read(self, work: Callable[[Any], T]) -> T:
        """See ``seam.Database.read``: what is read is of one moment, and is in nobody's way."""
        return await self._run(work, psycopg.IsolationLevel.REPEATABLE_READ)

    async def _run(self, work: Callable[[Any], T], isolation: psycopg.IsolationLevel) -> T:
        pause = PAUSE_SECONDS_FIRST
        async with self._turn:
            while True:
                try:
                    return await self._run_sync(self._try, work, isolation)
                except psycopg.Error as error:
                    turned = _turned(error)
                    if turned is None:
                        raise
                    if isinstance(turned, StorageError):
                        raise turned from error
                    if turned == "reconnect":
                        await self._run_sync(self._hang_up)
                        log.warning("ledger is asked again", seconds=round(pause, 2), reason=_sentence(error))
                await trio.sleep(pause)
                pause = min(2 * pause, PAUSE_SECONDS_MAX)

    async def aclose(self) -> None:
        """Close; what was committed stays."""
        async with self._turn:
            await self._run_sync(self._hang_up)

    def _try(self, work: Callable[[Any], T], isolation: psycopg.IsolationLevel) -> T:
        """Once, in a thread."""
        if self._connection is None:
            settings = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
            secret = {"password": self._password} if self._password else {}
            self._connection = psycopg.connect(make_conninfo(self._address, options=settings, **secret, **_SOCKET))
        connection = self._connection
        connection.isolation_level = isolation
        with connection.transaction(), connection.cursor() as cursor:
            return work(PostgresCursor(cursor))

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # It may be broken already; what matters is that nobody uses it again.
            with contextlib.suppress(psycopg.Error):
                connection.close()
