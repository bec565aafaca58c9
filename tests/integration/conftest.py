"""What integration tests share: swarms that are gone after the test, and their logs when the test fails."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from support.bucket import BUCKET, Bucket
from support.crew import Crew
from support.processes import Swarm
from support.seaweed import Seaweed, running_seaweed


@pytest.fixture
def swarm() -> Iterator[Swarm]:
    """A folder for processes; every one of them is killed in the end."""
    with Swarm() as swarm:
        yield swarm


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    """A tracker, a storage node and two daemons for all tests of a file that leave them as they were."""
    with Swarm() as swarm:
        yield Crew.of(swarm, daemons=2)


@pytest.fixture(scope="module")
def seaweed() -> Iterator[Seaweed]:
    """A real S3 server with our bucket, for all tests of a file."""
    with running_seaweed() as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture
def bucket(seaweed: Seaweed) -> Iterator[Bucket]:
    """The bucket with other eyes than ours."""
    with contextlib.closing(Bucket(seaweed)) as bucket:
        yield bucket


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Show the ends of all logs when a test failed."""
    report = yield
    if report.failed:
        for thing in getattr(item, "funcargs", {}).values():
            swarm = thing.swarm if isinstance(thing, Crew) else thing
            if isinstance(swarm, Swarm) and swarm.folder.exists():
                report.sections.append(("logs of the swarm", swarm.log_tails()))
    return report
