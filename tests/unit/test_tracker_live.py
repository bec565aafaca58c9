"""Live pages: a whole picture first, then changes; one painting for all; dropped, not queued, for slow readers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.page_world import ADA, BERT, FILM, PageWorld

from protocol.jobmap import ChunkState, code_of
from protocol.messages import JobState
from runtime.http import HttpServer
from runtime.real import RealClock
from tracker.page import live
from tracker.page.live import Channel, Live
from tracker.page.picture import Change, Picture, applied, difference, whole

pieces = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["<p>1</p>", "<p>2</p>"]), max_size=4)
pictures = st.builds(
    lambda title, one, other, cells: Picture(
        title=title,
        # A piece lives in one region: ids are those of a document.
        regions={
            "one": tuple((f"one-{key}", html) for key, html in one.items()),
            "other": tuple((f"other-{key}", html) for key, html in other.items()),
        },
        values={"cells": cells},
    ),
    st.sampled_from(["", "busy"]),
    pieces,
    pieces,
    st.dictionaries(st.sampled_from("0123"), st.sampled_from(["m", "s c0"]), max_size=4),
)


def picture(*words: str, title: str = "t") -> Picture:
    return Picture(title=title, regions={"jobs": tuple((word, f"<p id={word}>{word}</p>") for word in words)})


# --- pictures ---


@given(pictures, pictures)
def test_a_change_makes_one_picture_of_the_other(old: Picture, new: Picture) -> None:
    made = applied(old, difference(old, new))
    assert (made.title, dict(made.regions), made.values) == (new.title, dict(new.regions), new.values)


@given(pictures)
def test_a_whole_picture_needs_nothing_before_it_and_the_same_one_changes_nothing(new: Picture) -> None:
    made = applied(Picture(title="", regions={}), whole(new))
    assert (made.title, dict(made.regions)) == (new.title, dict(new.regions))
    assert {name: values for name, values in made.values.items() if values} == {
        name: values for name, values in new.values.items() if values
    }
    assert difference(new, new).empty


def test_a_change_names_only_what_looks_different() -> None:
    old = Picture(title="t", regions={"jobs": (("a", "1"), ("b", "1"))}, values={"cells": {"0": "m", "1": "m"}})
    new = Picture(title="t", regions={"jobs": (("a", "1"), ("b", "2"))}, values={"cells": {"0": "m", "1": "s"}})
    assert difference(old, new) == Change(title=None, order={}, html={"b": "2"}, set={"cells": {"1": "s"}}, gone={})


# --- channels ---


def kind(event: bytes | None) -> str | None:
    return None if event is None else event.split(b"\n")[0].decode().removeprefix("event: ")


def test_who_missed_a_change_gets_the_whole_newest_picture() -> None:
    channel = Channel()
    assert channel.news_for(0) is None
    channel.show(picture("a"))
    assert kind(channel.news_for(0)) == "whole" and channel.news_for(1) is None
    channel.show(picture("a", "b"))
    assert kind(channel.news_for(1)) == "change"
    channel.show(picture("b", "c"))
    late = channel.news_for(1)
    assert kind(late) == "whole" and late is not None and b"<p id=c>" in late and b"<p id=a>" not in late


def test_a_picture_that_looks_the_same_is_no_news() -> None:
    channel = Channel()
    channel.show(picture("a"))
    channel.show(picture("a"))
    assert channel.version == 1 and channel.news_for(1) is None


class Painted:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.times = 0
        self.gone = False
        self.broken = False

    async def paint(self, _view: str, what: str) -> Picture | None:
        self.times += 1
        if self.broken:
            raise RuntimeError("cannot paint")
        return None if self.gone else picture(f"{what}{self.times}")


class TrioClock(RealClock):
    def monotonic(self) -> float:
        return trio.current_time()


async def next_event(events: AsyncIterator[bytes]) -> tuple[str, Any]:
    with trio.fail_after(60):
        while True:
            event = await anext(events)
            if event.startswith(b"event: "):
                name, _, data = event.decode().partition("\n")
                return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


async def test_all_readers_of_a_view_share_one_painting_a_second(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    painted = Painted()
    hub = Live(TrioClock(), painted.paint)
    await nursery.start(hub.run)
    readers = [hub.read("job", "x") for _ in range(50)]
    for reader in readers:
        assert (await next_event(reader))[0] == "whole"
    assert painted.times == 1 and hub.readers == 50
    for reader in readers:
        assert (await next_event(reader))[0] == "change"
    assert painted.times == 2
    for reader in readers:
        await reader.aclose()
    assert hub.readers == 0
    await trio.sleep(5)
    assert painted.times == 2, "nobody looks: nothing is painted"
    nursery.cancel_scope.cancel()


async def test_a_reader_that_sleeps_makes_nothing_pile_up(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    painted = Painted()
    hub = Live(TrioClock(), painted.paint)
    await nursery.start(hub.run)
    reader = hub.read("job", "x")
    assert (await next_event(reader))[0] == "whole"
    await trio.sleep(30.5)
    name, change = await next_event(reader)
    assert name == "whole" and list(change["html"]) == [f"x{painted.times}"], "the newest, at once"
    await reader.aclose()
    nursery.cancel_scope.cancel()


async def test_painting_that_is_work_is_done_less_often(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    times: list[float] = []

    async def paint(_view: str, _what: str) -> Picture:
        times.append(trio.current_time())
        await trio.sleep(0.5)
        return picture(str(len(times)))

    hub = Live(TrioClock(), paint)
    await nursery.start(hub.run)
    reader = hub.read("overview", "")
    for _ in range(3):
        await next_event(reader)
    assert all(later - earlier >= 0.5 / live.PAINT_SHARE for earlier, later in pairwise(times))
    await reader.aclose()
    nursery.cancel_scope.cancel()


async def test_what_is_gone_is_told_and_what_cannot_be_painted_ends_only_the_page(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    painted = Painted()
    hub = Live(TrioClock(), painted.paint)
    await nursery.start(hub.run)
    reader = hub.read("job", "x")
    await next_event(reader)
    painted.gone = True
    assert await next_event(reader) == ("gone", {})
    await reader.aclose()
    painted.gone, painted.broken = False, True
    reader = hub.read("job", "x")
    with pytest.raises(StopAsyncIteration):
        await next_event(reader)
    painted.broken = False
    reader = hub.read("job", "x")
    assert (await next_event(reader))[0] == "whole"
    await reader.aclose()
    nursery.cancel_scope.cancel()


async def test_a_quiet_page_hears_that_we_are_there(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def paint(_view: str, _what: str) -> Picture:
        return picture("same")

    hub = Live(TrioClock(), paint)
    await nursery.start(hub.run)
    reader = hub.read("overview", "")
    await next_event(reader)
    begun = trio.current_time()
    assert await anext(reader) == live.SIGN
    assert trio.current_time() - begun < 2 * live.SIGN_SECONDS
    await reader.aclose()
    nursery.cancel_scope.cancel()


async def test_too_many_pages_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    world = PageWorld()
    monkeypatch.setattr(live, "READERS_MAX", 0)
    async with world.client() as client:
        answer = await client.get("/live/overview")
        assert answer.status_code == 503 and answer.headers["retry-after"] == "30"


# --- over real HTTP ---


class Stream:
    """Reads server-sent events from a socket, as a browser would; ``lines`` for a test to look at."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = b""

    async def event(self) -> tuple[str, Any]:
        with trio.fail_after(20):
            while True:
                head, found, rest = self._buffer.partition(b"\n\n")
                if found:
                    self._buffer = rest
                    lines = head.decode().split("\n")
                    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
                    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
                    if names:
                        return names[0], json.loads(data[0])
                    continue
                data = await self._stream.receive_some(65536)
                assert data, "they hung up"
                self._buffer += data


