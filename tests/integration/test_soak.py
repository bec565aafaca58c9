"""Chaos: put, SIGKILL a random process at a random moment, start it again; the file ends stored and identical.

``make soak`` runs a thousand rounds (UPSWARM_SOAK_ROUNDS says how many, UPSWARM_SOAK_MIB of what size), the ordinary
run five. UPSWARM_SOAK_SEED draws the same story again; what the processes do in between is theirs.
"""

from __future__ import annotations

import os
import random
import time

import pytest
from support.crew import Crew, acknowledged_bytes, put, share, wait_stored
from support.files import MIB, same_bytes, tag_by_hand
from support.processes import Program, Swarm, wait_until

ROUNDS = 1000
SIZE_MIB = 64
# Two uplinks: alone 64 MiB take 5.4 s, with the helper half of it, so that every kill falls into the upload.
UPLINK = "100mbit"
KILL_SECONDS_MAX_PER_MIB = 2.5 / 64
# What the last requests may bring twice, when two are asked for the same block.
TAIL_BYTES_MAX = 4 * MIB
# A killed sender's or receiver's chunks that were begun and not acknowledged.
WINDOW_BYTES_MAX = 16 * MIB
ROUND_SECONDS_MAX = 90.0


def play(swarm: Swarm, rounds: int) -> None:
    """The story."""
    seed = int(os.environ.get("UPSWARM_SOAK_SEED") or random.SystemRandom().getrandbits(32))
    print(f"UPSWARM_SOAK_SEED={seed}")
    story = random.Random(seed)
    size_bytes = int(os.environ.get("UPSWARM_SOAK_MIB") or SIZE_MIB) * MIB
    crew = Crew.of(swarm, daemons=2, up_bytes_per_second=UPLINK)
    for number in range(rounds):
        play_round(crew, story, number, size_bytes)


def play_round(crew: Crew, story: random.Random, number: int, size_bytes: int) -> None:
    """One file, one kill."""
    uploader, helper = story.sample(crew.daemons, 2)
    victim: Program = story.choice([crew.tracker, crew.storage, uploader, helper])
    moment = story.uniform(0, KILL_SECONDS_MAX_PER_MIB * size_bytes / MIB)
    pause = story.choice([0, 0, story.uniform(0, 2)])
    helped = story.random() < 0.7
    print(f"round {number}: kill {victim} after {moment:.2f} s, start it {pause:.2f} s later, helped: {helped}")
    file = crew.file(f"round-{number}.bin", size_bytes, story.getrandbits(32))
    tag = tag_by_hand(file)
    if helped:
        share(helper, file)
    received = crew.storage.counter("received_bytes")
    begun = put(uploader, file, wait="no")
    # No condition to wait for: the moment is the point.
    time.sleep(moment)
    victim.kill()
    acknowledged = acknowledged_bytes(crew.storage, tag)
    time.sleep(pause)
    victim.start()
    wait_stored(crew.storage, tag, ROUND_SECONDS_MAX)
    assert same_bytes(crew.object_of(tag), file)
    if victim is crew.storage:
        assert crew.storage.counter("received_bytes") <= size_bytes - acknowledged + TAIL_BYTES_MAX
    else:
        window = WINDOW_BYTES_MAX if victim in (uploader, helper) else 0
        assert crew.storage.counter("received_bytes") - received <= size_bytes + TAIL_BYTES_MAX + window
    wait_until(
        lambda: uploader.logged("put stored", id=begun["id"]), f"{uploader} knows that {begun['id']} is stored", 60
    )
    file.unlink()
    crew.object_of(tag).unlink()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_five_files_survive_five_kills(swarm: Swarm) -> None:
    play(swarm, 5)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_every_file_survives_every_kill(swarm: Swarm) -> None:
    play(swarm, int(os.environ.get("UPSWARM_SOAK_ROUNDS") or ROUNDS))
