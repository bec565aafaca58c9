"""Memory: a file of four gibibytes passes through a daemon and a storage node that stay small."""

from __future__ import annotations

import pytest
from support.crew import Crew
from support.files import MIB, make_sparse_mix, same_bytes
from support.processes import Swarm, wait_until

SIZE_BYTES = 4096 * MIB
DAEMON_BYTES_MAX = 150_000_000
STORAGE_BYTES_MAX = 200_000_000


@pytest.mark.timing
@pytest.mark.slow
@pytest.mark.timeout(420)
def test_four_gibibytes_pass_through_little_memory(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1)
    (daemon,) = crew.daemons
    file = make_sparse_mix(swarm.folder / "huge.bin", SIZE_BYTES)
    highest = {daemon: 0, crew.storage: 0}
    putting = daemon.begin("put", file, "--json")

    def ended() -> bool:
        for program in highest:
            highest[program] = max(highest[program], program.resident_bytes())
        return not putting.running

    wait_until(ended, "the file is stored", 300, pause=0.1)
    done = putting.wait()
    megabytes = {program.name: round(value / 1e6) for program, value in highest.items()}
    print(f"{done.json['seconds']} s, {SIZE_BYTES / 1e6 / done.json['seconds']:.0f} MB/s, highest RSS {megabytes} MB")
    assert done.exit_code == 0 and done.json["state"] == "stored"
    assert highest[daemon] < DAEMON_BYTES_MAX, megabytes
    assert highest[crew.storage] < STORAGE_BYTES_MAX, megabytes
    assert same_bytes(crew.object_of(done.json["tag"]), file)