async def test_an_upload_is_followed_over_real_http_from_its_first_chunk_to_its_end() -> None:
    world = PageWorld()
    await world.is_busy()
    server = HttpServer("127.0.0.1:0")
    host, port = server.address.rsplit(":", 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.page.run)
        await nursery.start(server.run, world.page.app)
        async with await trio.open_tcp_stream(host, int(port)) as socket:
            # HTTP/1.0: no chunks between the events.
            await socket.send_all(f"GET /live/jobs/{FILM} HTTP/1.0\r\nhost: {server.address}\r\n\r\n".encode())
            stream = Stream(socket)
            name, change = await stream.event()
            assert name == "whole" and change["set"]["cells"]["7"] == "m" and "film.mkv" in change["title"]
            world.shows(*[code_of(ChunkState.STORED, 1)] * 8)
            await world.told((ADA, 5), (BERT, 3), state=JobState.STORED)
            cells: dict[str, str] = change["set"]["cells"]
            html: dict[str, str] = change["html"]
            while set(cells.values()) != {"s c0 o0"} or 'badge stored">' not in html["job-head"]:
                name, change = await stream.event()
                assert name == "change", "it reads as fast as it is told"
                cells |= change["set"].get("cells", {})
                html |= change["html"]
        nursery.cancel_scope.cancel()


async def test_open_pages_are_sent_away_when_the_tracker_stops() -> None:
    world = PageWorld()
    server = HttpServer("127.0.0.1:0")
    host, port = server.address.rsplit(":", 1)
    sockets = []
    async with trio.open_nursery() as nursery:
        await nursery.start(world.page.run)
        await nursery.start(server.run, world.page.app)
        for _ in range(20):
            socket = await trio.open_tcp_stream(host, int(port))
            await socket.send_all(f"GET /live/overview HTTP/1.0\r\nhost: {server.address}\r\n\r\n".encode())
            assert (await Stream(socket).event())[0] == "whole"
            sockets.append(socket)
        assert world.page.readers == 20
        begin = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - begin < 5
    for socket in sockets:
        await socket.aclose()


async def test_a_page_that_was_closed_is_noticed() -> None:
    world = PageWorld()
    server = HttpServer("127.0.0.1:0")
    host, port = server.address.rsplit(":", 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.page.run)
        await nursery.start(server.run, world.page.app)
        async with await trio.open_tcp_stream(host, int(port)) as socket:
            await socket.send_all(f"GET /live/overview HTTP/1.0\r\nhost: {server.address}\r\n\r\n".encode())
            await Stream(socket).event()
            assert world.page.readers == 1
        with trio.fail_after(10):
            while world.page.readers:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
