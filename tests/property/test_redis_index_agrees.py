"""The index in Redis and the one in memory, told the same, answer the same: whatever is said, in whatever order.

The one in memory is held to a plain model in test_tracker_index.py.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio
from contract.index_contract import beat, holding, profile, said, update
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.pairs import node, some_tag
from support.redis_server import PASSWORD, RedisProcess, running_redis

from protocol.ids import NodeId, Role
from protocol.messages import Holding, Inventory, JobState
from runtime.redis import RedisAddress, RedisServer
from tracker.index.base import Index, Patience
from tracker.index.memory import MemoryIndex
from tracker.index.redis import RedisIndex

PATIENCE = Patience(5, 20)
NODES = {node("p1"): Role.PEER, node("p2"): Role.PEER, node("s1"): Role.STORAGE, node("s2"): Role.STORAGE}
STORES = [who for who, role in NODES.items() if role is Role.STORAGE]
TAGS = [some_tag("a", 1), some_tag("b", 3), some_tag("c", 9)]
NAMES = ("x", "y")

Step = Callable[[Index, float], Awaitable[Any]]
_swarms = itertools.count()
# The sequence of the last message of each node that was taken.
_said: dict[NodeId, int] = {}
whoever = st.sampled_from(list(NODES))
tags = st.sampled_from(TAGS)


@st.composite
def holdings(draw: st.DrawFn) -> Holding:
    tag = draw(tags)
    chunks = draw(st.none() | st.sets(st.integers(0, tag.chunks - 1)))
    names = draw(st.lists(st.sampled_from(NAMES), max_size=2))
    return holding(tag, None if chunks is None else sorted(chunks), names=tuple(names), since=draw(st.integers(0, 3)))


@st.composite
def steps(draw: st.DrawFn) -> tuple[int, Step]:
    """Seconds to wait, and what happens then."""
    who = draw(whoever)
    kind = draw(st.sampled_from(["arrived", "left", "beat", "take", "take", "take", "job", "job", "forget", "sweep"]))
    step: Step
    if kind == "arrived":
        step = partial(_arrive, who)
    elif kind == "left":
        step = partial(_leave, who)
    elif kind == "beat":
        step = partial(_beat, who, draw(st.integers(0, 3)), draw(st.sampled_from([None, 1.0, 4.0])))
    elif kind == "take":
        held = tuple(draw(st.lists(holdings(), max_size=3, unique_by=lambda one: one.tag)))
        dropped = tuple(draw(st.lists(tags, max_size=2, unique=True)))
        # Mostly in step with what the node said before; every fifth time not.
        in_step = draw(st.integers(0, 4)) > 0
        step = partial(_take, who, said(*held, full=draw(st.booleans()), dropped=dropped), in_step)
    elif kind == "job":
        told = update(draw(tags), draw(st.sampled_from(JobState)), stored=draw(st.integers(0, 3)))
        step = partial(_job, draw(st.sampled_from(STORES)), told)
    elif kind == "forget":
        step = partial(_forget, who)
    else:
        step = _sweep
    return draw(st.sampled_from([0, 0, 0, 0, 0, 0, 1, 1, 4, 9, 21])), step


async def _arrive(who: NodeId, index: Index, now: float) -> None:
    await index.arrived(profile(who, NODES[who]), now)


async def _leave(who: NodeId, index: Index, now: float) -> None:
    await index.left(who, now)


async def _beat(who: NodeId, sequence: int, interval: float | None, index: Index, now: float) -> bool:
    return await index.beat(profile(who, NODES[who]), beat(1, sequence), now, interval_seconds=interval)


async def _take(who: NodeId, message: Inventory, in_step: bool, index: Index, now: float) -> Any:
    sequence = _said[who] + 1 if in_step else 1
    gained = await index.take(who, dataclasses.replace(message, sequence=sequence), now)
    if gained is not None and isinstance(index, MemoryIndex):  # which is told last
        _said[who] = sequence
    return gained


async def _job(who: NodeId, told: Any, index: Index, now: float) -> bool:
    return await index.job(who, told, now)


async def _forget(who: NodeId, index: Index, _now: float) -> None:
    await index.forget(who)


async def _sweep(index: Index, now: float) -> None:
    # Whom it names depends on who looked before; nothing else does.
    await index.sweep(now)


async def picture(index: Index, now: float) -> list[Any]:
    """Every question there is, and its answer."""
    answers: list[Any] = [
        await index.nodes(now),
        await index.jobs(now),
        await index.tags(now, after=None, limit=9, stored_only=False),
        await index.tags(now, after=TAGS[0], limit=1, stored_only=True),
        await index.newest_tags(now, 2),
        await index.ended_jobs(now),
        await index.counts(now),
        *[await index.named(name, now) for name in NAMES],
    ]
    for tag in TAGS:
        answers += [await index.holders(tag, now), await index.jobs_of(tag, now), await index.tag(tag, now)]
        answers.append(await index.holder(tag, STORES[0], now))
    for who in NODES:
        answers += [await index.node(who, now), await index.held_by(who, now, 2), await index.open_tags_of(who, now)]
    return answers


async def go(address: str, said_so: list[tuple[int, Step]]) -> None:
    server = RedisServer(RedisAddress.parse(address), PASSWORD)
    async with trio.open_nursery() as connection:
        await connection.start(server.run)
        shared = RedisIndex(server, PATIENCE, swarm=f"swarm{next(_swarms)}", tracker=node("t"))
        plain = MemoryIndex(PATIENCE)
        now = 0.0
        _said.update(dict.fromkeys(NODES, 0))
        for who in NODES:
            await _arrive(who, shared, now)
            await _arrive(who, plain, now)
        for number, (seconds, step) in enumerate(said_so, 1):
            now += seconds
            assert await step(shared, now) == await step(plain, now)
            if number % 5 and number < len(said_so):
                continue
            assert await picture(shared, now) == await picture(plain, now)
        connection.cancel_scope.cancel()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    with running_redis() as server:
        yield server


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(said_so=st.lists(steps(), min_size=10, max_size=25))
def test_both_answer_the_same(redis: RedisProcess, said_so: list[tuple[int, Step]]) -> None:
    trio.run(go, redis.address, said_so)
