"""The index in Redis keeps the contract of all indexes, against a real server; and what only a shared one must do."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import trio
from contract.index_contract import (
    OTHER,
    PATIENCE,
    PEER,
    STORE,
    TAG,
    IndexContract,
    MakeIndex,
    beat,
    holding,
    profile,
    said,
    update,
)
from support.pairs import node, some_tag
from support.redis_server import PASSWORD, RedisProcess, running_redis

from protocol.errors import StorageUnavailable
from protocol.ids import NodeId, Role
from runtime.redis import RedisAddress, RedisServer
from tracker.index.base import HOLDINGS_MAX, Index, Patience, Standing
from tracker.index.redis import RedisIndex

_swarms = itertools.count()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    with running_redis() as server:
        yield server


@pytest.fixture
async def server(redis: RedisProcess) -> AsyncIterator[RedisServer]:
    server = RedisServer(RedisAddress.parse(redis.address), PASSWORD)
    async with trio.open_nursery() as connection:
        await connection.start(server.run)
        yield server
        connection.cancel_scope.cancel()


@pytest.fixture
def make(server: RedisServer) -> MakeIndex:
    """Each in a swarm of its own."""
    return lambda patience: RedisIndex(server, patience, swarm=f"swarm{next(_swarms)}", tracker=node("tracker"))


class TestRedisIndex(IndexContract):
    """See ``IndexContract``."""


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():  # nobody tells us
            await trio.sleep(0.05)


def two(server: RedisServer, patience: Patience = PATIENCE) -> tuple[Index, Index]:
    swarm = f"swarm{next(_swarms)}"
    return (
        RedisIndex(server, patience, swarm=swarm, tracker=node("tracker a")),
        RedisIndex(server, patience, swarm=swarm, tracker=node("tracker b")),
    )


async def test_what_one_tracker_heard_all_know(server: RedisServer) -> None:
    one, other = two(server)
    await one.arrived(profile(PEER), 0)
    await one.take(PEER, said(holding(names=("film.mkv",))), 0)
    await other.arrived(profile(STORE, Role.STORAGE), 0)
    assert await other.job(STORE, update(), 0)
    assert await one.open_tags_of(PEER, 0) == (TAG,)
    assert await other.named("film.mkv", 0) == TAG
    assert not await other.beat(profile(PEER), beat(), 0), "its inventory is known, whoever it was told"


async def test_a_link_that_has_moved_on_is_not_cut_by_the_tracker_that_lost_it(server: RedisServer) -> None:
    one, other = two(server)
    await one.arrived(profile(PEER), 0)
    await other.arrived(profile(PEER), 1)
    await one.left(PEER, 2)
    view = await one.node(PEER, 2)
    assert view is not None and view.fresh
    await other.left(PEER, 3)
    view = await one.node(PEER, 3)
    assert view is not None and view.standing is Standing.SILENT


async def test_swarms_on_one_server_know_nothing_of_each_other(make: MakeIndex) -> None:
    one, other = make(PATIENCE), make(PATIENCE)
    await one.arrived(profile(PEER), 0)
    await one.take(PEER, said(holding()), 0)
    assert await other.nodes(0) == () and await other.holders(TAG, 0) == ()


async def test_clocks_of_two_machines_need_nothing_in_common(server: RedisServer) -> None:
    swarm = f"swarm{next(_swarms)}"
    one, other = (RedisIndex(server, PATIENCE, swarm=swarm, tracker=node(name)) for name in "ab")
    await one.agree_on_time(1_000_000)
    await other.agree_on_time(5)
    await one.arrived(profile(PEER), 1_000_001)
    view = await other.node(PEER, 7)
    assert view is not None and 0 <= view.seen_seconds_ago < 2.5 and view.fresh
    view = await other.node(PEER, 7 + 13)
    assert view is not None and not view.fresh


async def test_a_clock_that_was_set_back_keeps_nobody_alive(server: RedisServer) -> None:
    (index, _) = two(server)
    await index.arrived(profile(PEER), 100_000)
    await index.sweep(0)
    assert (await index.nodes(0))[0].seen_seconds_ago == 0
    assert await index.nodes(601) == ()


async def test_everything_dies_by_itself_when_no_tracker_is_left(redis: RedisProcess, server: RedisServer) -> None:
    swarm = f"swarm{next(_swarms)}"
    index = RedisIndex(server, Patience(0.1, 0.5), swarm=swarm, tracker=node("t"))
    await index.arrived(profile(STORE, Role.STORAGE), 0)
    await index.take(STORE, said(holding(names=("a",))), 0)
    await index.job(STORE, update(OTHER), 0)
    await index.job(STORE, update(state=update().state.STORED), 0)

    def keys() -> bytes:
        return redis.say("KEYS", f"upswarm:{{{swarm}}}:*")

    assert keys().startswith(b"*9\r\n")
    await until(lambda: keys() == b"*0\r\n")


async def test_nothing_is_left_of_a_node_that_was_forgotten(redis: RedisProcess, server: RedisServer) -> None:
    swarm = f"swarm{next(_swarms)}"
    index = RedisIndex(server, PATIENCE, swarm=swarm, tracker=node("t"))
    await index.arrived(profile(STORE, Role.STORAGE), 0)
    await index.take(STORE, said(holding(names=("a",)), holding(OTHER, (0,), names=("b",))), 0)
    await index.job(STORE, update(OTHER), 0)
    assert await index.sweep(601) == (STORE,)
    assert redis.say("KEYS", f"upswarm:{{{swarm}}}:*") == b"*0\r\n"


async def test_what_one_member_can_make_the_server_remember_is_bounded(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HOLDINGS_MAX, Role.PEER, 3)
    (index, _) = two(server)
    await index.arrived(profile(PEER), 0)
    await index.arrived(profile(STORE, Role.STORAGE), 0)
    many = said(*(holding(some_tag(f"t{number}", 8)) for number in range(9)))
    for who, count in ((PEER, 3), (STORE, 9)):
        await index.take(who, many, 0)
        view = await index.node(who, 0)
        assert view is not None and view.tags == count


async def test_a_server_that_is_away_is_ours_to_say_and_comes_back_empty() -> None:
    with running_redis() as redis:
        backs = []
        server = RedisServer(RedisAddress.parse(redis.address), PASSWORD, on_back=lambda: backs.append(1))
        async with trio.open_nursery() as connection:
            await connection.start(server.run)
            index = RedisIndex(server, PATIENCE, swarm="s", tracker=node("t"))
            await index.arrived(profile(PEER), 0)
            redis.kill()
            for _ in range(3):
                with pytest.raises(StorageUnavailable):
                    await index.nodes(0)
            redis.start()
            await until(lambda: server.available)
            assert await index.nodes(0) == () and len(backs) == 2
            assert await index.beat(profile(PEER), beat(), 0), "and the inventory is wanted again"
            connection.cancel_scope.cancel()


async def test_a_server_that_hangs_costs_one_deadline_and_mixes_up_no_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.redis.ANSWER_SECONDS_MAX", 0.3)
    with running_redis() as redis:
        server = RedisServer(RedisAddress.parse(redis.address), PASSWORD)
        async with trio.open_nursery() as connection:
            await connection.start(server.run)
            index = RedisIndex(server, PATIENCE, swarm="s", tracker=node("t"))
            who = [node(f"n{number}") for number in range(20)]
            for one in who:
                await index.arrived(profile(one), 0)
            redis.pause()
            with pytest.raises(StorageUnavailable):
                await index.node(who[0], 0)
            redis.resume()
            monkeypatch.setattr("runtime.redis.ANSWER_SECONDS_MAX", 30.0)
            await until(lambda: server.available)
            met: dict[NodeId, NodeId] = {}

            async def ask(one: NodeId) -> None:
                view = await index.node(one, 0)
                assert view is not None
                met[one] = view.node

            async with trio.open_nursery() as askers:
                for one in who:
                    askers.start_soon(ask, one)
            assert met == {one: one for one in who}
            connection.cancel_scope.cancel()


async def test_a_server_without_memory_counts_as_away_until_it_has_some() -> None:
    with running_redis("--maxmemory-policy", "noeviction") as redis:
        server = RedisServer(RedisAddress.parse(redis.address), PASSWORD)
        async with trio.open_nursery() as connection:
            await connection.start(server.run)
            index = RedisIndex(server, PATIENCE, swarm="s", tracker=node("t"))
            await index.arrived(profile(PEER), 0)
            redis.say("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(StorageUnavailable):
                await index.take(PEER, said(holding()), 0)
            assert server.trouble is not None and "memory" in server.trouble
            redis.say("CONFIG", "SET", "maxmemory", "0")
            await until(lambda: server.available)
            assert await index.take(PEER, said(holding()), 0) == (TAG,)
            connection.cancel_scope.cancel()


async def test_a_wrong_password_is_a_server_that_is_away(redis: RedisProcess) -> None:
    server = RedisServer(RedisAddress.parse(redis.address), "wrong")
    async with trio.open_nursery() as connection:
        await connection.start(server.run)
        assert not server.available and "password" in (server.trouble or "")
        connection.cancel_scope.cancel()


async def test_what_is_published_is_heard_again_soon_after_the_server_is_back() -> None:
    with running_redis() as redis:
        server = RedisServer(RedisAddress.parse(redis.address), PASSWORD)
        heard: list[bytes] = []
        times: list[int] = []

        async def hear(data: bytes) -> None:
            heard.append(data)

        async with trio.open_nursery() as connection:
            await connection.start(server.run)
            connection.start_soon(server.listen, "x", hear, lambda: times.append(1))
            await until(lambda: len(times) == 1)
            await server.publish("x", b"\x00 one")
            await until(lambda: heard == [b"\x00 one"])
            redis.kill()
            # So long that a client of its own mind would have become patient.
            await trio.sleep(4)
            redis.start()
            begun = trio.current_time()
            await until(lambda: len(times) == 2)
            assert trio.current_time() - begun < 15
            await server.publish("x", b"two")
            await until(lambda: heard == [b"\x00 one", b"two"])
            connection.cancel_scope.cancel()


async def test_a_listener_is_cancelled_together_with_its_connection(redis: RedisProcess) -> None:
    # Which of the two is told first is drawn by trio; a stop of a tracker must be silent either way.
    for _ in range(30):
        server = RedisServer(RedisAddress.parse(redis.address), PASSWORD)
        listening = trio.Event()

        async def hear(data: bytes) -> None:
            raise AssertionError(data)

        async with trio.open_nursery() as connection:
            await connection.start(server.run)
            connection.start_soon(server.listen, "x", hear, listening.set)
            await listening.wait()
            connection.cancel_scope.cancel()
        assert connection.cancel_scope.cancelled_caught
