"""Commit: the object on the disk, the row in the ledger, and everybody who must hear of it."""

from __future__ import annotations

import stat

from support.crew import Crew, events, ledger_path, ledger_rows, put, share
from support.files import MIB, same_bytes, tag_by_hand
from support.processes import wait_until

from protocol.ids import Tag


def test_a_stored_file_is_on_the_disk_in_the_ledger_and_known_to_all(crew: Crew) -> None:
    uploader, helper = crew.daemons
    file = crew.file("committed.bin", 9 * MIB + 1)
    share(helper, file)
    follower = uploader.begin("events", "--follow", "--json")
    done = uploader.upswarm("put", file, "--json")
    assert done.exit_code == 0
    tag = done.json["tag"]

    stored = crew.object_of(tag)
    assert same_bytes(stored, file)
    assert stat.S_IMODE(stored.stat().st_mode) & 0o022 == 0
    assert not [path for path in crew.storage.data.rglob(tag) if "objects" not in path.parts], "no spool file is left"

    row = ledger_rows(crew.storage, "SELECT size_bytes, name, node FROM files WHERE tag = ?", Tag.parse(tag).to_bytes())
    assert row == [(file.stat().st_size, "committed.bin", uploader.node)]
    ((state,),) = ledger_rows(crew.storage, "SELECT state FROM jobs WHERE tag = ?", Tag.parse(tag).to_bytes())
    assert state == "stored"
    assert ledger_path(crew.storage).read_bytes()[18:20] == b"\x02\x02", "the ledger is in WAL mode"

    wait_until(lambda: "put stored" in follower.printed, "events --follow tells it")
    follower.interrupt()
    assert follower.wait().exit_code in (0, 130)
    assert any(event["event"] == "put stored" and event["tag"] == tag for event in events(uploader))
    wait_until(lambda: helper_heard(helper, tag), "the helper hears of it")


def helper_heard(helper, tag: str) -> bool:
    """Whether a helper tells of the end of a job."""
    return any(event.get("tag") == tag and "stored" in str(event) for event in events(helper))


def test_the_object_survives_sigkill_right_after_the_answer(crew: Crew) -> None:
    file = crew.file("durable.bin", 3 * MIB, seed=11)
    tag = put(crew.daemons[0], file)["tag"]
    crew.storage.restart()
    assert same_bytes(crew.object_of(tag), file)
    wait_until(lambda: put(crew.daemons[0], file)["state"] == "stored", "it is known after the restart")
    assert tag == tag_by_hand(file)
