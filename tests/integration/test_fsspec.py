"""upswarm:// as fsspec and pandas see it: fsspec's own generic suite, and what only a swarm does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import aclosing
from importlib import metadata
from pathlib import Path
from typing import Any

import fsspec
import pandas
import pytest
import trio
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests import abstract
from support.crew import Crew, put
from support.files import MIB
from support.processes import Program, Refused

from protocol.errors import CommandError
from upswarm.fsspec import UpswarmFileSystem
from upswarm.trio_client import connect

NUMBERS = itertools.count()


class View(UpswarmFileSystem):
    """No two of its touched files are equal."""

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        self.pipe_file(path, path.encode())


class Local(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """This machine's disk, but no two of its touched files are equal."""

    def touch(self, path: Any, truncate: bool = True, **_: Any) -> None:
        self.pipe_file(str(path), str(path).encode())


class SwarmFixtures(abstract.AbstractFixtures):  # type: ignore[misc]  # fsspec has no types
    """Where the suite finds a swarm. No two of its files are equal: equal files are one, and of one with more than four
    names not all are told."""

    @pytest.fixture
    def fs(self, crew: Crew) -> UpswarmFileSystem:
        return View(str(crew.daemons[0].home))

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return lambda *parts: "/".join([*(part.rstrip("/") for part in parts[:-1]), parts[-1]])

    @pytest.fixture
    def fs_path(self) -> str:
        return f"suite/{next(NUMBERS)}"

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False

    @pytest.fixture(scope="class")
    @classmethod
    def local_fs(cls) -> Local:
        return Local(auto_mkdir=True)


class TestPipe(SwarmFixtures, abstract.AbstractPipeTests):
    pass


class TestOpen(SwarmFixtures, abstract.AbstractOpenTests):
    pass


class TestPut(SwarmFixtures, abstract.AbstractPutTests):
    # Thirty-two patterns each, of which fsspec's own code decides what they mean: minutes.
    test_put_glob_edge_cases = pytest.mark.soak(abstract.AbstractPutTests.test_put_glob_edge_cases)


class TestGet(SwarmFixtures, abstract.AbstractGetTests):
    test_get_glob_edge_cases = pytest.mark.soak(abstract.AbstractGetTests.test_get_glob_edge_cases)


def url_options(crew: Crew, daemon: int = 0) -> dict[str, str]:
    return {"home": str(crew.daemons[daemon].home)}


def test_the_protocol_is_registered_by_entry_point() -> None:
    assert fsspec.get_filesystem_class("upswarm") is UpswarmFileSystem
    (entry,) = [one for one in metadata.entry_points(group="fsspec.specs") if one.name == "upswarm"]
    assert entry.value == "upswarm.fsspec:UpswarmFileSystem"


def test_pandas_writes_here_and_reads_there(crew: Crew) -> None:
    table = pandas.DataFrame({"n": range(2000), "word": [f"w{n}" for n in range(2000)]})
    table.to_csv("upswarm://pandas/table.csv", index=False, storage_options=url_options(crew))
    table.to_csv("upswarm://pandas/table.csv.gz", index=False, storage_options=url_options(crew))
    for name in ("table.csv", "table.csv.gz"):
        back = pandas.read_csv(f"upswarm://pandas/{name}", storage_options=url_options(crew))
        pandas.testing.assert_frame_equal(back, table)
    tag = UpswarmFileSystem(**url_options(crew)).info("pandas/table.csv")["tag"]
    elsewhere = pandas.read_csv(f"upswarm://{tag}", storage_options=url_options(crew, 1))
    pandas.testing.assert_frame_equal(elsewhere, table)


def test_a_range_brings_only_the_chunks_that_it_touches(crew: Crew) -> None:
    file = crew.file("ranged.bin", 8 * MIB, seed=81)
    tag = put(crew.daemons[0], file)["tag"]
    before = received(crew.daemons[1])
    with UpswarmFileSystem(**url_options(crew, 1)).open(f"upswarm://{tag}", "rb", cache_type="none") as opened:
        opened.seek(5 * MIB + 17)
        assert opened.read(100) == file.read_bytes()[5 * MIB + 17 : 5 * MIB + 117]
        opened.seek(-10, 2)
        assert opened.read() == file.read_bytes()[-10:]
    assert received(crew.daemons[1]) - before == 2 * MIB


def test_a_name_means_what_was_written_last(crew: Crew) -> None:
    fs = UpswarmFileSystem(**url_options(crew))
    for number in range(5):
        fs.pipe_file("again.txt", f"version {number}".encode())
        assert fs.cat_file("again.txt") == f"version {number}".encode()
        assert fs.info("again.txt")["size"] == len("version 0")
        assert [row["tag"] for row in fs.ls("again.txt")] == [fs.info("again.txt")["tag"]]


