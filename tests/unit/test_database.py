"""SQLite as the seam offers it: all or nothing, durable, and every error said once and rightly."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import apsw
import pytest
import trio
import trio.testing

from protocol.errors import ConfigError, StorageBroken, StorageFull
from runtime.database import SqliteDatabase
from runtime.seam import Runtime

SCHEMA = "CREATE TABLE IF NOT EXISTS things (name TEXT PRIMARY KEY, size INTEGER NOT NULL CHECK (size >= 0)) STRICT;"


def put(name: str, size: int = 1):
    return lambda cursor: cursor.execute("INSERT INTO things VALUES (?, ?)", (name, size)) and None


def names(cursor) -> list[str]:
    return [row[0] for row in cursor.execute("SELECT name FROM things ORDER BY name")]


@pytest.fixture
async def database(runtime: Runtime, tmp_path: Path):
    database = await runtime.open_database(tmp_path / "things.db", SCHEMA)
    yield database
    await database.aclose()


async def test_what_was_committed_is_there_after_opening_again(runtime: Runtime, tmp_path: Path) -> None:
    for number in range(3):
        database = await runtime.open_database(tmp_path / "things.db", SCHEMA)
        await database.transaction(put(str(number)))
        assert await database.read(names) == [str(n) for n in range(number + 1)]
        await database.aclose()


async def test_commits_are_forced_to_disk(database: SqliteDatabase) -> None:
    assert await database.read(lambda cursor: cursor.execute("PRAGMA synchronous").fetchone()[0]) == 2
    assert await database.read(lambda cursor: cursor.execute("PRAGMA journal_mode").fetchone()[0]) == "wal"


async def test_a_transaction_that_raises_leaves_nothing_and_the_next_one_works(database: SqliteDatabase) -> None:
    def half(cursor) -> None:
        put("half")(cursor)
        raise LookupError("changed my mind")

    with pytest.raises(LookupError):
        await database.transaction(half)
    await database.transaction(put("whole"))
    assert await database.read(names) == ["whole"]


async def test_our_own_bugs_fall_as_they_are(database: SqliteDatabase) -> None:
    await database.transaction(put("a"))
    with pytest.raises(apsw.ConstraintError):
        await database.transaction(put("a"))
    with pytest.raises(apsw.ConstraintError):
        await database.transaction(put("b", -1))
    with pytest.raises(apsw.SQLError):
        await database.transaction(lambda cursor: cursor.execute("SELECT nothing FROM nowhere"))
    with pytest.raises(apsw.BindingsError):
        await database.transaction(lambda cursor: cursor.execute("INSERT INTO things VALUES (?, ?)", ("a",)))
    assert await database.read(names) == ["a"]


async def test_a_full_disk_is_said_to_be_full_and_costs_nothing_acknowledged(database: SqliteDatabase) -> None:
    """SQLite rolls back by itself here; our own rollback must not hide why."""
    await database.transaction(put("kept"))
    pages = await database.read(lambda cursor: cursor.execute("PRAGMA page_count").fetchone()[0])
    database._connection.execute(f"PRAGMA max_page_count={pages}")

    def fill(cursor) -> None:
        for number in range(10_000):
            cursor.execute("INSERT INTO things VALUES (?, 1)", (f"{number:0500d}",))

    with pytest.raises(StorageFull, match=r"things\.db"):
        await database.transaction(fill)
    assert await database.read(names) == ["kept"]
    database._connection.execute("PRAGMA max_page_count=1000000")
    await database.transaction(fill)


async def test_a_commit_that_fails_is_broken_storage_and_nothing_stays_half_done(database: SqliteDatabase) -> None:
    await database.transaction(put("before"))

    def refuse() -> bool:
        return True  # turns COMMIT into a rollback

    database._connection.set_commit_hook(refuse)
    with pytest.raises(apsw.ConstraintError):
        await database.transaction(put("never"))
    database._connection.set_commit_hook(None)
    assert not database._connection.in_transaction
    assert await database.read(names) == ["before"]


class BrokenDisk(apsw.VFS):
    """Writes and syncs fail on demand."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.broken = False

    def xOpen(self, name, flags):
        return BrokenFile(self, name, flags)


class BrokenFile(apsw.VFSFile):
    def __init__(self, disk: BrokenDisk, name, flags) -> None:
        self.disk = disk
        super().__init__("", name, flags)

    def xWrite(self, data, offset) -> None:
        if self.disk.broken:
            raise apsw.IOError("a bad sector")
        super().xWrite(data, offset)

    def xSync(self, flags) -> None:
        if self.disk.broken:
            raise apsw.IOError("a bad sector")
        super().xSync(flags)


async def test_a_disk_that_fails_in_commit_is_broken_storage(runtime: Runtime, tmp_path: Path) -> None:
    disk = BrokenDisk("broken for a test")
    database = await SqliteDatabase.open(tmp_path / "things.db", SCHEMA, runtime.run_sync, vfs="broken for a test")
    await database.transaction(put("before"))
    disk.broken = True
    with pytest.raises(StorageBroken, match=r"things\.db"):
        await database.transaction(put("after"))
    assert not database._connection.in_transaction
    disk.broken = False
    assert "before" in await database.read(names)
    await database.aclose()
    disk.unregister()


async def test_transactions_of_many_tasks_take_turns(database: SqliteDatabase) -> None:
    inside = 0
    threads: set[int] = set()

    def count(cursor) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        threads.add(threading.get_ident())
        cursor.execute("INSERT INTO things VALUES ('n', 1) ON CONFLICT (name) DO UPDATE SET size = size + 1")
        inside -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(database.transaction, count)
    assert await database.read(lambda cursor: cursor.execute("SELECT size FROM things").fetchone()) == (50,)
    assert threading.get_ident() not in threads


