"""Whatever a tracker orders: a stranger's door is knocked at twice in ten minutes, all doors four times a second."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.orders import (
    DIALS_BURST,
    DIALS_PER_SECOND,
    KNOWN_PAUSE_SECONDS_MAX,
    STRANGE_SECONDS,
    STRANGE_TRIES_MAX,
    KnockBudget,
)
from protocol.ids import NodeId

NODES = [NodeId(letter * 52) for letter in "abc"]
ADDRESSES = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]
ORDERS = st.lists(
    st.tuples(st.sampled_from(NODES), st.sampled_from(ADDRESSES), st.floats(0, 120), st.booleans()), max_size=200
)


@given(ORDERS)
def test_a_door_where_nobody_proved_himself_is_knocked_at_twice_in_ten_minutes(
    orders: list[tuple[NodeId, str, float, bool]],
) -> None:
    budget, now = KnockBudget(0.0), 0.0
    knocks: dict[str, list[float]] = {address: [] for address in ADDRESSES}
    for node, address, pause, strange in orders:
        now += pause
        if budget.may_dial(node, address, now):
            knocks[address].append(now)
            budget.tried(node, address, now)
            if strange:
                budget.strange(node, address, now)
    for times in knocks.values():
        for first, third in zip(times, times[STRANGE_TRIES_MAX:], strict=False):
            assert third - first >= STRANGE_SECONDS / 2, "two tries begin a period, the next two begin another one"
        in_period = [time for time in times if times and time < times[0] + STRANGE_SECONDS]
        assert len(in_period) <= STRANGE_TRIES_MAX


@given(st.lists(st.floats(0, 3), max_size=200))
def test_all_doors_together_are_knocked_at_four_times_a_second(pauses: list[float]) -> None:
    budget, now, dials = KnockBudget(0.0), 0.0, 0
    for pause in pauses:
        now += pause
        if budget.wait_seconds(now) == 0.0:
            budget.take(now)
            dials += 1
        assert dials <= DIALS_BURST + now * DIALS_PER_SECOND + 1e-6


@given(st.integers(1, 50))
def test_a_storage_node_that_proved_itself_is_tried_again_soon(failures: int) -> None:
    budget = KnockBudget(0.0)
    budget.opened(NODES[0], ADDRESSES[0])
    assert budget.may_dial(NODES[0], ADDRESSES[0], 0.0)
    for number in range(failures):
        budget.tried(NODES[0], ADDRESSES[0], float(number))
    assert not budget.may_dial(NODES[0], ADDRESSES[0], failures - 1 + 0.4)
    assert budget.may_dial(NODES[0], ADDRESSES[0], failures - 1 + KNOWN_PAUSE_SECONDS_MAX)


def test_somebody_else_at_a_known_door_makes_it_a_strange_one() -> None:
    budget = KnockBudget(0.0)
    budget.opened(NODES[0], ADDRESSES[0])
    for _ in range(STRANGE_TRIES_MAX):
        assert budget.may_dial(NODES[0], ADDRESSES[0], 100.0)
        budget.tried(NODES[0], ADDRESSES[0], 100.0)
        budget.strange(NODES[0], ADDRESSES[0], 100.0)
    assert not budget.may_dial(NODES[0], ADDRESSES[0], 200.0)
    assert not budget.may_dial(NODES[1], ADDRESSES[0], 200.0), "another name for the same door is no further try"
