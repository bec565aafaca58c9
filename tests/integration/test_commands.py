"""The command line on a running swarm: every verb answers, exit codes say what happened."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import pytest
from support.crew import Crew, files_of, progress_of_put, put, share, wait_stored
from support.files import MIB, same_bytes, tag_by_hand
from support.processes import Swarm, ended, wait_until
from support.terminal import on_a_terminal

VERBS_THAT_PRINT = [
    ("status",),
    ("peers",),
    ("storage-nodes",),
    ("ls",),
    ("ls", "--stored"),
    ("ls", "--local"),
    ("nodes",),
    ("events",),
    ("version",),
    ("doctor",),
    ("limit",),
    ("bugreport",),
    ("config", "show"),
    ("config", "validate"),
]


@pytest.mark.parametrize("verb", VERBS_THAT_PRINT, ids=" ".join)
def test_every_verb_that_prints_also_prints_json(crew: Crew, verb: tuple[str, ...]) -> None:
    daemon = crew.daemons[0]
    plain = daemon.upswarm(*verb)
    assert "Traceback" not in plain.stderr
    for answer in daemon.upswarm(*verb, "--json").objects:
        json.dumps(answer)


def test_storage_nodes_and_peers_and_status_tell_what_is_there(crew: Crew) -> None:
    daemon = crew.daemons[0]
    put(daemon, crew.file("told.bin", MIB, seed=31))
    (row,) = files_of(daemon.upswarm("storage-nodes", "--json").json)
    assert row["node"] == crew.storage.node
    wait_until(
        lambda: crew.storage.node in json.dumps(daemon.upswarm("peers", "--json").json), "the link to storage is shown"
    )
    status = daemon.upswarm("status", "--json").json
    assert daemon.node in json.dumps(status)
    for program in (crew.tracker, crew.storage):
        assert program.node in json.dumps(program.upswarm("status", "--json").json)


def test_show_and_ls_tell_of_a_stored_file(crew: Crew) -> None:
    daemon = crew.daemons[0]
    file = crew.file("shown.bin", 2 * MIB, seed=32)
    tag = put(daemon, file)["tag"]
    # The tracker hears of it from the storage node's inventory, about when the uploader hears that it is stored.
    wait_until(lambda: crew.storage.node in json.dumps(daemon.call("show", tag=tag)), "the tracker knows who has it")
    shown = daemon.upswarm("show", tag, "--json").json
    assert shown["tag"] == tag and shown["size"] == file.stat().st_size
    assert crew.storage.node in json.dumps(shown)
    for flag in ("--stored", "--local"):
        rows = files_of(daemon.upswarm("ls", flag, "--json").json)
        assert any(row["tag"] == tag for row in rows), flag
    assert tag in daemon.upswarm("ls").stdout
    assert daemon.upswarm("show", "00" * 32 + "-1", check=False).exit_code == 4
    assert daemon.upswarm("show", "nonsense", check=False).exit_code in (2, 4)


def test_tag_and_verify_need_no_daemon(swarm: Swarm) -> None:
    file = swarm.folder / "f"
    file.write_bytes(b"x" * 3_000_000)
    tag = tag_by_hand(file)
    assert swarm.upswarm("tag", file).stdout == tag + "\n"
    assert swarm.upswarm("verify", file, tag).exit_code == 0
    file.write_bytes(b"y" * 3_000_000)
    done = swarm.upswarm("verify", file, tag, "--json")
    assert done.exit_code == 8 and done.json
    assert swarm.upswarm("verify", file, "no tag").exit_code == 2
    assert swarm.upswarm("tag", swarm.folder / "nowhere").exit_code == 4


@pytest.mark.parametrize(
    "verb", [("status",), ("ls",), ("put", "/etc/hostname"), ("events",), ("limit",)], ids=" ".join
)
def test_without_a_daemon_the_exit_code_is_three_and_the_sentence_helps(swarm: Swarm, verb: tuple[str, ...]) -> None:
    done = swarm.upswarm("--home", swarm.folder / "empty", *verb)
    assert done.exit_code == 3 and "upswarm daemon" in done.stderr


@pytest.mark.parametrize("program", ["daemon", "storage"])
def test_a_node_that_has_not_joined_says_how_to_join(swarm: Swarm, program: str) -> None:
    done = swarm.upswarm("--home", swarm.folder / "new", program)
    assert done.exit_code == 2 and "upswarm join" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_wrong_usage_is_two(crew: Crew) -> None:
    daemon = crew.daemons[0]
    for words in (("frobnicate",), ("limit", "up"), ("limit", "up=much"), ("status", "--colour"), ("verify", "x")):
        done = daemon.upswarm(*words, check=False)
        assert done.exit_code == 2 and done.stderr, words


def test_an_impossible_setting_is_two_and_named(swarm: Swarm) -> None:
    home = swarm.folder / "t"
    home.mkdir()
    (home / "upswarm.toml").write_text("[tracker]\nlitsen = '127.0.0.1:0'\n")
    done = swarm.upswarm("--home", home, "tracker")
    assert done.exit_code == 2 and "litsen" in done.stderr and "listen" in done.stderr
    (home / "upswarm.toml").unlink()
    assert swarm.upswarm("--home", home, "tracker", "--listen", "nowhere").exit_code == 2


def test_ctrl_c_or_sigterm_of_a_waiting_put_leaves_the_job_running_and_says_so(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1, up_bytes_per_second="3M")
    (daemon,) = crew.daemons
    file = crew.file("patience.bin", 12 * MIB)
    # The second one finds the same upload, and waits for it, too.
    waiting = {130: daemon.begin("put", file)}
    wait_until(lambda: crew.storage.counter("received_bytes") > MIB, "it is under way")
    waiting[143] = daemon.begin("put", file)
    wait_until(lambda: "patience.bin: sending" in waiting[143].told, "both wait")
    waiting[130].interrupt()
    waiting[143].terminate()
    for exit_code, command in waiting.items():
        done = command.wait(15)
        assert done.exit_code == exit_code, done
        assert "goes on" in done.stderr and "upswarm cancel" in done.stderr
        put_id = done.stderr.split("upswarm cancel ")[1].split()[0]
        assert put_id != "ID" and put_id in json.dumps(daemon.call("status"))
    wait_stored(crew.storage, tag_by_hand(file))
    assert same_bytes(crew.object_of(tag_by_hand(file)), file)


def test_progress_is_plain_lines_when_stderr_is_no_terminal_and_bars_on_one(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=2, up_bytes_per_second="2M")
    uploader, helper = crew.daemons
    files = [crew.file(f"{word}.bin", 12 * MIB, seed) for seed, word in enumerate(("told", "drawn"))]
    for file in files:
        share(helper, file)
    done = uploader.upswarm("put", files[0])
    assert "\x1b" not in done.stderr and "\r" not in done.stderr
    moving = [line for line in done.stderr.splitlines() if " left | " in line]
    # Bytes done, rate, time left, and how much each of the two pushed.
    told = r"told\.bin: sending.*, [0-9.]+ MiB of 12\.0 MiB \([0-9]+ %\), [0-9.]+ [kM]B/s, [0-9.]+ m?s left \| "
    assert moving and all(re.match(told, line) for line in moving if "sending" in line), done.stderr
    both = [line for line in moving if f"{uploader.node[:8]} " in line and f"{helper.node[:8]} " in line]
    assert both, done.stderr
    # The data alone on stdout.
    assert len(done.stdout.splitlines()) == 1 and tag_by_hand(files[0]) in done.stdout

    seen = on_a_terminal(uploader, "put", files[1], columns=160)
    assert tag_by_hand(files[1]) in seen
    # Each time it is drawn anew, from the first line on; escapes aside.
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert re.search(r"[0-9]+ %  [0-9.]+ MiB of 12\.0 MiB  [0-9.]+ [kM]B/s  [0-9.]+ m?s left  sending", drawn), drawn
    for node in (uploader.node, helper.node):
        assert re.search(rf"{node[:8]}  [0-9.]+ MiB  [0-9]+ %", drawn), drawn
    assert "\x1b[" in seen and ("\x1b[1A" in seen or "\x1b[2A" in seen), "it is drawn over itself"


def test_pause_holds_everything_and_resume_goes_on(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1, up_bytes_per_second="4M")
    (daemon,) = crew.daemons
    file = crew.file("pausing.bin", 16 * MIB)
    put(daemon, file, wait="no")
    wait_until(lambda: crew.storage.counter("received_bytes") > 2 * MIB, "it is under way")
    daemon.upswarm("pause")
    # What was on its way when the pause came may still arrive.
    still = settle(lambda: crew.storage.counter("received_bytes"))
    assert still < 16 * MIB
    daemon.upswarm("resume")
    wait_stored(crew.storage, tag_by_hand(file))


def settle(count) -> int:
    """Wait until ``count()`` has not changed for a second and a half; return it."""
    seen, since = count(), time.monotonic()

    def quiet() -> bool:
        nonlocal seen, since
        now = count()
        if now != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since > 1.5

    wait_until(quiet, "nothing moves")
    return seen


def test_pause_and_resume_of_one_put(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1, up_bytes_per_second="4M")
    (daemon,) = crew.daemons
    one, other = crew.file("one.bin", 12 * MIB, 1), crew.file("other.bin", 2 * MIB, 2)
    put_id = put(daemon, one, wait="no")["id"]
    wait_until(lambda: crew.storage.counter("received_bytes") > MIB, "it is under way")
    daemon.upswarm("pause", put_id)
    assert put(daemon, other)["state"] == "stored", "others go on"
    assert settle(lambda: crew.storage.counter("received_bytes")) < 14 * MIB
    daemon.restart()
    assert settle(lambda: crew.storage.counter("received_bytes")) < 14 * MIB, "a pause survives a restart"
    daemon.upswarm("resume", put_id)
    wait_stored(crew.storage, tag_by_hand(one))


def test_cancel_ends_the_job_at_both_ends(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1, up_bytes_per_second="2M")
    (daemon,) = crew.daemons
    file = crew.file("unwanted.bin", 20 * MIB)
    waiting = daemon.begin("put", file, "--json")
    wait_until(lambda: crew.storage.counter("received_bytes") > MIB, "it is under way")
    (row,) = [row for row in find_ids(daemon.call("status"))]
    daemon.upswarm("cancel", row)
    done = waiting.wait(20)
    assert done.exit_code not in (0, 130) and done.json["state"] == "cancelled", done
    crew.storage.wait_logged("job ended", state="cancelled")
    assert not any(row["tag"] == tag_by_hand(file) for row in files_of(daemon.call("ls", stored=True, local=False)))
    assert daemon.upswarm("cancel", "p999", check=False).exit_code == 4


def find_ids(status) -> set[str]:
    """The ids of everything that ``status`` calls a transfer."""
    found: set[str] = set()
    if isinstance(status, dict):
        if "id" in status and "state" in status:
            found.add(str(status["id"]))
        for value in status.values():
            found |= find_ids(value)
    elif isinstance(status, list):
        for value in status:
            found |= find_ids(value)
    return found


def test_check_finds_what_has_rotted_here(crew: Crew) -> None:
    daemon = crew.daemons[0]
    file = crew.file("rotten.bin", 2 * MIB, seed=41)
    tag = put(daemon, file)["tag"]
    assert daemon.upswarm("check", tag).exit_code == 0
    with file.open("r+b") as changing:
        changing.write(b"rot")
    done = daemon.upswarm("check", tag, check=False)
    assert done.exit_code in (4, 8), done


def test_events_follow_goes_on_until_interrupted(crew: Crew) -> None:
    daemon = crew.daemons[0]
    following = daemon.begin("events", "--follow", "--json")
    put(daemon, crew.file("followed.bin", MIB, seed=51))
    wait_until(lambda: "followed.bin" in following.printed, "the event is told")
    following.interrupt()
    assert following.wait(10).exit_code in (0, 130)
    for line in following.printed.splitlines():
        assert json.loads(line)["event"]


def test_the_answer_of_put_has_everything_a_script_needs(crew: Crew) -> None:
    *_, result = progress_of_put(crew.daemons[0], crew.file("scripted.bin", 3 * MIB, seed=61))
    assert {"tag", "size", "name", "state", "seconds", "instant", "pushed", "link", "id"} <= set(result)


def test_sigterm_ends_every_program_cleanly(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1, up_bytes_per_second="2M")
    put(crew.daemons[0], crew.file("cut.bin", 8 * MIB), wait="no")
    wait_until(lambda: crew.storage.counter("received_bytes") > MIB, "in the middle of an upload")
    for program in (crew.daemons[0], crew.storage, crew.tracker):
        pid = program.pid
        assert program.stop(10.0) == 0, program.log_tail()
        assert ended(pid) and not program.socket_path.exists()
        assert "Traceback" not in program.log_path.read_text()
    crew.tracker.start()
    assert crew.tracker.end(signal.SIGINT) in (0, 130)


def test_leave_forgets_key_and_certificate(swarm: Swarm) -> None:
    swarm.tracker()
    daemon = swarm.daemon("leaver")
    identity = daemon.identity
    assert (identity / "key.pem").exists()
    daemon.upswarm("leave")
    wait_until(lambda: not (identity / "certificate.pem").exists(), "the identity is gone")
    daemon.close()
    assert swarm.upswarm("--home", daemon.home, "daemon").exit_code == 2


def test_the_command_reads_no_trio(swarm: Swarm) -> None:
    script = "import sys; import upswarm.cli; print('trio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=swarm.folder)
    assert done.stdout.strip() == "False", done
