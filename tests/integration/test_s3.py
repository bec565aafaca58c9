"""Real processes and a real S3 server: files come to the bucket, whoever is killed or stopped on the way."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bucket import BUCKET, Bucket, crew_on, in_the_background
from support.crew import get, put, wait_connected, wait_stored
from support.files import MIB, digest_of, same_bytes, tag_by_hand
from support.processes import Swarm, wait_until
from support.seaweed import KEYS, Seaweed, running_seaweed

COMMIT_SECONDS_MAX = 90.0


@pytest.fixture
def seaweed() -> Iterator[Seaweed]:
    with running_seaweed() as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture
def bucket(seaweed: Seaweed) -> Iterator[Bucket]:
    with contextlib.closing(Bucket(seaweed)) as bucket:
        yield bucket


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
    crew = crew_on(swarm, seaweed)
    kills = random.Random(7)
    files = {}
    for number in range(4):
        file = crew.file(f"film {number}", 100 * MIB + number, seed=number)
        tag = tag_by_hand(file)
        files[tag] = file
        parts = kills.randrange(0, 13)
        put(crew.daemons[0], file, wait="no")
        wait_until(
            lambda tag=tag, parts=parts: bucket.has(tag) or (bucket.parts(tag) >= parts and bucket.uploads()),
            f"{parts} parts of file {number} are in the store",
            COMMIT_SECONDS_MAX,
        )
        crew.storage.restart()
        wait_connected(crew.storage)
    for tag, file in files.items():
        wait_stored(crew.storage, tag, COMMIT_SECONDS_MAX)
        assert bucket.digest(tag) == digest_of(file) and bucket.tag(tag) == tag
    assert bucket.uploads() == []
    assert not list((crew.storage.data / "spool").iterdir())


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
