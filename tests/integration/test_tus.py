"""Uploads by a real tus client into a real storage node: whole, in pieces, and across SIGKILL."""

from __future__ import annotations

import base64
import hashlib
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.crew import Crew, get, objects_of, put, wait_connected
from support.files import MIB, same_bytes, tag_by_hand
from support.processes import Program, Swarm, wait_until
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError, TusUploadFailed

SIZE = 70 * MIB + 4321  # chunks of 8 MiB


def crew_with_door(swarm: Swarm) -> Crew:
    tracker = swarm.tracker()
    storage = swarm.join(swarm.add_storage("storage"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    storage.environment = {"UPSWARM_STORAGE_HTTP": address, "UPSWARM_STORAGE_HTTP_UPLOADS": "true"}
    storage.start()
    crew = Crew(swarm, tracker, storage, swarm.daemons(1))
    for program in (storage, *crew.daemons):
        wait_connected(program)
    return crew


def authorization(storage: Program) -> str:
    return f"Bearer {(storage.state / 'http-token').read_text().strip()}"


@contextmanager
def uploader_of(storage: Program, file: Path, name: str, **more: Any) -> Iterator[Any]:
    """A client's upload of a file, which it keeps open."""
    client = TusClient(f"http://{storage.ready['http']}/tus/", headers={"Authorization": authorization(storage)})
    with file.open("rb") as stream:
        yield client.uploader(file_stream=stream, metadata={"filename": name}, **more)


def test_what_a_tus_client_uploads_is_a_file_like_any_other(swarm: Swarm) -> None:
    crew = crew_with_door(swarm)
    storage, daemon = crew.storage, crew.daemons[0]
    for name, size, piece in (("small", 3 * MIB + 5, MIB), ("large", SIZE, 16 * MIB)):
        file = crew.file(name, size)
        with uploader_of(storage, file, f"by tus/{name}", chunk_size=piece, upload_checksum=True) as uploader:
            uploader.upload()
        tag = tag_by_hand(file)
        (found,) = objects_of(storage, tag)
        assert same_bytes(found, file)
        # A daemon gets it by its name, and a put of it sends nothing.
        wait_until(lambda: _named(daemon, f"by tus/{name}"), f"{name} is known")
        target = crew.folder / f"{name} again"
        assert get(daemon, f"by tus/{name}", target)["tag"] == tag and same_bytes(target, file)
        assert put(daemon, file, name="other")["instant"]
    # What storage has already needs no room twice.
    with uploader_of(storage, crew.folder / "files" / "large", "large too", chunk_size=16 * MIB) as uploader:
        uploader.upload()
    assert len(list((storage.data / "objects").rglob("*-*"))) == 2
    assert list((storage.data / "arrivals").glob("*.part")) == []


def _named(daemon: Program, name: str) -> bool:
    return any(name in row.get("names", [row.get("name")]) for row in daemon.call("ls")["files"])


def test_an_upload_survives_sigkill_again_and_again(swarm: Swarm) -> None:
    crew = crew_with_door(swarm)
    storage = crew.storage
    file = crew.file("film", SIZE)
    tag, kills = tag_by_hand(file), 0
    with uploader_of(storage, file, "film", chunk_size=6 * MIB) as uploader:
        while uploader.offset < SIZE:
            assert kills < 60
            try:
                uploader.upload_chunk()
            except (TusUploadFailed, TusCommunicationError, OSError):
                uploader.offset = _offset(storage, uploader)
                continue
            if kills < 4:
                kills += 1
                storage.restart()
                # What a client was told is still there.
                assert _offset(storage, uploader) >= uploader.offset
    assert kills == 4
    (found,) = objects_of(storage, tag)
    assert same_bytes(found, file)


def test_one_endless_request_loses_little_by_sigkill(swarm: Swarm) -> None:
    crew = crew_with_door(swarm)
    storage = crew.storage
    file = crew.file("film", SIZE)
    with uploader_of(storage, file, "film", chunk_size=32 * MIB) as uploader:
        _interrupted(storage, file, uploader)


def _interrupted(storage: Program, file: Path, uploader: Any) -> None:
    content = file.read_bytes()
    uploader.set_url(uploader.create_url())
    url = uploader.url

    def body() -> Any:
        for start in range(0, SIZE - 20 * MIB, MIB):
            yield content[start : start + MIB]
        # Killed in the middle of the request, when most of it is there.
        (record,) = (storage.data / "arrivals").glob("*.json")
        wait_until(lambda: b'"offset": 0' not in record.read_bytes(), "some of it is durable")
        storage.kill()
        while True:
            yield bytes(MIB)

    headers = {
        "authorization": authorization(storage),
        "tus-resumable": "1.0.0",
        "upload-offset": "0",
        "content-type": "application/offset+octet-stream",
        "content-length": str(SIZE),
    }
    with pytest.raises(httpx2.TransportError):
        httpx2.patch(url, content=body(), headers=headers, timeout=60, trust_env=False)
    storage.start()
    kept = _offset(storage, uploader)
    assert 32 * MIB <= kept < SIZE
    uploader.offset = kept
    uploader.upload()
    (found,) = objects_of(storage, tag_by_hand(file))
    assert same_bytes(found, file)
    answer = httpx2.head(url, headers=headers | {"content-length": "0"}, trust_env=False)
    assert answer.headers["upswarm-tag"] == tag_by_hand(file)
    # Only who has the token may upload, and it is told nowhere.
    headers["authorization"] = "Bearer " + base64.b64encode(hashlib.sha256(b"").digest()).decode()
    assert httpx2.head(url, headers=headers | {"content-length": "0"}, trust_env=False).status_code == 401
    assert authorization(storage).split()[1] not in storage.log_path.read_text()


def _offset(storage: Program, uploader: Any, seconds: float = 60.0) -> int:
    """How far an upload is; the storage node may be starting, or storing it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return int(uploader.get_offset())
        except (TusCommunicationError, OSError):
            assert time.monotonic() < deadline, storage.log_tail()
            time.sleep(0.2)
