"""On a line of real width: help that makes way fills it, and a small packet beside it hardly notices."""

from __future__ import annotations

import pytest

from bench.courtesy import run

MBIT = 10.0


@pytest.mark.timing
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_call_beside_help_hardly_notices_and_the_line_is_full() -> None:
    idle, _rude, polite = run(MBIT, queue_milliseconds=200, seconds=10.0)
    assert polite.median_milliseconds - idle.median_milliseconds < 30.0
    assert polite.p95_milliseconds - idle.p95_milliseconds < 30.0
    assert polite.used >= 0.85
