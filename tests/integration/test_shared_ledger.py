"""Two storage nodes, one ledger in PostgreSQL, one bucket: whoever is killed or frozen, the other one finishes."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import pytest
from support.bucket import Bucket, on_s3
from support.crew import Crew, get, put, wait_connected, wait_stored
from support.files import MIB, digest_of, same_bytes, tag_by_hand
from support.postgres import PASSWORD, Postgres, running_postgres
from support.processes import Program, Swarm, wait_until
from support.seaweed import Seaweed

LEASE_SECONDS = 3
STORED_SECONDS_MAX = 120.0
# So slow that what is killed is killed in the middle.
UPLINK = "100mbit"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


class Pair:
    """A swarm with two storage nodes; its first is the crew's."""

    def __init__(self, swarm: Swarm, seaweed: Seaweed, postgres: Postgres) -> None:
        tracker = swarm.tracker()
        self.ledger = postgres.new_database()
        prefix = f"{self.ledger.rpartition('/')[2]}/"
        self.postgres = postgres
        self.prefix = prefix
        self.nodes = [
            on_s3(
                swarm.join(swarm.add_storage(name)),
                seaweed.endpoint,
                self.ledger,
                s3_prefix=prefix,
                lease_seconds=str(LEASE_SECONDS),
            ).start()
            for name in ("one", "two")
        ]
        daemon = swarm.daemon("d0", up_bytes_per_second=UPLINK)
        self.crew = Crew(swarm, tracker, self.nodes[0], [daemon])
        for program in (*self.nodes, daemon):
            wait_connected(program)

    @property
    def daemon(self) -> Program:
        return self.crew.daemons[0]

    def owner_of(self, tag: str) -> Program | None:
        """Whose the open job is, by the ledger."""
        rows = self.postgres.ask(
            f"SELECT owner FROM leases JOIN jobs USING (tag) WHERE state = 'open' AND tag = '{_key(tag)}'", self.ledger
        )
        return next((node for node in self.nodes if rows and node.node == rows[0][0]), None)

    def durable(self, tag: str) -> int:
        """How many chunks are acknowledged, by the ledger."""
        rows = self.postgres.ask(
            f"SELECT bit_count(durable) FROM jobs WHERE state = 'open' AND tag = '{_key(tag)}'", self.ledger
        )
        return int(str(rows[0][0])) if rows else 0

    def other(self, node: Program) -> Program:
        return self.nodes[1 - self.nodes.index(node)]


def _key(tag: str) -> str:
    root, _, chunks = tag.rpartition("-")
    return f"\\x{root}{int(chunks):08x}"


