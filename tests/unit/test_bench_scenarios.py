"""The crowd's scenarios hold together before anybody builds their networks, for which one has to be root."""

from __future__ import annotations

import pytest

from bench.scenarios import SCENARIOS, Options, _watched_lines
from protocol.limits import MIB


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_time_line_shows_only_lines_that_there_are(name: str) -> None:
    scene = SCENARIOS[name](Options(mib=64, mbit=20.0, nodes=5, rival=False, keep_logs=None))
    own = {host.name for host in scene.hosts if not host.behind_lan} | {f"{one.lan}-router" for one in scene.routers}
    assert {line for line, _, _ in _watched_lines(scene)} <= own


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_bound_is_that_of_lines_that_there_are(name: str) -> None:
    scene = SCENARIOS[name](Options(mib=64, mbit=20.0, nodes=5, rival=False, keep_logs=None))
    assert set(scene.useful) <= {host.name for host in scene.hosts} | {router.lan for router in scene.routers}
    assert 0 < scene.bound_seconds(64 * MIB) <= 30
