"""A bucket of a real S3 server as tests see it, and swarms whose storage nodes keep their files there."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from support.crew import Crew, put, wait_connected
from support.files import MIB
from support.postgres import PASSWORD
from support.processes import Program, Swarm
from support.seaweed import KEYS, Seaweed

BUCKET = "files"
PREFIX = "site/one/"


class Bucket:
    """What is in the bucket, seen with Amazon's own client."""

    def __init__(self, server: Seaweed) -> None:
        self.client: Any = server.boto()
        self.prefix = PREFIX

    def keys(self) -> list[str]:
        return [entry["Key"] for entry in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]

    def uploads(self) -> list[str]:
        return [entry["UploadId"] for entry in self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])]

    def parts(self, tag: str) -> int:
        """How many parts of an upload of this file the server has."""
        with contextlib.suppress(BotoCoreError, ClientError):
            for upload in self.uploads():
                answer = self.client.list_parts(Bucket=BUCKET, Key=self.key(tag), UploadId=upload)
                return len(answer.get("Parts", []))
        return 0

    def key(self, tag: str) -> str:
        return f"{self.prefix}objects/{tag}"

    def has(self, tag: str) -> bool:
        with contextlib.suppress(BotoCoreError, ClientError):
            return self.key(tag) in self.keys()
        return False

    def digest(self, tag: str) -> str:
        return self.digest_of_key(self.key(tag))

    def digest_of_key(self, key: str) -> str:
        body = self.client.get_object(Bucket=BUCKET, Key=key)["Body"]
        state = hashlib.sha256()
        for piece in body.iter_chunks(MIB):
            state.update(piece)
        body.close()
        return state.hexdigest()

    def tag(self, tag: str) -> str:
        """The composite checksum that the server reports, written as a tag."""
        answer = self.client.head_object(Bucket=BUCKET, Key=self.key(tag), ChecksumMode="ENABLED")
        root, _, count = answer["ChecksumSHA256"].rpartition("-")
        return f"{base64.b64decode(root).hex()}-{count}"

    def close(self) -> None:
        self.client.close()


def on_s3(storage: Program, endpoint: str, ledger: str | None = None, **more: str) -> Program:
    """Let a storage node that has not started keep its files in the bucket, with keys from a file; ``ledger``: the
    address of a PostgreSQL, with the password from a file, too."""
    storage.home.mkdir(parents=True, exist_ok=True)
    settings = {
        "backend": "s3",
        "s3_endpoint": endpoint,
        "s3_bucket": BUCKET,
        "s3_prefix": PREFIX,
        "s3_credentials": str(_secret(storage.home / "keys", _KEYS)),
        **more,
    }
    if ledger is not None:
        settings |= {"ledger": ledger, "ledger_password_file": str(_secret(storage.home / "password", PASSWORD))}
    storage.environment = {f"UPSWARM_STORAGE_{key.upper()}": value for key, value in settings.items()}
    return storage


_KEYS = f"[default]\naws_access_key_id = {KEYS.access_key}\naws_secret_access_key = {KEYS.secret_key}\n"


def _secret(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def crew_on(swarm: Swarm, seaweed: Seaweed, daemons: int = 1, endpoint: str | None = None, **more: str) -> Crew:
    """A swarm whose storage node keeps its files in the bucket."""
    tracker = swarm.tracker()
    storage = on_s3(swarm.join(swarm.add_storage("storage")), endpoint or seaweed.endpoint, **more).start()
    crew = Crew(swarm, tracker, storage, swarm.daemons(daemons))
    for program in (storage, *crew.daemons):
        wait_connected(program)
    return crew


def in_the_background(daemon: Program, file: Path) -> tuple[threading.Thread, list[dict[str, Any]]]:
    results: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: results.append(put(daemon, file)))
    thread.start()
    return thread, results
