"""Real processes and a real S3 server: files come to the bucket, whoever is killed or stopped on the way."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bucket import BUCKET, Bucket, crew_on, in_the_background
from support.crew import Crew, get, put, wait_connected, wait_stored
from support.fault_proxy import Fault, fault_proxy
from support.files import MIB, digest_of, same_bytes, tag_by_hand
from support.processes import Swarm, wait_until
from support.seaweed import KEYS, Seaweed, running_seaweed

COMMIT_SECONDS_MAX = 90.0


@pytest.fixture
def seaweed() -> Iterator[Seaweed]:
    with running_seaweed() as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.mark.slow
def test_files_of_every_size_come_to_the_bucket_and_back(swarm: Swarm, seaweed: Seaweed, bucket: Bucket) -> None:
    crew = crew_on(swarm, seaweed, daemons=2)
    one, other = crew.daemons
    for name, size in (("empty", 0), ("small", 3 * MIB + 7), ("large", 64 * MIB + 9 * MIB + 5)):
        file = crew.file(name, size, seed=size)
        tag = tag_by_hand(file)
        assert put(one, file, name=name)["state"] == "stored"
        assert bucket.digest(tag) == digest_of(file)
        if size > 64 * MIB:
            assert bucket.tag(tag) == tag
        # Reading goes through the storage node alone once the uploader is gone.
        one.stop()
        assert same_bytes(Path(get(other, tag, crew.folder / f"{name}.back")["path"]), file)
        one.start()
        wait_connected(one)
    # Proven from the bucket, without sending it again.
    copy = crew.file("small again", 3 * MIB + 7, seed=3 * MIB + 7)
    assert put(one, copy, name="copy")["instant"] is True
    assert bucket.uploads() == []
    assert not list((crew.storage.data / "spool").iterdir())
    for text in (crew.storage.log_path.read_text(), crew.storage.upswarm("config", "show", "storage").stdout):
        assert KEYS.secret_key not in text


@pytest.mark.slow
def test_a_store_that_is_stopped_in_mid_upload_is_waited_for(swarm: Swarm, seaweed: Seaweed, bucket: Bucket) -> None:
    crew = crew_on(swarm, seaweed)
    file = crew.file("film", 200 * MIB)
    tag = tag_by_hand(file)
    thread, results = in_the_background(crew.daemons[0], file)
    wait_until(lambda: bucket.parts(tag) >= 2, "parts are in the store", COMMIT_SECONDS_MAX)
    seaweed.stop()
    crew.storage.wait_logged("storage is asked again")
    assert not results
    seaweed.start()
    thread.join()
    assert results[0]["state"] == "stored"
    assert bucket.digest(tag) == digest_of(file) and bucket.tag(tag) == tag
    assert bucket.uploads() == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_sigkill_of_the_storage_node_during_uploads_loses_nothing_and_leaves_nothing(
    swarm: Swarm, seaweed: Seaweed, bucket: Bucket
) -> None:
    kill_rounds(crew_on(swarm, seaweed), bucket, 3, random.Random(7))


def test_wrong_keys_are_the_operators_to_mend(swarm: Swarm, seaweed: Seaweed) -> None:
    swarm.tracker()
    storage = swarm.join(swarm.add_storage("storage"))
    settings = {
        "backend": "s3",
        "s3_endpoint": seaweed.endpoint,
        "s3_bucket": BUCKET,
        "s3_access_key": KEYS.access_key,
        "s3_secret_key": "none that it knows",
    }
    storage.environment = {f"UPSWARM_STORAGE_{key.upper()}": value for key, value in settings.items()}
    storage.launch()
    wait_until(lambda: not storage.running, "it ends")
    assert storage.stop() == 2
    (line,) = storage.logged("cannot start", reason="SignatureDoesNotMatch")
    assert "look at the secret key" in line["reason"]
    assert "none that it knows" not in storage.log_path.read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_store_on_a_bad_day_gets_every_file_all_the_same(swarm: Swarm, seaweed: Seaweed, bucket: Bucket) -> None:
    with fault_proxy(seaweed.endpoint) as proxy:
        crew = crew_on(swarm, seaweed, endpoint=proxy.endpoint)
        file = crew.file("film", 120 * MIB)
        tag = tag_by_hand(file)
        proxy.next_times(3, lambda asked: asked.part == 1, Fault(500, "InternalError"))
        proxy.next_times(2, lambda asked: asked.part == 2, Fault(503, "SlowDown"))
        proxy.next_times(1, lambda asked: asked.part == 3, Fault(-1))
        proxy.next_times(1, lambda asked: asked.part == 4, Fault(seconds=3.0))
        proxy.next_times(2, lambda asked: asked.part == 5, Fault(400, "BadDigest"))
        proxy.next_times(
            2, lambda asked: asked.method == "POST" and "uploads" in asked.path, Fault(500, "InternalError")
        )
        proxy.next_times(2, lambda asked: asked.method == "POST" and "uploadId" in asked.path, Fault(503, "SlowDown"))
        assert put(crew.daemons[0], file)["state"] == "stored"
        assert bucket.digest(tag) == digest_of(file) and bucket.tag(tag) == tag
        assert bucket.uploads() == []
        assert sum(asked.part == 5 for asked in proxy.asked) == 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_part_that_the_store_refuses_for_good_is_told_and_tried_again(
    swarm: Swarm, seaweed: Seaweed, bucket: Bucket
) -> None:
    with fault_proxy(seaweed.endpoint) as proxy:
        crew = crew_on(swarm, seaweed, endpoint=proxy.endpoint)
        file = crew.file("film", 80 * MIB)
        tag = tag_by_hand(file)
        refuses = [True]
        proxy.faults.append(lambda asked: Fault(403, "AccessDenied") if refuses and asked.part == 3 else None)
        put(crew.daemons[0], file, wait="no")
        crew.storage.wait_logged("part waits", reason="AccessDenied", seconds=COMMIT_SECONDS_MAX)
        assert not bucket.has(tag)
        refuses.clear()
        wait_stored(crew.storage, tag, COMMIT_SECONDS_MAX)
        assert bucket.digest(tag) == digest_of(file) and bucket.tag(tag) == tag


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("direct", ["false", "true"])
def test_a_large_object_that_has_rotted_in_the_bucket_is_mended_by_its_rotten_chunks_alone(
    swarm: Swarm, seaweed: Seaweed, bucket: Bucket, direct: str
) -> None:
    crew = crew_on(swarm, seaweed, direct=direct)
    daemon = crew.daemons[0]
    file = crew.file("film", 80 * MIB + 5)
    tag = tag_by_hand(file)
    assert put(daemon, file, name="film")["state"] == "stored"
    rotten = bytearray(file.read_bytes())
    for chunk in (1, 10):
        rotten[8 * MIB * chunk] ^= 0x10
    bucket.client.put_object(Bucket=BUCKET, Key=bucket.key(tag), Body=bytes(rotten))
    before = daemon.sent_bytes
    done = crew.storage.upswarm("--json", "scrub", "film", check=False)
    assert done.exit_code == 8 and done.json == {"tag": tag, "chunks": 11, "rotten": [1, 10]}
    wait_stored(crew.storage, tag, COMMIT_SECONDS_MAX)
    assert bucket.digest(tag) == digest_of(file) and bucket.tag(tag) == tag
    assert bucket.uploads() == [] and not list((crew.storage.data / "spool").iterdir())
    assert daemon.sent_bytes - before <= 2 * 8 * MIB
    assert crew.storage.upswarm("scrub", tag).exit_code == 0


def kill_rounds(crew: Crew, bucket: Bucket, rounds: int, story: random.Random) -> None:
    """Files, and a SIGKILL of the storage node in the middle of each."""
    for number in range(rounds):
        size = 66 * MIB + story.randrange(48 * MIB)
        file = crew.file(f"film {number}", size, story.getrandbits(32))
        tag = tag_by_hand(file)
        parts = story.randrange(0, size // (8 * MIB))
        print(f"round {number}: kill after {parts} parts of {size >> 20} MiB")
        put(crew.daemons[0], file, wait="no")
        wait_until(
            lambda tag=tag, parts=parts: bucket.has(tag) or (bucket.parts(tag) >= parts and bucket.uploads()),
            f"{parts} parts of file {number} are in the store",
            COMMIT_SECONDS_MAX,
        )
        crew.storage.restart()
        wait_connected(crew.storage)
        wait_stored(crew.storage, tag, COMMIT_SECONDS_MAX)
        assert bucket.digest(tag) == digest_of(file) and bucket.tag(tag) == tag
        file.unlink()
    assert bucket.uploads() == []
    assert not list((crew.storage.data / "spool").iterdir())


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("direct", ["false", "true"])
def test_thirty_kills_of_the_storage_node_lose_nothing_and_leave_nothing(
    swarm: Swarm, seaweed: Seaweed, bucket: Bucket, direct: str
) -> None:
    rounds = int(os.environ.get("UPSWARM_SOAK_ROUNDS") or 30)
    seed = int(os.environ.get("UPSWARM_SOAK_SEED") or random.SystemRandom().getrandbits(32))
    print(f"UPSWARM_SOAK_SEED={seed}")
    kill_rounds(crew_on(swarm, seaweed, direct=direct), bucket, rounds, random.Random(seed))
