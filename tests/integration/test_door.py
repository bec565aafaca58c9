"""What was stored, read by HTTP from a real storage node: with curl, and as a media player reads."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest
from support.crew import Crew, put, wait_connected
from support.files import MIB, same_bytes, tag_by_hand
from support.processes import Swarm

SIZE = 20 * MIB + 333


def crew_with_door(swarm: Swarm) -> Crew:
    tracker = swarm.tracker()
    storage = swarm.join(swarm.add_storage("storage"))
    storage.environment = {"UPSWARM_STORAGE_HTTP": "127.0.0.1:0"}
    storage.start()
    crew = Crew(swarm, tracker, storage, swarm.daemons(1))
    for program in (storage, *crew.daemons):
        wait_connected(program)
    return crew


def token_of(crew: Crew) -> str:
    path = crew.storage.state / "http-token"
    assert path.stat().st_mode & 0o777 == 0o600
    return path.read_text().strip()


def curl(*arguments: str | Path) -> str:
    program = shutil.which("curl")
    assert program is not None, "apt-get install curl"
    done = subprocess.run(
        [program, "-sS", "--fail-with-body", "--max-time", "60", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=70,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_curl_and_a_media_player_read_what_is_stored(swarm: Swarm) -> None:
    crew = crew_with_door(swarm)
    file = crew.file("film.mp4", SIZE)
    tag = tag_by_hand(file)
    assert put(crew.daemons[0], file, name="films/new film.mp4")["state"] == "stored"
    base, token = f"http://{crew.storage.ready['http']}", token_of(crew)
    target = crew.folder / "by curl"

    # curl: by name, by tag, resumed after it was cut off, and only when it has changed.
    config = crew.folder / "curlrc"
    config.write_text(f'header = "Authorization: Bearer {token}"\n')
    curl("-K", config, "-o", target, f"{base}/name/films/new%20film.mp4")
    assert same_bytes(target, file)
    with target.open("r+b") as partly:
        partly.truncate(7 * MIB + 5)
    curl("-K", config, "-C", "-", "-o", target, f"{base}/tag/{tag}")
    assert same_bytes(target, file)
    status = curl(
        "-u", f"me:{token}", "-o", target, "-w", "%{http_code}", "-H", f'If-None-Match: "{tag}"', f"{base}/tag/{tag}"
    )
    assert status == "304"
    head = curl("-K", config, "-I", f"{base}/tag/{tag}").lower()
    assert f"content-length: {SIZE}" in head and "content-type: video/mp4" in head

    # A player: the end for its index, the beginning, then it jumps; it hangs up whenever it has enough.
    content = file.read_bytes()
    with httpx2.Client(headers={"authorization": f"Bearer {token}"}, timeout=60, trust_env=False) as player:
        for start in (SIZE - 64 * 1024, 0, 5 * MIB + 1, 12 * MIB - 1):
            with player.stream("GET", f"{base}/tag/{tag}", headers={"range": f"bytes={start}-"}) as answer:
                assert answer.status_code == 206
                seen = bytearray()
                for piece in answer.iter_raw():
                    seen += piece
                    if len(seen) >= MIB:
                        break
                assert content[start : start + len(seen)] == seen
        assert player.get(f"{base}/tag/{tag}", headers={"authorization": "Bearer no"}).status_code == 401
        several = player.get(f"{base}/tag/{tag}", headers={"range": "bytes=0-9,-10"})
        assert several.status_code == 206 and content[:10] in several.content and content[-10:] in several.content

    # The token outlives a restart, and is told nowhere.
    crew.storage.restart()
    base = f"http://{crew.storage.ready['http']}"
    assert token_of(crew) == token
    curl("-K", config, "-o", target, f"{base}/tag/{tag}")
    assert same_bytes(target, file)
    assert token not in crew.storage.log_path.read_text()
    assert crew.storage.stop() == 0


def test_the_door_is_shut_unless_somebody_opens_it(swarm: Swarm) -> None:
    swarm.tracker()
    storage = swarm.storage()
    assert "http" not in storage.ready
    assert not (storage.state / "http-token").exists()


@pytest.mark.parametrize("http", ["nowhere", "127.0.0.1:99999"])
def test_an_address_that_cannot_be_is_told(swarm: Swarm, http: str) -> None:
    swarm.tracker()
    storage = swarm.join(swarm.add_storage("storage"))
    done = swarm.upswarm("--home", storage.home, "config", "show", "storage")
    assert done.exit_code == 0
    storage.environment = {"UPSWARM_STORAGE_HTTP": http}
    swarm.environment |= storage.environment
    done = swarm.upswarm("--home", storage.home, "config", "show", "storage")
    assert done.exit_code == 2 and "[storage] http" in done.stderr
