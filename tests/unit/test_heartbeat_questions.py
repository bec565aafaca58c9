"""Questions over the tracker link: whose answer it is, which errors come of it, and what nobody misses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from support.fake_tracker import until, world
from support.pairs import some_tag
from trio.testing import MockClock

from protocol import messages as m
from protocol.errors import CommandError, LinkLost, NotFound
from runtime.heartbeat import (
    ASK_SECONDS_MAX,
)

# --- questions ---


def where(number: int) -> m.Where:
    return m.Where(request=number, tag=some_tag(), name=None, size_bytes=0, to_put=False)


def answer_where(question: m.Message) -> m.Message:
    assert isinstance(question, m.Where)
    return m.WhereAnswer(
        request=question.request,
        tag=some_tag(),
        size_bytes=1,
        name="",
        state=m.Whereabouts.NONE,
        storage=None,
        holders=(),
    )


def fail(code: str) -> Callable[[m.Message], m.Message]:
    def answer(question: m.Message) -> m.Message:
        assert isinstance(question, m.Where)
        return m.Failure(request=question.request, code=code, reason=f"sorry, {code}")

    return answer


async def test_a_question_gets_its_own_answer_whatever_the_order(autojump_clock: MockClock) -> None:
    async with world() as w:
        await w.link.wait_connected()
        asked: list[m.Where] = []
        got: list[m.WhereAnswer] = []

        def listen(question: m.Message) -> None:
            assert isinstance(question, m.Where)
            asked.append(question)

        w.tracker.answers = listen

        async def ask() -> None:
            answer = await w.link.ask(where)
            assert isinstance(answer, m.WhereAnswer)
            got.append(answer)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await until(lambda: len(asked) == 3)
            for question in reversed(asked):
                w.tracker.links[-1].post(answer_where(question))
        assert sorted(answer.request for answer in got) == sorted(question.request for question in asked)


async def test_failures_become_our_errors(autojump_clock: MockClock) -> None:
    async with world() as w:
        await w.link.wait_connected()
        w.tracker.answers = fail("not-found")
        with pytest.raises(NotFound, match="sorry"):
            await w.link.ask(where)
        w.tracker.answers = fail("refused")
        with pytest.raises(CommandError) as caught:
            await w.link.ask(where)
        assert (caught.value.code, caught.value.exit_code) == ("refused", 6)


async def test_a_question_without_answer_a_link_or_time_is_lost(autojump_clock: MockClock) -> None:
    async with world() as w:
        with pytest.raises(LinkLost, match="not connected"):
            await w.link.ask(where)
        await w.link.wait_connected()
        begun = trio.current_time()
        with pytest.raises(LinkLost, match="no answer"):
            await w.link.ask(where)
        assert trio.current_time() - begun == pytest.approx(ASK_SECONDS_MAX)
        late = w.tracker.others[-1]
        w.tracker.links[-1].post(answer_where(late))
        await trio.sleep(1)
        assert w.link.connected, "a late answer is no crime"

        async def ask_and_lose() -> None:
            with pytest.raises(LinkLost):
                await w.link.ask(where)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_and_lose)
            await trio.testing.wait_all_tasks_blocked()
            begun = trio.current_time()
            w.hub.reset_all()
        assert trio.current_time() - begun < 1, "who asks hears of the loss at once"


async def test_an_answer_of_another_kind_ends_the_link(autojump_clock: MockClock) -> None:
    async with world() as w:
        await w.link.wait_connected()

        def answer(question: m.Message) -> m.Message:
            assert isinstance(question, m.Where)
            return m.NodesAnswer(request=question.request, nodes=())

        w.tracker.answers = answer
        with pytest.raises(LinkLost):
            await w.link.ask(where)
        await until(lambda: len(w.tracker.links) == 2)


async def test_orders_reach_the_program_and_posts_reach_the_tracker(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.link.post(m.Ping(number=1))  # not connected yet: dropped
        await w.link.wait_connected()
        await until(lambda: w.tracker.links)
        order = m.Order(tag=some_tag(), target=w.tracker_node, lifetime_seconds=9)
        w.tracker.links[-1].post(order)
        await until(lambda: w.heard == [order])
        w.link.post(m.ListNodes(request=1, after=None))
        await until(lambda: w.tracker.others == [m.ListNodes(request=1, after=None)])


# --- what nobody misses ---


async def test_what_nobody_misses_goes_to_a_tracker_that_likes_it_and_while_the_link_is_idle(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = m.JobMap(tag=some_tag("film"), senders=(), runs=b"")
    posted: list[m.Message] = []
    async with world() as w:
        assert not w.link.offer(shown, "job-maps"), "not connected yet"
        await w.link.wait_connected()
        link = next(iter(w.links))
        monkeypatch.setattr(link, "post", posted.append)
        assert not w.link.offer(shown, "no such feature") and posted == []
        assert w.link.offer(shown, "job-maps") and posted == [shown]
        monkeypatch.setattr(link, "_control_bytes", 1 << 20)
        assert not w.link.offer(shown, "job-maps") and posted == [shown]
