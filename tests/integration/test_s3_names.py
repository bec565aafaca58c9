"""In a bucket of a real S3 server files lie under their names, tag and name beside them, and are found there again."""

from __future__ import annotations

from contextlib import closing
from typing import Any
from urllib.parse import unquote

import pytest
from support.crew import Crew, get, put, wait_connected
from support.files import MIB, same_bytes, tag_by_hand
from support.processes import Swarm, wait_until
from support.seaweed import KEYS, Seaweed, running_seaweed

BUCKET = "files"
KEY = "files/{folder}{stem}.{tag}{suffix}"


def crew_on(swarm: Swarm, seaweed: Seaweed, **more: str) -> Crew:
    tracker = swarm.tracker()
    storage = swarm.join(swarm.add_storage("storage"))
    settings = {
        "backend": "s3",
        "s3_endpoint": seaweed.endpoint,
        "s3_bucket": BUCKET,
        "s3_prefix": "site/",
        "s3_access_key": KEYS.access_key,
        "s3_secret_key": KEYS.secret_key,
        **more,
    }
    storage.environment = {f"UPSWARM_STORAGE_{key.upper()}": value for key, value in settings.items()}
    storage.start()
    crew = Crew(swarm, tracker, storage, swarm.daemons(1))
    for program in (storage, *crew.daemons):
        wait_connected(program)
    return crew


@pytest.mark.slow
def test_files_lie_in_the_bucket_under_their_names(swarm: Swarm) -> None:
    with running_seaweed() as seaweed, closing(seaweed.boto()) as client:
        seaweed.make_bucket(BUCKET)
        crew = crew_on(swarm, seaweed)
        storage, daemon = crew.storage, crew.daemons[0]

        def keys() -> set[str]:
            found: Any = client.list_objects_v2(Bucket=BUCKET, Prefix="site/").get("Contents", [])
            return {entry["Key"] for entry in found} - {"site/upswarm-owner"}

        # By content, until the operator wants names; what is there stays where it is, and is found.
        before = crew.file("before", MIB)
        assert put(daemon, before, name="before")["state"] == "stored"
        assert keys() == {f"site/objects/{tag_by_hand(before)}"}
        storage.environment["UPSWARM_STORAGE_S3_KEY"] = KEY
        storage.restart()

        # One request, and parts; two versions of one name, side by side.
        files = {"small": crew.file("small", 2 * MIB), "large": crew.file("large", 70 * MIB)}
        tags = {which: tag_by_hand(file) for which, file in files.items()}
        for file in files.values():
            assert put(daemon, file, name="films/neuer schnitt ü.mp4")["state"] == "stored"
        named = {which: f"site/files/films/neuer_schnitt__.{tag}.mp4" for which, tag in tags.items()}
        assert keys() == {f"site/objects/{tag_by_hand(before)}", *named.values()}
        for which, key in named.items():
            head = client.head_object(Bucket=BUCKET, Key=key)
            assert head["Metadata"]["upswarm-tag"] == tags[which]
            assert unquote(head["Metadata"]["upswarm-name"]) == "films/neuer schnitt ü.mp4"

        # All are found again by another process, and gone when they are removed.
        daemon.call("unshare", what="films/neuer schnitt ü.mp4")
        storage.restart()
        wait_until(lambda: len(storage.call("ls")["files"]) == 3, "all are there")
        target = crew.folder / "got"
        assert get(daemon, tags["large"], target)["tag"] == tags["large"] and same_bytes(target, files["large"])
        assert storage.upswarm("scrub", tags["small"]).exit_code == 0
        assert storage.upswarm("rm", tags["small"]).exit_code == 0
        assert storage.upswarm("rm", "before").exit_code == 0
        assert keys() == {named["large"]}
