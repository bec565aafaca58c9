"""Hypothesis draws what goes wrong, and shrinks what broke a promise to the little that matters."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from simulation import planted
from simulation.replay import SeedFailed, live_through
from simulation.schedule import CHAOS_SECONDS, DEEDS, FAULTS, Deed, Fault, Schedule
from simulation.world import Shape

SHAPES = st.sampled_from((Shape(2, 1), Shape(3, 2), Shape(2, 1, tls=True)))
MOMENTS = st.integers(0, int(CHAOS_SECONDS * 10)).map(lambda tenths: tenths / 10)
FAULT = st.builds(
    Fault,
    at=MOMENTS,
    kind=st.sampled_from(sorted(set(FAULTS))),
    host=st.integers(0, 7),
    seconds=st.integers(1, 120).map(lambda tenths: tenths / 10),
)
DEED = st.builds(
    Deed, at=MOMENTS, kind=st.sampled_from(sorted(set(DEEDS))), daemon=st.integers(0, 5), content=st.integers(0, 6)
)
SCHEDULE = st.builds(
    Schedule,
    shape=SHAPES,
    faults=st.lists(FAULT, max_size=8).map(tuple),
    deeds=st.lists(DEED, min_size=1, max_size=6).map(tuple),
    uplinks=st.tuples(st.sampled_from((1e5, 5e5, 2e6))),
    nat=st.none() | st.integers(0, 3),
)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1000), schedule=SCHEDULE)
def test_every_promise_holds_whatever_is_drawn(seed: int, schedule: Schedule) -> None:
    live_through(seed, schedule)


# Two daemons and a storage node that are drawn often enough to meet, on lines so slow that uploads take a while.
SMALL = st.builds(
    Schedule,
    shape=st.just(Shape(2, 1)),
    faults=st.lists(
        st.builds(
            Fault,
            at=MOMENTS,
            kind=st.sampled_from(("kill", "power", "stop", "reset", "slow", "skew")),
            host=st.integers(0, 3),
            seconds=st.just(1.0),
        ),
        max_size=8,
    ).map(tuple),
    deeds=st.lists(
        st.builds(
            Deed,
            at=st.integers(0, 10).map(float),
            kind=st.sampled_from(("put", "share", "limit")),
            daemon=st.integers(0, 1),
            content=st.sampled_from((0, 5, 6)),
        ),
        min_size=1,
        max_size=5,
    ).map(tuple),
    uplinks=st.just((1e5,)),
)


def test_failing_schedule_is_shrunk_to_what_matters() -> None:
    failed: list[Schedule] = []

    @settings(
        max_examples=60,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(schedule=SMALL)
    def hunt(schedule: Schedule) -> None:
        try:
            live_through(0, schedule)
        except SeedFailed:
            failed.append(schedule)
            raise

    with planted.resume_forgets_durable_chunks(), pytest.raises(SeedFailed):
        hunt()
    # Forgotten at a restart: one put, and one end of the storage node, is all it takes.
    smallest = failed[-1]
    assert [(fault.kind, fault.host) for fault in smallest.faults] in ([("kill", 2)], [("power", 2)], [("stop", 2)])
    assert [deed.kind for deed in smallest.deeds] == ["put"]
