"""What all tests share: how hypothesis draws, a real runtime, and a throwaway swarm.

``steady`` draws the same examples in every run, so that a red run is about the change and nothing else. ``explore``
draws new ones: ``HYPOTHESIS_PROFILE=explore make test``; what it finds becomes an ``@example`` or a test.
"""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings
from support.swarm import SwarmCa

from runtime.real import real_runtime
from runtime.seam import Runtime

# No deadline for one example, and none for drawing it: test machines share their cores with other work.
settings.register_profile(
    "steady", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "explore", max_examples=2000, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

# A shell that starts us with "&" has us ignore these, and our children would do so, too: nothing could be interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def runtime() -> Runtime:
    """This machine."""
    return real_runtime()


@pytest.fixture(scope="session")
def swarm_ca() -> SwarmCa:
    """A swarm that ends with the tests."""
    return SwarmCa()
