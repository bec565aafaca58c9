"""A real storage node keeps: later puts of a name count, rot is mended from a peer, what is removed or over is gone."""

from __future__ import annotations

import json
from pathlib import Path

from support.crew import Crew, get, objects_of, put, wait_connected, wait_stored
from support.files import MIB, same_bytes, tag_by_hand
from support.processes import Program, Swarm, wait_until

SIZE = 5 * MIB + 99


def rot(path: Path, *offsets: int) -> None:
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 0x10]))


def names_of(storage: Program) -> dict[str, list[str]]:
    return {row["tag"]: row["names"] for row in storage.call("ls")["files"] if row["state"] == "stored"}


def test_of_puts_of_one_name_in_one_second_the_last_one_counts(swarm: Swarm) -> None:
    crew = Crew.of(swarm, 3)
    anna, ben, carla = crew.daemons
    # In both orders of their tags: neither may win by it.
    files = [crew.file(f"file {number}", 1000 + number, seed=number) for number in range(6)]
    tags = [tag_by_hand(file) for file in files]
    assert tags != sorted(tags) and tags != sorted(tags, reverse=True)
    for number, file in enumerate(files):
        assert put((anna, ben)[number % 2], file, name="report")["state"] == "stored"
    dates = {row["tag"]: row["since"] for row in crew.storage.call("ls")["files"]}
    assert dates[tags[-1]] == max(dates.values())
    wait_until(lambda: carla.call("show", tag="report")["tag"] == tags[-1], "the tracker has heard of the last one")
    for number in range(3):
        target = crew.folder / f"got {number}"
        assert get(carla, "report", target)["tag"] == tags[-1] and same_bytes(target, files[-1])
    # Also when the tracker has forgotten everything and hears it anew; the others are there by their tags.
    crew.tracker.restart()
    for program in (crew.storage, *crew.daemons):
        wait_until(lambda: len(program.logged("tracker connected")) > 1, f"{program} is back")
    wait_until(lambda: _shows(carla, "report", tags[-1]), "the name leads to the last one")
    target = crew.folder / "the first"
    assert get(carla, tags[0], target)["tag"] == tags[0] and same_bytes(target, files[0])


def _shows(daemon: Program, name: str, tag: str) -> bool:
    done = daemon.upswarm("--json", "show", name, check=False)
    return done.exit_code == 0 and json.loads(done.stdout).get("tag") == tag


def test_rot_is_found_and_mended_from_a_peer_that_has_the_file(swarm: Swarm) -> None:
    crew = Crew.of(swarm, 1)
    storage, daemon = crew.storage, crew.daemons[0]
    file = crew.file("film", SIZE)
    tag = str(put(daemon, file, name="film")["tag"])
    rot(crew.object_of(tag), 5, 3 * MIB + 1)
    before = daemon.sent_bytes
    # On the storage node's machine; found, said, and with the exit code for bytes that are not what they should be.
    done = storage.upswarm("--json", "scrub", "film", check=False)
    assert done.exit_code == 8 and json.loads(done.stdout) == {"tag": tag, "chunks": 6, "rotten": [0, 3]}
    wait_stored(storage, tag)
    wait_until(lambda: names_of(storage).get(tag) == ["film"], "it has its name again")
    assert same_bytes(crew.object_of(tag), file)
    # Only what was rotten came again.
    assert 2 * MIB <= daemon.sent_bytes - before < 3 * MIB
    assert storage.upswarm("scrub", tag).exit_code == 0
    status = storage.call("status")["scrub"]
    assert (status["rotten_chunks"], status["files_mended"], status["behind"]) == (2, 1, False)
    # Everything at once; and what was found when nobody has the file is waited for, beyond a kill.
    other = str(put(daemon, crew.file("other", SIZE, seed=7), name="other")["tag"])
    daemon.kill()
    rot(crew.object_of(other), MIB + 1)
    assert json.loads(storage.upswarm("--json", "scrub", "--now").stdout)["begun"] == 2
    wait_until(lambda: tag in names_of(storage) and other not in names_of(storage), "the rot is found")
    storage.restart()
    assert other not in names_of(storage)
    daemon.start()
    wait_until(lambda: names_of(storage).get(other) == ["other"], "the rot is mended")
    assert same_bytes(crew.object_of(other), crew.folder / "files" / "other")


def test_what_is_removed_is_gone_everywhere_and_what_is_over_goes_by_itself(swarm: Swarm) -> None:
    crew = Crew.of(swarm, 2)
    storage, (anna, ben) = crew.storage, crew.daemons
    file = crew.file("film", SIZE)
    tag = str(put(anna, file, name="film")["tag"])
    # What others put, a member cannot remove; who operates the node can.
    refused = ben.upswarm("--json", "rm", "film", "--of", "daemon", check=False)
    assert refused.exit_code == 6, refused
    assert objects_of(storage, tag)
    done = anna.upswarm("--json", "rm", "film")
    assert json.loads(done.stdout) == {"removed": [tag], "kept": []}
    assert objects_of(storage, tag) == [] and names_of(storage) == {}
    assert storage.upswarm("rm", "film", check=False).exit_code == 4
    # Put again, for a short time: then it goes, and only by its name.
    short = anna.upswarm("--json", "put", file, "--name", "short", "--expires", "2s")
    assert json.loads(short.stdout)["state"] == "stored"
    assert put(ben, file, name="long")["instant"]
    wait_until(lambda: names_of(storage) == {tag: ["long"]}, "the short name is over")
    assert ben.upswarm("keep", "long", "--for", "1s").exit_code == 0
    wait_until(lambda: names_of(storage) == {} and objects_of(storage, tag) == [], "nothing leads to it any more")
    assert storage.upswarm("--json", "keep", "long", "--forever", check=False).exit_code == 4


def test_a_quota_is_told_with_its_own_word(swarm: Swarm) -> None:
    tracker = swarm.tracker()
    storage = swarm.join(swarm.add_storage("storage"))
    storage.environment = {
        "UPSWARM_STORAGE_QUOTA_NODE_BYTES": "8MiB",
        "UPSWARM_STORAGE_QUOTA_PREFIXES": "small/=1MiB",
    }
    storage.start()
    crew = Crew(swarm, tracker, storage, swarm.daemons(1))
    for program in (storage, *crew.daemons):
        wait_connected(program)
    daemon = crew.daemons[0]
    assert put(daemon, crew.file("one", SIZE), name="one")["state"] == "stored"
    for name, size in (("two", SIZE), ("small/x", 2 * MIB)):
        done = daemon.upswarm(
            "--json", "put", crew.file(name.replace("/", " "), size, seed=3), "--name", name, check=False
        )
        result = json.loads(done.stdout)
        assert done.exit_code == 9 and result["error"]["code"] == "quota", result
    assert storage.upswarm("rm", "one").exit_code == 0
    assert put(daemon, crew.folder / "files" / "two", name="two")["state"] == "stored"
