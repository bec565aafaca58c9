"""How many may come in at once who have not proven anything, and who waits for whom."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from runtime import strangers as module
from runtime.strangers import STRANGERS_PER_HOST_MAX, WAIT_SECONDS_MAX, Strangers, origin


class Crowd:
    """Strangers who stay until they are told to go; ``answers`` has, in their order, who was let in or sent away."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.strangers = Strangers()
        self.answers: list[tuple[str, bool]] = []
        self.leave: dict[str, trio.CancelScope] = {}
        self._nursery = nursery

    async def come(self, *remotes: str) -> None:
        for remote in remotes:
            self._nursery.start_soon(self._visit, remote)
            await wait_all_tasks_blocked()

    async def _visit(self, remote: str) -> None:
        with trio.CancelScope() as self.leave[remote]:
            async with self.strangers.admit(remote) as admitted:
                self.answers.append((remote, admitted))
                if admitted:
                    await trio.sleep_forever()

    async def go(self, *remotes: str) -> None:
        for remote in remotes:
            self.leave[remote].cancel()
            await wait_all_tasks_blocked()


def office(count: int, first: int = 0) -> list[str]:
    return [f"10.0.0.1:{number}" for number in range(first, first + count)]


async def test_who_finds_all_places_of_his_host_taken_comes_in_when_one_goes_the_first_first(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery)
        inside, outside = office(STRANGERS_PER_HOST_MAX), office(3, first=1000)
        await crowd.come(*inside, *outside)
        assert crowd.answers == [(one, True) for one in inside]
        assert crowd.strangers.waiting == 3
        await crowd.come("10.0.0.2:1")
        assert crowd.answers.pop() == ("10.0.0.2:1", True), "another host does not wait"
        await crowd.go(outside[0], inside[5])
        assert crowd.answers[len(inside) :] == [(outside[1], True)], "one of those who wait has gone meanwhile"
        await crowd.come("10.0.0.1:9999")
        await crowd.go(inside[6])
        assert crowd.answers[-1] == (outside[2], True)
        assert crowd.strangers.hosts["10.0.0.1"] == STRANGERS_PER_HOST_MAX
        nursery.cancel_scope.cancel()
    assert crowd.strangers == Strangers()


async def test_nobody_waits_longer_than_the_dialler_does(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery)
        await crowd.come(*office(STRANGERS_PER_HOST_MAX))
        begun = trio.current_time()
        await crowd.come("10.0.0.1:9999")
        while crowd.answers[-1] != ("10.0.0.1:9999", False):
            assert trio.current_time() <= begun + WAIT_SECONDS_MAX
            await trio.sleep(0.5)
        assert trio.current_time() >= begun + WAIT_SECONDS_MAX and crowd.strangers.waiting == 0
        nursery.cancel_scope.cancel()
    assert crowd.strangers == Strangers()


async def test_a_place_that_was_given_to_one_who_is_stopped_in_that_moment_is_free_again() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery)
        inside = office(STRANGERS_PER_HOST_MAX)
        await crowd.come(*inside, "10.0.0.1:9998", "10.0.0.1:9999")
        crowd.leave[inside[0]].cancel()
        crowd.leave["10.0.0.1:9998"].cancel()
        await wait_all_tasks_blocked()
        assert crowd.answers[-1] == ("10.0.0.1:9999", True)
        assert crowd.strangers.total == STRANGERS_PER_HOST_MAX and crowd.strangers.waiting == 0
        nursery.cancel_scope.cancel()
    assert crowd.strangers == Strangers()


async def test_the_line_is_bounded_and_so_are_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRANGERS_MAX", 2)
    monkeypatch.setattr(module, "STRANGERS_PER_HOST_MAX", 1)
    monkeypatch.setattr(module, "WAITING_MAX", 1)
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery)
        await crowd.come("10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.1:2", "10.0.0.2:2")
        assert crowd.answers == [
            ("10.0.0.1:1", True),
            ("10.0.0.2:1", True),
            ("10.0.0.3:1", False),
            ("10.0.0.2:2", False),
        ]
        assert crowd.strangers.waiting == 1
        nursery.cancel_scope.cancel()
    assert crowd.strangers == Strangers()


def test_an_ipv6_network_counts_as_one_host() -> None:
    assert origin("[2001:db8::1]:5") == origin("[2001:db8::ffff:2]:6") == "2001:db8::/64"
    assert origin("[::ffff:192.0.2.1]:5") == origin("192.0.2.1:7") == "192.0.2.1"
    assert origin("[fe80::1%eth0]:5") == origin("[fe80::2%eth0]:5")
    assert origin("host.example:1") == "host.example"