def play(pair: Pair, bucket: Bucket, rounds: int, story: random.Random) -> None:
    """Files, and a kill of one of two storage nodes in each; it is back after its job was taken over, or sooner."""
    bucket.prefix = pair.prefix
    for number in range(rounds):
        size = 66 * MIB + story.randrange(24 * MIB)
        file = pair.crew.file(f"round {number}", size, story.getrandbits(32))
        tag = tag_by_hand(file)
        parts = story.randrange(8)
        late = story.random() < 0.5
        put(pair.daemon, file, wait="no", name=f"name {number}")
        owner = wait_until(lambda tag=tag: pair.owner_of(tag), f"somebody has the job of round {number}")
        wait_until(
            lambda tag=tag, parts=parts: bucket.has(tag) or pair.durable(tag) >= parts,
            f"{parts} chunks are durable",
            STORED_SECONDS_MAX,
        )
        print(f"round {number}: kill {owner} after {parts} chunks of {size >> 20} MiB, back late: {late}")
        owner.kill()
        if late:
            other = pair.other(owner)
            wait_until(
                lambda tag=tag, other=other: bucket.has(tag) or pair.owner_of(tag) is other,
                "the other one has the job",
                STORED_SECONDS_MAX,
            )
        owner.start()
        wait_connected(owner)
        for node in pair.nodes:
            wait_stored(node, tag, STORED_SECONDS_MAX)
        assert bucket.digest(tag) == digest_of(file) and bucket.tag(tag) == tag
        file.unlink()
    # What was begun in the moment of a kill is aborted after two leases.
    wait_until(lambda: not bucket.uploads(), "no upload is left behind", 60)
    for node in pair.nodes:
        assert not list((node.data / "spool").iterdir())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_either_node_finishes_what_the_other_one_was_killed_over(
    swarm: Swarm, seaweed: Seaweed, postgres: Postgres, bucket: Bucket
) -> None:
    pair = Pair(swarm, seaweed, postgres)
    play(pair, bucket, 3, random.Random(int(os.environ.get("UPSWARM_SOAK_SEED") or 11)))
    # Both know the names, and nobody printed a password.
    for node in pair.nodes:
        assert any(row.get("name") == "name 2" or "name 2" in row.get("names", []) for row in node.call("ls")["files"])
        assert PASSWORD not in node.log_path.read_text()
        assert PASSWORD not in node.upswarm("config", "show", "storage").stdout


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_thirty_kills_of_one_of_two_nodes_lose_nothing(
    swarm: Swarm, seaweed: Seaweed, postgres: Postgres, bucket: Bucket
) -> None:
    rounds = int(os.environ.get("UPSWARM_SOAK_ROUNDS") or 30)
    seed = int(os.environ.get("UPSWARM_SOAK_SEED") or random.SystemRandom().getrandbits(32))
    print(f"UPSWARM_SOAK_SEED={seed}")
    play(Pair(swarm, seaweed, postgres), bucket, rounds, random.Random(seed))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_owner_that_was_frozen_finds_its_job_taken_over_and_spoils_nothing(
    swarm: Swarm, seaweed: Seaweed, postgres: Postgres, bucket: Bucket
) -> None:
    pair = Pair(swarm, seaweed, postgres)
    bucket.prefix = pair.prefix
    file = pair.crew.file("film", 120 * MIB, seed=5)
    tag = tag_by_hand(file)
    put(pair.daemon, file, wait="no", name="film")
    owner = wait_until(lambda: pair.owner_of(tag), "somebody has the job")
    other = pair.other(owner)
    wait_until(lambda: pair.durable(tag) >= 2, "something is durable", STORED_SECONDS_MAX)
    durable = pair.durable(tag)
    os.kill(owner.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: pair.owner_of(tag) is other, "the other one has the job", STORED_SECONDS_MAX)
    finally:
        os.kill(owner.pid, signal.SIGCONT)
    owner.wait_logged("job abandoned", seconds=STORED_SECONDS_MAX)
    assert pair.owner_of(tag) in (other, None)
    for node in pair.nodes:
        wait_stored(node, tag, STORED_SECONDS_MAX)
    assert bucket.digest(tag) == digest_of(file) and bucket.tag(tag) == tag
    wait_until(lambda: not bucket.uploads(), "no upload is left behind", 60)
    # What the first one had acknowledged did not come a second time.
    assert other.counter("received_bytes") <= 120 * MIB - (durable - 1) * 8 * MIB
    assert same_bytes(pair.crew.folder / "back", file) if get(pair.daemon, tag, pair.crew.folder / "back") else False


@pytest.mark.slow
def test_a_database_that_is_away_for_a_while_is_waited_for(
    swarm: Swarm, seaweed: Seaweed, postgres: Postgres, bucket: Bucket
) -> None:
    pair = Pair(swarm, seaweed, postgres)
    bucket.prefix = pair.prefix
    file = pair.crew.file("film", 80 * MIB, seed=6)
    tag = tag_by_hand(file)
    put(pair.daemon, file, wait="no")
    owner = wait_until(lambda: pair.owner_of(tag), "somebody has the job")
    wait_until(lambda: pair.durable(tag) >= 1, "something is durable", STORED_SECONDS_MAX)
    postgres.stop()
    owner.wait_logged("ledger is asked again")
    postgres.start()
    for node in pair.nodes:
        wait_stored(node, tag, STORED_SECONDS_MAX)
    assert bucket.digest(tag) == digest_of(file)
