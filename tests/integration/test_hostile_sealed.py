"""put --encrypt with real processes: nobody but who has the link learns bytes, name or key; a link opens it again."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

from support.crew import Crew, objects_of
from support.files import MIB, same_bytes
from support.processes import Program, wait_until

from protocol.invite import Link


def put_sealed(daemon: Program, path: Path, *arguments: str) -> tuple[dict, Link]:
    """Put ``path`` sealed; return the result and its link."""
    done = daemon.upswarm("put", path, "--encrypt", "--json", *arguments)
    assert done.exit_code == 0, done
    return done.json, Link.parse(done.json["link"])


def places_with(folder: Path, needle: bytes) -> list[str]:
    """Return the files below ``folder`` that contain ``needle``."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


def sealed_copies(daemon: Program) -> list[Path]:
    return list((daemon.home / "daemon" / "sealed").glob("*"))


def test_a_sealed_file_goes_up_and_comes_down_and_nobody_between_can_read_it(crew: Crew) -> None:
    first, second = crew.daemons
    secret = b"Nobody on the way shall read this line. "
    file = crew.folder / "files" / "secret plans.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(secret * 60_000)
    result, link = put_sealed(first, file)
    assert result["state"] == "stored" and result["name"] == "secret plans.txt" == link.name
    assert result["size"] == file.stat().st_size and Path(result["path"]) == file
    (stored,) = objects_of(crew.storage, result["tag"])
    assert secret not in stored.read_bytes() and stored.stat().st_size == link.size_bytes
    wait_until(lambda: not sealed_copies(first), "the sealed copy is removed when it is stored")

    assert link.key is not None
    key_text = result["link"].partition("#")[2].encode()
    assert base64.urlsafe_b64decode(key_text)[:32] == link.key
    homes = [program.home for program in crew.swarm.programs]
    for needle in (secret, link.key, key_text, link.key.hex().encode(), b"secret plans"):
        found = [place for home in homes for place in places_with(home, needle)]
        assert not found, f"{needle!r} lies in {found}"
    assert b"secret plans" not in json.dumps(crew.tracker.call("nodes")).encode()

    target = crew.folder / "opened"
    target.mkdir()
    done = second.upswarm("get", result["link"], "-o", target, "--json", check=False)
    assert done.exit_code == 0 and Path(done.json["path"]) == target / "secret plans.txt", done
    assert same_bytes(target / "secret plans.txt", file)
    assert [path.name for path in target.iterdir()] == ["secret plans.txt"], "nothing sealed is left beside it"
    assert second.upswarm("verify", target / "secret plans.txt", result["link"]).exit_code == 0
    file.write_bytes(b"another")
    assert second.upswarm("verify", file, result["link"], check=False).exit_code == 8
    # Asked for again it is there already; a file of others in its place is not overwritten.
    assert second.upswarm("get", result["link"], "-o", target, "--json", check=False).json["instant"]
    (target / "secret plans.txt").write_bytes(b"mine")
    done = second.upswarm("get", result["link"], "-o", target, "--json", check=False)
    assert done.exit_code == 6 and (target / "secret plans.txt").read_bytes() == b"mine"


def test_the_wrong_key_opens_nothing_and_leaves_nothing(crew: Crew) -> None:
    first, second = crew.daemons
    file = crew.file("locked.bin", 3 * MIB, seed=4)
    result, link = put_sealed(first, file)
    wrong = Link(tag=link.tag, name=link.name, size_bytes=link.size_bytes, key=bytes(32))
    folder = crew.folder / "wrong"
    folder.mkdir()
    done = second.upswarm("get", str(wrong), "-o", folder, "--json", check=False)
    assert done.exit_code == 8 and "key" in done.json["error"]["message"], done
    assert list(folder.iterdir()) == []
    damaged = second.upswarm("get", result["link"][:-3], "-o", folder, "--json", check=False)
    assert damaged.exit_code == 2 and "damaged" in damaged.stderr, damaged
    # A file that never was sealed has no key.
    plain = first.upswarm("put", file, "--json").json["link"]
    done = second.upswarm("get", f"{plain}#{result['link'].partition('#')[2]}", "-o", folder, "--json", check=False)
    assert done.exit_code == 8 and list(folder.iterdir()) == []
    # The daemon is not told keys, by whatever way.
    done = second.upswarm("show", result["link"], "--json", check=False)
    assert done.exit_code == 2 and "key" in done.json["error"]["message"]


def test_equal_files_are_equal_to_nobody_under_two_keys(crew: Crew) -> None:
    first, second = crew.daemons
    file = crew.file("twice.bin", 2 * MIB, seed=5)
    one, _ = put_sealed(first, file)
    other, _ = put_sealed(second, file)
    plain = first.upswarm("put", file, "--json").json
    assert len({one["tag"], other["tag"], plain["tag"]}) == 3
    assert not (one["instant"] or other["instant"] or plain["instant"])


def test_a_folder_is_sealed_file_by_file_and_the_links_are_said_before_anything_is_sent(crew: Crew) -> None:
    first, second = crew.daemons
    crew.file("album/one.bin", 70_000, seed=6)
    crew.file("album/in/two.bin", 10, seed=7)
    (crew.folder / "files" / "album" / "link").symlink_to("one.bin")
    done = first.upswarm("put", crew.folder / "files" / "album", "--encrypt", "--name", "trip", "--json")
    assert done.exit_code == 0, done
    assert {result["name"] for result in done.json["results"]} == {"trip/one.bin", "trip/in/two.bin"}
    assert [Path(one["path"]).name for one in done.json["skipped"]] == ["link"]
    (crew.folder / "out").mkdir()
    for result in done.json["results"]:
        assert f"only this link opens it: {result['link']}" in done.stderr
        command = [sys.executable, "-P", "-m", "upswarm", "--home", second.home, "get", "-", "-o", crew.folder / "out"]
        got = subprocess.run(
            command, input=result["link"] + "\n", text=True, capture_output=True, env=crew.swarm.environment, timeout=60
        )
        assert got.returncode == 0 and same_bytes(Path(got.stdout.strip()), Path(result["path"])), got


def test_a_sealed_put_goes_on_after_a_kill_of_the_daemon(crew: Crew) -> None:
    first, second = crew.daemons
    file = crew.file("killed.bin", 5 * MIB, seed=8)
    first.call("limit", up=1_000_000)
    try:
        done = first.upswarm("put", file, "--encrypt", "--wait", "no", "--json")
        link = done.json["link"]
        assert sealed_copies(first), "the sealed copy waits"
        first.kill()
        first.start()
        first.call("limit", up="off")
    finally:
        first.wait_logged("tracker connected")
    wait_until(lambda: bool(objects_of(crew.storage, str(Link.parse(link).tag))), "it is stored", 60)
    wait_until(lambda: not sealed_copies(first), "and the copy is gone")
    got = second.upswarm("get", link, "-o", crew.folder / "killed.copy", "--json")
    assert got.exit_code == 0 and same_bytes(crew.folder / "killed.copy", file)
