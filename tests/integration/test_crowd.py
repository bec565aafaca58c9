"""The crowd on lines of real width: what bench/crowd.py measures, small, with bounds that a busy machine keeps.

Each host is a network namespace (bench/testbed.py), so this needs root, as test_lan.py does.
"""

from __future__ import annotations

import pytest

from bench.scenarios import Options, Result, run_scenario

pytestmark = pytest.mark.timing


def run(scenario: str, *, mib: int = 48, mbit: float = 20.0) -> Result:
    (result,) = run_scenario(scenario, Options(mib=mib, mbit=mbit, nodes=5, rival=False, keep_logs=None))
    print(
        f"{scenario}: {result.stored_seconds} s, bound {result.bound_seconds:.2f} s, sent {result.sent}\n{result.lines}"
    )
    assert result.stored_seconds is not None, "never stored"
    return result


def test_lines_of_idle_neighbours_carry_the_upload_too() -> None:
    result = run("relays")
    assert result.ratio <= 1.6, "alone it would be 5"
    assert result.wasted_bytes <= 0.02 * result.mib * 1024**2
    for name, (to_storage, _) in result.sent.items():
        assert to_storage >= 0.1 * result.mib * 1024**2, name


def test_the_uploader_sends_a_file_that_everybody_fetches_about_once() -> None:
    result = run("crowd", mib=32)
    assert result.uploader_share <= 1.2
    assert result.ratio <= 1.3


def test_the_upload_survives_an_uploader_that_leaves_when_it_may() -> None:
    result = run("free", mib=24)
    assert result.free_seconds is not None and result.free_seconds <= 1.3 * result.bound_seconds
