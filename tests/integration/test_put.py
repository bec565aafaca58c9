"""Put: new, partly and stored; tags that others compute alike; changing files, folders, odd names, exit codes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.crew import Crew, files_of, progress_of_put, put, wait_stored
from support.files import MIB, make_file, make_sparse_mix, same_bytes, tag_by_hand
from support.processes import Refused, Swarm, wait_until


def test_a_new_file_is_stored_and_its_tag_is_the_composite_computed_by_hand(crew: Crew) -> None:
    file = crew.file("several chunks.bin", 5 * MIB + 12345)
    done = crew.daemons[0].upswarm("put", file, "--json")
    result = done.json
    assert result["state"] == "stored" and result["instant"] is False
    assert result["tag"] == tag_by_hand(file) and result["tag"].endswith("-6")
    assert result["size"] == file.stat().st_size and result["name"] == file.name and result["seconds"] > 0
    assert result["pushed"] == {crew.daemons[0].node: file.stat().st_size}
    assert same_bytes(crew.object_of(result["tag"]), file)
    assert crew.daemons[0].upswarm("tag", file).stdout.strip() == result["tag"]


def test_a_large_file_has_chunks_of_eight_mebibytes(crew: Crew) -> None:
    file = crew.file("large.bin", 64 * MIB + 1)
    result = put(crew.daemons[0], file)
    assert result["tag"] == tag_by_hand(file) and result["tag"].endswith("-9")


def test_an_empty_file_is_one_empty_chunk(crew: Crew) -> None:
    file = crew.file("empty", 0)
    result = put(crew.daemons[0], file)
    assert result["state"] == "stored" and result["tag"] == tag_by_hand(file) and result["size"] == 0
    assert crew.object_of(result["tag"]).stat().st_size == 0


def test_an_interrupted_put_is_answered_partly_and_sends_only_the_rest(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1, up_bytes_per_second="8M")
    daemon = crew.daemons[0]
    file = crew.file("partly.bin", 24 * MIB)
    begun = put(daemon, file, wait="no")
    wait_until(lambda: stored_bytes(daemon, begun["id"]) >= 6 * MIB, "a part is stored")
    before = stored_bytes(daemon, begun["id"])
    daemon.call("cancel", id=begun["id"])
    first: list[int] = []
    for note in progress_of_put(daemon, file):
        if note.get("state") == "sending" and "bytes_stored" in note:
            first.append(note["bytes_stored"])
    assert first and first[0] >= before >= 6 * MIB
    assert note["state"] == "stored" and same_bytes(crew.object_of(note["tag"]), file)


def stored_bytes(daemon, put_id: str) -> int:
    """How much of a put the daemon knows to be stored."""
    return find_put(daemon, put_id).get("bytes_stored", 0)


def find_put(daemon, put_id: str) -> dict:
    """A put in ``status``, wherever it stands there."""
    found: list[dict] = []

    def walk(thing) -> None:
        if isinstance(thing, dict):
            if thing.get("id") == put_id:
                found.append(thing)
            for value in thing.values():
                walk(value)
        elif isinstance(thing, list):
            for value in thing:
                walk(value)

    walk(daemon.call("status"))
    return found[0] if found else {}


def test_wait_no_returns_at_once_and_the_file_is_stored_all_the_same(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1, up_bytes_per_second="4M")
    daemon = crew.daemons[0]
    file = crew.file("later.bin", 8 * MIB)
    done = daemon.upswarm("put", file, "--wait=no", "--json")
    assert done.exit_code == 0 and done.json["state"] in ("hashing", "asking", "sending")
    wait_stored(crew.storage, tag_by_hand(file))


def test_wait_safe_returns_when_others_hold_what_is_not_stored(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=2, up_bytes_per_second="1M")
    uploader, helper = crew.daemons
    file = crew.file("safe.bin", 12 * MIB)
    helper.call("share", paths=[str(file)], seconds=30)
    done = uploader.upswarm("put", file, "--wait=safe", "--json")
    # At 2 MB/s storing takes six seconds; safe it is as soon as the helper has offered everything.
    assert done.exit_code == 0 and done.json["state"] != "stored", done
    uploader.kill()
    wait_stored(crew.storage, tag_by_hand(file))
    assert same_bytes(crew.object_of(tag_by_hand(file)), file)


def test_a_file_that_changes_while_it_is_read_is_noticed_and_not_uploaded_wrong(crew: Crew) -> None:
    file = make_sparse_mix(crew.folder / "files" / "growing.bin", 1024 * MIB)
    done, changes = None, 0
    with file.open("r+b") as changing:
        for note in progress_of_put(crew.daemons[0], file):
            if note.get("state") == "hashing":
                changes += 1
                changing.seek(7)
                changing.write(os.urandom(8))
                changing.flush()
            done = note
    assert done is not None and changes > 0
    file_now = tag_by_hand(file)
    if done["state"] == "stored":
        # It held still at last, and was read again.
        assert done["tag"] == file_now
    else:
        assert "changed" in str(done["error"])
    assert all(row["tag"] == file_now for row in files_of(crew.storage.call("ls")) if row["name"] == "growing.bin")
    file.unlink()


def test_a_file_that_changes_while_it_is_sent_is_never_stored_as_what_it_was_not(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1, up_bytes_per_second="4M")
    file = crew.file("altered.bin", 16 * MIB)
    tag_before = tag_by_hand(file)
    done = None
    altered = False
    for note in progress_of_put(crew.daemons[0], file):
        if not altered and note.get("state") == "sending":
            with file.open("r+b") as changing:
                changing.seek(15 * MIB)
                changing.write(b"other bytes")
            altered = True
        done = note
    assert altered and done is not None and done["state"] == "failed", done
    assert "changed" in str(done["error"])
    assert not any(row["tag"] == tag_before and row["state"] == "stored" for row in files_of(crew.storage.call("ls")))
    # Nobody can finish it any more: the storage node does not wait for days.
    crew.storage.wait_logged("job ended", state="cancelled")


def test_a_folder_means_every_file_below_it_under_its_relative_name(crew: Crew) -> None:
    folder = crew.folder / "album"
    wanted = {
        "album/a.txt": make_file(folder / "a.txt", 1000, 1),
        "album/b/c.txt": make_file(folder / "b" / "c.txt", 2000, 2),
        "album/b/d/e.bin": make_file(folder / "b" / "d" / "e.bin", 2 * MIB, 3),
    }
    done = crew.daemons[0].upswarm("put", folder, "--json")
    results = done.json["results"]
    names = {result["name"] for result in results}
    assert names in (set(wanted), {name.removeprefix("album/") for name in wanted})
    for result in results:
        source = wanted["album/" + result["name"].removeprefix("album/")]
        assert result["state"] == "stored" and result["tag"] == tag_by_hand(source)
        assert same_bytes(crew.object_of(result["tag"]), source)


ODD_NAMES = [
    "Grüße aus Köln.txt",
    "日本語 🎬.mov",
    "two\nlines",
    "\x1b]0;owned\x07\x1b[31mred",
    "-rf",
    " leading",
    "a" * 200,
]


def test_odd_names_are_kept_and_made_harmless_where_they_are_shown(crew: Crew) -> None:
    folder = crew.folder / "odd"
    files = [make_file(folder / name, 500 + number, number) for number, name in enumerate(ODD_NAMES)]
    daemon = crew.daemons[0]
    for file, name in zip(files, ODD_NAMES, strict=True):
        done = daemon.upswarm("put", "--", file)
        assert "\x1b" not in done.stdout + done.stderr
        assert len(done.stdout.splitlines()) == 1, "a name with a newline stays on its line"
        tag = tag_by_hand(file)
        assert tag in done.stdout
        names = [row["name"] for row in files_of(crew.storage.call("ls")) if row["tag"] == tag]
        assert names == [name]
    listing = daemon.upswarm("ls", "--stored")
    assert "\x1b" not in listing.stdout


def test_put_names_what_is_wrong_and_its_exit_code_says_which_kind(crew: Crew) -> None:
    daemon = crew.daemons[0]
    assert daemon.upswarm("put", crew.folder / "nowhere", check=False).exit_code == 4
    assert daemon.upswarm("put", check=False).exit_code == 2
    assert daemon.upswarm("put", crew.file("x", 10), "--wait=soon", check=False).exit_code == 2
    fifo = crew.folder / "pipe"
    os.mkfifo(fifo)
    refused = daemon.upswarm("put", fifo, check=False)
    assert refused.exit_code not in (0, 130) and refused.stderr
    with pytest.raises(Refused):
        daemon.call("put", paths=["relative/path"], wait="stored")


def test_name_gives_another_name(crew: Crew) -> None:
    file = crew.file("plain-name", 4321, seed=77)
    result = crew.daemons[0].upswarm("put", file, "--name", "reports/2026/final.pdf", "--json").json
    assert result["name"] == "reports/2026/final.pdf"
    rows = [row for row in files_of(crew.storage.call("ls")) if row["tag"] == result["tag"]]
    assert [row["name"] for row in rows] == ["reports/2026/final.pdf"]


@pytest.mark.parametrize("name", ["../evil", "a/../../b", "..", "a/./b", "a\x00b"])
def test_a_name_that_leaves_its_folder_is_no_name(crew: Crew, name: str) -> None:
    file = crew.file("good", 100, seed=5)
    with pytest.raises(Refused):
        put(crew.daemons[0], file, name=name)


def test_two_daemons_see_the_same_file_under_the_same_tag(crew: Crew) -> None:
    file = crew.file("same.bin", 3 * MIB, seed=9)
    other = Path(str(file) + ".copy")
    other.write_bytes(file.read_bytes())
    assert put(crew.daemons[0], file)["tag"] == put(crew.daemons[1], other)["tag"]