def test_what_was_put_and_removed_is_known_to_everybody_when_the_call_returns(crew: Crew) -> None:
    fs = UpswarmFileSystem(**url_options(crew))
    for number in range(8):
        # The second name of the same bytes sends nothing, and is told all the same.
        for name in (f"known/{number}.a", f"known/{number}.b"):
            fs.pipe_file(name, f"bytes {number}".encode())
            assert crew.daemons[1].call("show", tag=name)["size"] == len(f"bytes {number}")
        fs.rm_file(f"known/{number}.a")
        with pytest.raises(Refused) as refused:
            crew.daemons[1].call("show", tag=f"known/{number}.a")
        assert refused.value.data["code"] == "not-found"
        assert crew.daemons[1].call("show", tag=f"known/{number}.b")["state"] == "stored"


def test_an_open_file_stays_what_it_was_while_others_write_its_name(crew: Crew) -> None:
    fs = UpswarmFileSystem(**url_options(crew))
    fs.pipe_file("steady.txt", b"first")
    with fs.open("steady.txt", "rb") as opened:
        fs.pipe_file("steady.txt", b"later")
        assert opened.read() == b"first"
    assert fs.cat_file("steady.txt") == b"later"


def test_what_cannot_be_is_said(crew: Crew) -> None:
    fs = UpswarmFileSystem(**url_options(crew))
    fs.pipe_file("there.txt", b"x")
    with pytest.raises(FileNotFoundError):
        fs.cat_file("nobody/has/this")
    with pytest.raises(NotImplementedError):
        fs.open("there.txt", "ab")
    with pytest.raises(FileNotFoundError):
        fs.rm_file("nobody/has/this")
    with pytest.raises(NotImplementedError):
        fs.cp_file("there.txt", "elsewhere.txt")
    with pytest.raises(ConnectionError):
        UpswarmFileSystem(home=str(crew.folder / "nobody")).cat_file("there.txt")


def test_what_was_written_is_removed_and_may_be_written_again(crew: Crew) -> None:
    fs = UpswarmFileSystem(**url_options(crew))
    fs.pipe_file("gone/a.txt", b"a file to remove")
    fs.pipe_file("gone/b.txt", b"another one")
    tag = fs.info("gone/a.txt")["tag"]
    fs.rm("gone/a.txt")
    assert not fs.exists("gone/a.txt") and fs.ls("gone", detail=False) == ["gone/b.txt"]
    assert tag not in {row["tag"] for row in crew.storage.call("ls")["files"]}
    with pytest.raises(FileNotFoundError):
        fs.cat_file("gone/a.txt")
    fs.pipe_file("gone/a.txt", b"a file to remove")
    assert fs.cat_file("gone/a.txt") == b"a file to remove"
    fs.rm("gone", recursive=True)
    assert not fs.exists("gone")


def test_what_another_machine_put_is_not_removed(crew: Crew) -> None:
    UpswarmFileSystem(**url_options(crew)).pipe_file("theirs.txt", b"put by the first machine")
    other = UpswarmFileSystem(**url_options(crew, 1))
    with pytest.raises((PermissionError, FileNotFoundError)):
        other.rm_file("theirs.txt")
    assert other.cat_file("theirs.txt") == b"put by the first machine"


def test_the_client_for_trio_puts_follows_reads_and_gets(crew: Crew) -> None:
    file = crew.file("by-trio.bin", 3 * MIB, seed=82)
    told: list[str] = []

    async def story() -> None:
        async def progress(_method: str, params: dict[str, Any]) -> None:
            told.append(params["state"])

        home = Path(crew.daemons[0].home)
        with trio.fail_after(60):
            async with await connect(home) as daemon, await connect(home) as other:
                async with aclosing(other.follow_events()) as events:
                    (result,) = (await daemon.put([file], name="by-trio", progress=progress))["results"]
                    async for event in events:
                        if event.get("tag") == result["tag"] and event["event"] == "put stored":
                            break
                tag = str(result["tag"])
                shown = await daemon.show(tag)
                assert (shown["size"], shown["state"], shown["name"]) == (3 * MIB, "stored", "by-trio")
                assert UpswarmFileSystem(**url_options(crew)).info(tag)["size"] == 3 * MIB
                assert await daemon.read(tag, MIB - 5, 10) == file.read_bytes()[MIB - 5 : MIB + 5]
                got = await daemon.get(tag, crew.folder / "by-trio.back")
                assert Path(got["path"]).read_bytes() == file.read_bytes()
                assert any(row["tag"] == tag for row in await daemon.list_files(local=True))

    trio.run(story)
    assert told[-1] == "stored"


def test_a_cancelled_call_of_the_client_for_trio_leaves_the_daemon_well(crew: Crew) -> None:
    async def story() -> None:
        home = Path(crew.daemons[0].home)
        async with await connect(home) as waiting:
            with trio.move_on_after(0.2) as scope:
                await waiting.call("events", {"follow": True})
            assert scope.cancelled_caught
            with pytest.raises(CommandError):
                await waiting.status()
        async with await connect(home) as daemon:
            with trio.fail_after(30):
                assert (await daemon.status())["node"] == crew.daemons[0].node

    trio.run(story)


def received(daemon: Program) -> int:
    """Return bytes of chunks that came and were of use; at the end of a file the same may be asked of two."""
    traffic = daemon.call("status")["traffic"]
    return int(traffic["received_bytes"] - traffic["wasted_bytes"])