async def test_a_cancelled_transaction_is_whole_or_absent(database: SqliteDatabase) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await database.transaction(put("maybe"))
    assert await database.read(names) in ([], ["maybe"])
    await database.transaction(put("next"))


@pytest.mark.parametrize("content", [b"this is no database at all, but long enough to be looked at" * 100])
async def test_what_is_no_database_is_the_operators_to_mend(runtime: Runtime, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "things.db"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"things\.db: not usable as a database"):
        await runtime.open_database(path, SCHEMA)
    with pytest.raises(ConfigError, match=r"cannot be used.*folder"):
        await runtime.open_database(tmp_path / "no folder" / "things.db", SCHEMA)
    assert path.read_bytes() == content


@pytest.mark.parametrize("mode", ["wal", "delete"])
async def test_what_may_only_be_read_is_the_operators_to_open_and_not_to_move_away(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    path = tmp_path / "things.db"
    with contextlib.closing(apsw.Connection(str(path))) as before:
        before.pragma("journal_mode", mode)
        before.execute(SCHEMA)
    connect = apsw.Connection
    monkeypatch.setattr(  # as for a user who may not write to it; root always may
        apsw, "Connection", lambda name, vfs: connect(name, flags=apsw.SQLITE_OPEN_READONLY, vfs=vfs)
    )
    with pytest.raises(ConfigError, match="let this user read and write it") as refused:
        await runtime.open_database(path, SCHEMA)
    assert str(path) in str(refused.value) and "move" not in str(refused.value)


async def test_a_schema_that_fails_leaves_no_table(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        await runtime.open_database(tmp_path / "things.db", SCHEMA + "CREATE NONSENSE;")
    database = await runtime.open_database(tmp_path / "things.db", "SELECT 1;")
    assert await database.read(lambda cursor: cursor.execute("SELECT name FROM sqlite_master").fetchall()) == []
    await database.aclose()


async def gathered(database: SqliteDatabase, works: list) -> list:
    """Let the first of ``works`` begin, so that the others gather behind it; return what each gave or raised."""
    found: list = [None] * len(works)

    async def ask(number: int) -> None:
        try:
            found[number] = await database.transaction(works[number])
        except Exception as error:
            found[number] = error

    async with trio.open_nursery() as asking:
        for number in range(len(works)):
            asking.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
    return found


def held(until: threading.Event):
    return lambda cursor: until.wait(10) and "first"


def commits(database: SqliteDatabase) -> list[int]:
    """How often something was committed from now on, as a list with one number in it."""
    count = [0]

    def committed() -> bool:
        count[0] += 1
        return False

    database._connection.set_commit_hook(committed)
    return count


async def test_what_gathers_behind_a_transaction_is_committed_as_one(database: SqliteDatabase) -> None:
    until, count = threading.Event(), commits(database)
    works = [held(until), *(put(str(number)) for number in range(20)), lambda cursor: until.is_set()]

    async with trio.open_nursery() as nursery:
        answers: list = []

        async def ask() -> None:
            answers.extend(await gathered(database, works))

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        while len(database._waiting) < len(works) - 1:
            await trio.testing.wait_all_tasks_blocked()
        until.set()
    assert answers == ["first", *[None] * 20, True]
    assert count[0] == 2, "the first, and all the others"
    assert len(await database.read(names)) == 20


async def test_who_asked_too_late_before_it_was_closed_hears_so(runtime: Runtime, tmp_path: Path) -> None:
    database = await runtime.open_database(tmp_path / "closing.db", SCHEMA)
    until = threading.Event()

    async with trio.open_nursery() as nursery:
        answers: list = []

        async def ask() -> None:
            answers.extend(await gathered(database, [held(until), put("late")]))

        nursery.start_soon(ask)
        while not database._waiting:
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(database.aclose)
        await trio.testing.wait_all_tasks_blocked()
        until.set()
    assert answers[0] == "first" and isinstance(answers[1], StorageBroken)
    again = await runtime.open_database(tmp_path / "closing.db", SCHEMA)
    assert await again.read(names) == [], "who was told that it failed finds nothing"
    await again.aclose()


async def test_one_that_fails_takes_nobody_along(database: SqliteDatabase) -> None:
    until = threading.Event()

    def failing(cursor) -> None:
        put("half")(cursor)
        raise LookupError("mine alone")

    async with trio.open_nursery() as nursery:
        answers: list = []

        async def ask() -> None:
            answers.extend(await gathered(database, [held(until), put("a"), failing, put("b"), put("a")]))

        nursery.start_soon(ask)
        while len(database._waiting) < 4:
            await trio.testing.wait_all_tasks_blocked()
        until.set()
    assert answers[1] is None and answers[3] is None
    assert isinstance(answers[2], LookupError) and isinstance(answers[4], apsw.ConstraintError)
    assert await database.read(names) == ["a", "b"]


async def test_who_is_cancelled_while_waiting_is_done_all_the_same_and_holds_up_nobody(
    database: SqliteDatabase,
) -> None:
    until = threading.Event()
    answers: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.transaction, held(until))
        scopes = [trio.CancelScope() for _ in range(3)]

        async def ask(number: int) -> None:
            with scopes[number]:
                await database.transaction(put(str(number)))
                answers.append(number)

        scopes[2].cancel()
        for number in range(3):
            nursery.start_soon(ask, number)
        while len(database._waiting) < 2:
            await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        until.set()
    assert sorted(answers) == [0, 1] and await database.read(names) == ["0", "1"]
