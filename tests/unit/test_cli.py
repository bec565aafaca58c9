from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from support.front_door import TAG, Notify, call, running

from protocol.errors import CommandError, LinkLost, NotFound
from upswarm.cli import FAMILIES

Capture = pytest.CaptureFixture[str]

VERBS = [
    "bugreport", "cancel", "check", "completion", "config", "daemon", "demo", "doctor", "events", "get", "invite",
    "join", "leave", "limit", "ls", "nodes", "pause", "peers", "put", "resume", "revoke", "share", "show", "status",
    "service", "storage", "storage-nodes", "tag", "tracker", "unshare", "verify", "version", "watch",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _no_home_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("UPSWARM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


def stored(name: str, **more: Any) -> dict[str, Any]:
    return {
        "tag": TAG, "size": 3000, "name": name, "link": f"upswarm:{TAG}?name={name}&size=3000", "state": "stored",
        "seconds": 1.5, "instant": False, "pushed": {"a" * 52: 2000, "b" * 52: 1000}, "id": "7", **more,
    }  # fmt: skip


# What `upswarm status` has no use for, and what each of these costs: 2 to 200 ms.
FOREIGN = (
    "apsw", "asyncio", "concurrent", "cryptography", "daemon", "difflib", "hashlib", "http", "importlib.metadata",
    "importlib.resources", "jinja2", "logging", "msgpack", "msgspec", "platformdirs", "prometheus_client", "rich",
    "runtime.config", "runtime.seam", "shutil", "sqlite3", "ssl", "storage", "structlog", "subprocess", "tempfile",
    "tomllib", "tracker", "trio", "upswarm.care", "upswarm.demo", "upswarm.hashing", "upswarm.progress",
    "upswarm.service", "upswarm.transfers", "watchfiles", "zeroconf",
)  # fmt: skip


def test_status_loads_nothing_that_it_has_no_use_for(tmp_path: Path) -> None:
    """A command answers in the time it takes to type the next: most of that time is reading modules."""
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"  # what the installation's own hooks load is not ours
        "from upswarm.cli import main\n"
        f"try: main(['--home', {str(tmp_path)!r}, 'status'])\n"
        "except SystemExit as ended: assert not ended.code\n"
        f"print('loaded', sorted(set({FOREIGN!r}) & (set(sys.modules) - before)))"
    )
    with running(tmp_path, status={"peers": 3}):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["peers: 3", "loaded []"], done.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_of_verbs_says_what_the_families_say(family: str) -> None:
    module = importlib.import_module(f"upswarm.{family}")
    assert FAMILIES[family] == tuple(command.name for command in module.VERBS)


def test_every_verb_is_there_and_explains_itself(capsys: Capture) -> None:
    overview = call(capsys, "--help")
    for verb in VERBS:
        assert f"\n  {verb} " in overview.out
        assert call(capsys, verb, "--help").code == 0


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("put",), ("put", "x", "--wait", "long"), ("limit", "up"), ("limit", "up=fast"),
                  ("verify", "x", "notatag"), ("invite", "--expires", "moon"), ("demo", "--peers", "1")],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(capsys: Capture, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with running(tmp_path, limit={}):
        ended = call(capsys, "--home", tmp_path, *arguments)
    assert (ended.code, ended.out) == (2, "") and ended.err


@pytest.mark.parametrize(
    "arguments",
    [("put", __file__), ("get", TAG), ("status",), ("ls",), ("nodes",), ("peers",), ("storage-nodes",), ("events",),
     ("pause",), ("limit",), ("check",), ("invite",), ("revoke", "x"), ("show", TAG), ("cancel", "1"),
     ("unshare", "x")],
)  # fmt: skip
def test_without_a_program_it_is_exit_code_3_and_says_how_to_start_one(
    capsys: Capture, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    ended = call(capsys, *arguments, "--home", tmp_path)
    assert (ended.code, ended.out) == (3, "") and "start it: upswarm" in ended.err


def test_home_is_taken_from_flag_before_or_after_the_verb_and_from_the_environment(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path, status={"peers": 3}):
        assert call(capsys, "--home", tmp_path, "status").out == "peers: 3\n"
        assert call(capsys, "status", "--home", tmp_path).out == "peers: 3\n"
        monkeypatch.setenv("UPSWARM_HOME", str(tmp_path))
        assert call(capsys, "status").out == "peers: 3\n"
        assert call(capsys, "status", "--home", tmp_path / "else").code == 3


def test_an_error_with_json_is_one_object_too(capsys: Capture, tmp_path: Path) -> None:
    with running(tmp_path, get=NotFound("nobody has it")):
        ended = call(capsys, "get", "x", "--json", "--home", tmp_path)
    assert ended.code == 4 and "nobody has it" in ended.err
    assert json.loads(ended.out) == {"error": {"code": "not-found", "message": "nobody has it", "exit_code": 4}}


@pytest.mark.parametrize(
    "arguments",
    [("--json", "nonsense"), ("put", "--json"), ("put", "--frob", "--json"), ("limit", "up=0", "--json"),
     ("verify", "x", "notatag", "--json"), ("invite", "--expires", "moon", "--json")],
)  # fmt: skip
def test_wrong_usage_with_json_is_one_object_too(capsys: Capture, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ended = call(capsys, "--home", tmp_path, *arguments)
    assert ended.code == 2 and "Usage: upswarm" in ended.err
    error = json.loads(ended.out)["error"]
    assert (error["code"], error["exit_code"]) == ("usage", 2) and error["message"] in " ".join(ended.err.split())


def test_a_file_called_json_does_not_ask_for_it(capsys: Capture, tmp_path: Path) -> None:
    ended = call(capsys, "--home", tmp_path, "put", "--wait", "long", "--", "--json")
    assert (ended.code, ended.out) == (2, "")


def test_a_full_disk_below_stdout_is_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "upswarm", "status", "--home", str(tmp_path)]
    with running(tmp_path, status={"peers": 3}), Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr == "upswarm: [Errno 28] No space left on device\n"


def test_what_the_network_wrote_cannot_move_the_cursor(capsys: Capture, tmp_path: Path) -> None:
    evil = "\x1b[2Jx\u202e"
    files = [{"tag": TAG, "size": 1, "name": evil}]
    with running(
        tmp_path, ls=files, status={evil: {evil: [evil]}}, put={"results": [stored(evil)]}, get=NotFound(evil)
    ):
        for arguments in (("ls",), ("status",), ("put", __file__), ("get", "x")):
            ended = call(capsys, *arguments, "--home", tmp_path)
            assert "\x1b" not in ended.out + ended.err and "\u202e" not in ended.out + ended.err
            assert "\\x1b[2Jx\\u202e" in ended.out + ended.err


# --- put ---


def test_put_of_one_file_ends_with_one_flat_object(capsys: Capture, tmp_path: Path) -> None:
    with running(tmp_path, put={"results": [stored("a")]}):
        ended = call(capsys, "put", __file__, "--json", "--home", tmp_path)
    assert ended.code == 0 and ended.out.count("\n") == 1
    assert json.loads(ended.out) == stored("a")


def test_put_of_several_files_ends_with_one_object_of_results(capsys: Capture, tmp_path: Path) -> None:
    with running(tmp_path, put={"results": [stored("a"), stored("b")]}) as fake:
        ended = call(capsys, "put", __file__, __file__, "--json", "--home", tmp_path)
    assert [result["name"] for result in json.loads(ended.out)["results"]] == ["a", "b"]
    assert fake.asked[0][1]["wait"] == "stored"


def test_put_shows_progress_with_helpers_on_stderr_and_the_link_on_stdout(capsys: Capture, tmp_path: Path) -> None:
    async def put(params: dict[str, Any], notify: Notify) -> Any:
        progress = {"id": "7", "name": "a", "bytes_total": 3000, "bytes_stored": 1500, "rate": 1e6, "eta_seconds": 9}
        await notify("progress", {**progress, "state": "hashing", "bytes_hashed": 10})
        await notify(
            "progress", {**progress, "state": "sending", "pushed": {"a" * 52: 1024}, "safe": True, "note": "slow"}
        )
        return {"results": [stored("a")]}

    with running(tmp_path, put=put):
        ended = call(capsys, "put", __file__, "--home", tmp_path)
        quiet = call(capsys, "put", __file__, "-q", "--home", tmp_path)
    assert ended.out == f"stored  upswarm:{TAG}?name=a&size=3000  a\n"
    lines = ended.err.splitlines()
    assert lines[0].startswith("a: hashing, 10 B of 2.9 KiB (0 %)")
    assert lines[1] == (
        "a: sending (safe to disconnect; slow), 1.5 KiB of 2.9 KiB (50 %), 1.0 MB/s, 9.0 s left | aaaaaaaa 1.0 KiB"
    )
    assert lines[2] == "a: 2.9 KiB stored in 1.5 s (2.0 kB/s) | pushed: aaaaaaaa 2.0 KiB, bbbbbbbb 1000 B"
    assert "hashing" not in quiet.err


@pytest.mark.parametrize(
    ("wait", "results", "code"),
    [
        ("stored", [stored("a")], 0),
        ("stored", [stored("a"), stored("b", state="sending")], 7),
        ("safe", [stored("a", state="sending", safe=True)], 0),
        ("safe", [stored("a", state="sending")], 0),
        ("safe", [stored("a", state="sending", safe=False)], 7),
        ("no", [stored("a", state="hashing")], 0),
        ("stored", [stored("a"), stored("b", state="failed", error="disk full")], 1),
        ("no", [stored("b", state="failed", error={"code": "no-space", "message": "full", "exit_code": 9})], 9),
        ("stored", [stored("b", state="failed", error="full", exit_code=9)], 9),
        ("stored", [], 0),
    ],
)
def test_put_is_0_only_when_what_was_asked_for_has_happened(
    capsys: Capture, tmp_path: Path, wait: str, results: list[Any], code: int
) -> None:
    with running(tmp_path, put={"results": results}):
        assert call(capsys, "put", __file__, "--wait", wait, "--home", tmp_path).code == code


def test_put_of_what_is_not_there_is_exit_code_4_before_anybody_is_asked(capsys: Capture, tmp_path: Path) -> None:
    with running(tmp_path, put={"results": []}) as fake:
        ended = call(capsys, "put", tmp_path / "absent", "--home", tmp_path)
    assert ended.code == 4 and fake.asked == []


def test_what_a_folder_holds_besides_files_is_told(capsys: Capture, tmp_path: Path) -> None:
    outcome = {"results": [stored("a")], "skipped": [{"path": "/d/link", "reason": "a symbolic link"}]}
    with running(tmp_path, put=outcome):
        ended = call(capsys, "put", __file__, "--home", tmp_path)
        assert json.loads(call(capsys, "put", __file__, "--json", "--home", tmp_path).out) == outcome
    assert ended.code == 0 and "skipped /d/link: a symbolic link" in ended.err


def test_names_that_several_files_of_a_put_have_are_told(capsys: Capture, tmp_path: Path) -> None:
    same, other = stored("a"), {**stored("a"), "tag": "11" * 32 + "-1"}
    with running(tmp_path, put={"results": [same, other, stored("b")]}):
        assert "a: several files have this name" in call(capsys, "put", __file__, "--home", tmp_path).err
    with running(tmp_path, put={"results": [same, same]}):
        assert "several files" not in call(capsys, "put", __file__, "--home", tmp_path).err


def test_an_interrupted_put_of_many_files_tells_of_some(tmp_path: Path) -> None:
    async def wait(params: dict[str, Any], notify: Notify) -> Any:
        for number in range(50):
            await notify("progress", {"id": f"p{number}", "name": "a", "state": "sending", "bytes_total": 10})
        await trio.sleep_forever()

    with running(tmp_path, put=wait):
        command = [sys.executable, "-m", "upswarm", "put", __file__, "--home", str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stderr is not None
        told = [process.stderr.readline() for _ in range(50)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert all(b"sending" in line for line in told)
    assert err.count(b"stop it:") == 10 and b"and 40 more" in err


def test_share_prints_links_and_fails_when_one_cannot_be_shared(capsys: Capture, tmp_path: Path) -> None:
    good = {"path": "/a", "name": "a", "tag": TAG, "size": 3, "link": f"upswarm:{TAG}", "state": "shared"}
    bad = {"path": "/b", "name": "b", "state": "failed", "error": {"code": "x", "message": "gone", "exit_code": 4}}
    with running(tmp_path, share={"results": [good], "skipped": []}) as fake:
        assert call(capsys, "share", __file__, "--home", tmp_path).out == f"shared  upswarm:{TAG}  a\n"
        assert json.loads(call(capsys, "share", __file__, "--json", "--home", tmp_path).out) == good
        fake.answers["share"] = {"results": [good, bad], "skipped": []}
        ended = call(capsys, "share", __file__, "--home", tmp_path)
        assert ended.code == 4 and "b: gone" in ended.err.splitlines()
    assert fake.asked[0] == ("share", {"paths": [__file__]})


def test_a_name_fits_one_path_only(capsys: Capture, tmp_path: Path) -> None:
    assert call(capsys, "put", __file__, __file__, "--name", "x", "--home", tmp_path).code == 2


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("verb", "what"), [("put", "upload"), ("get", "download")])
def test_interrupting_a_waiting_transfer_leaves_the_job_and_says_so(
    tmp_path: Path, verb: str, what: str, number: signal.Signals, exit_code: int
) -> None:
    async def wait(params: dict[str, Any], notify: Notify) -> Any:
        await notify("progress", {"id": "job-7", "name": "a", "state": "sending", "bytes_total": 10})
        await trio.sleep_forever()

    with running(tmp_path, **{verb: wait}) as fake:
        command = [sys.executable, "-m", "upswarm", verb, __file__, "--json", "--home", str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stderr is not None
        assert b"sending" in process.stderr.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert fake.cancelled.wait(20)
    assert process.returncode == exit_code
    assert (
        f"the {what} goes on in the daemon".encode() in err
        and b"upswarm status" in err
        and b"upswarm cancel job-7" in err
    )
    assert json.loads(out) == {"state": "interrupted", "ids": ["job-7"]}
    assert [method for method, _ in fake.asked] == [verb]


# --- get and the rest ---


def test_get_prints_where_the_file_is_and_puts_it_here_by_default(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = {"tag": TAG, "size": 3000, "name": "a", "path": "/x/a", "state": "done", "seconds": 1.0, "instant": False}
    monkeypatch.chdir(tmp_path)
    with running(tmp_path, get={**result, "from": {"a" * 52: 3000}}) as fake:
        ended = call(capsys, "get", TAG, "--home", tmp_path)
        there = call(capsys, "get", "name", "-o", "sub/x", "--json", "--home", tmp_path)
    assert ended.out == "/x/a\n" and "verified" in ended.err and "from: aaaaaaaa 2.9 KiB" in ended.err
    assert json.loads(there.out)["path"] == "/x/a"
    assert [params["output"] for _, params in fake.asked] == [str(tmp_path), str(tmp_path / "sub/x")]


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (("pause",), ("pause", {})),
        (("pause", "7"), ("pause", {"id": "7"})),
        (("resume", "7"), ("resume", {"id": "7"})),
        (("cancel", "7"), ("cancel", {"id": "7"})),
        (("limit",), ("limit", {})),
        (("limit", "off"), ("limit", {"up": "off", "down": "off", "help": "off", "timetable": "off", "idle": "off"})),
        (("limit", "timetable", "08:00,1M 9:00,off"), ("limit", {"timetable": "08:00,1M 9:00,off"})),
        (("limit", "timetable", "off"), ("limit", {"timetable": "off"})),
        (("limit", "idle=on"), ("limit", {"idle": "on"})),
        (("limit", "up=20mbit", "help=off", "down=1M"), ("limit", {"up": 2.5e6, "help": "off", "down": 1e6})),
        (("check",), ("check", {})),
        (("check", TAG), ("check", {"tag": TAG})),
        (("unshare", __file__), ("unshare", {"what": __file__})),
        (("show", TAG), ("show", {"tag": TAG})),
        (("ls", "--stored"), ("ls", {"stored": True, "local": False})),
        (("unshare", "some name"), ("unshare", {"what": "some name"})),
        (("peers",), ("peers", {})),
        (("storage-nodes",), ("storage_nodes", {})),
        (("leave", "--yes"), ("leave", {})),
    ],
)
def test_verbs_become_methods(
    capsys: Capture, tmp_path: Path, arguments: tuple[str, ...], asked: tuple[str, dict[str, Any]]
) -> None:
    with running(tmp_path, **{asked[0]: {"ok": True}}) as fake:
        ended = call(capsys, *arguments, "--json", "--home", tmp_path)
    assert (ended.code, json.loads(ended.out), fake.asked) == (0, {"ok": True}, [asked])


def test_the_trackers_verbs_go_to_the_tracker(capsys: Capture, tmp_path: Path) -> None:
    with running(
        tmp_path,
        "tracker",
        invite={"invite": "upswarm-invite-1-x"},
        nodes={"nodes": [{"node": "a" * 52}]},
        revoke={"node": "abc"},
    ) as fake:
        assert (
            call(capsys, "invite", "--uses", "3", "--expires", "1h", "--home", tmp_path).out == "upswarm-invite-1-x\n"
        )
        assert call(capsys, "nodes", "--home", tmp_path).out.splitlines()[0] == "NODE"
        assert call(capsys, "revoke", "ab", "--home", tmp_path).out == "revoked abc\n"
    assert fake.asked[0] == ("invite", {"role": "peer", "uses": 3, "expires_seconds": 3600})
    assert fake.asked[2] == ("revoke", {"node": "ab"})


def test_status_speaks_to_whoever_runs_here(capsys: Capture, tmp_path: Path) -> None:
    with running(tmp_path, "storage", status={"jobs": [{"tag": "t", "bytes_stored": 2048}]}):
        ended = call(capsys, "status", "--home", tmp_path)
        assert call(capsys, "status", "--of", "daemon", "--home", tmp_path).code == 3
    assert ended.out == "jobs:\n  TAG  BYTES_STORED\n  t    2.0 KiB\n"


@pytest.mark.parametrize(
    ("number", "exit_code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_watching_status_goes_on_until_interrupted(
    tmp_path: Path, number: signal.Signals, exit_code: int, word: str
) -> None:
    with running(tmp_path, status={"peers": 1}):
        command = [sys.executable, "-m", "upswarm", "status", "--watch", "--json", "--home", str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(2):
            assert json.loads(process.stdout.readline()) == {"peers": 1}
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == exit_code and f"upswarm: {word}".encode() in err


def test_events_are_lines_or_json_lines(capsys: Capture, tmp_path: Path) -> None:
    async def events(params: dict[str, Any], notify: Notify) -> Any:
        await notify("event", {"event": "stored", "tag": TAG, "size": 1024})
        return {}

    with running(tmp_path, events=events) as fake:
        assert call(capsys, "events", "--home", tmp_path).out == f"stored tag={TAG} size=1.0 KiB\n"
        ended = call(capsys, "events", "--follow", "--json", "--home", tmp_path)
    assert json.loads(ended.out) == {"event": "stored", "tag": TAG, "size": 1024}
    assert [params for _, params in fake.asked] == [{"follow": False}, {"follow": True}]


def test_check_that_finds_rot_is_exit_code_8(capsys: Capture, tmp_path: Path) -> None:
    rotten = {"path": "/x", "tag": TAG, "ok": False, "says": "has other bytes"}
    with running(tmp_path, check={"ok": False, "files": [rotten]}):
        ended = call(capsys, "check", "--home", tmp_path)
    assert ended.code == 8 and "ROTTEN  /x    has other bytes" in ended.out


@pytest.mark.parametrize(
    ("error", "code"),
    [(LinkLost("gone"), 5), (CommandError("refused", "no", 6), 6), (CommandError("no-space", "full", 9), 9)],
)
def test_exit_codes_follow_from_the_error(capsys: Capture, tmp_path: Path, error: Exception, code: int) -> None:
    with running(tmp_path, show=error):
        assert call(capsys, "show", TAG, "--home", tmp_path).code == code


def test_a_reader_that_had_enough_is_no_traceback(tmp_path: Path) -> None:
    with running(tmp_path, ls=[{"tag": TAG, "name": "x" * 100} for _ in range(2000)]):
        process = subprocess.run(
            f"{sys.executable} -m upswarm ls --home {tmp_path} | head -1", shell=True, capture_output=True, timeout=60
        )
    assert process.stdout.startswith(b"TAG") and process.stderr == b""


def test_leaving_without_a_daemon_forgets_the_identity_and_nothing_else(capsys: Capture, tmp_path: Path) -> None:
    identity = tmp_path / "daemon" / "identity"
    identity.mkdir(parents=True)
    (identity / "key.pem").write_text("key")
    (tmp_path / "daemon" / "library.db").write_text("library")
    assert call(capsys, "leave", "--home", tmp_path).code == 0
    assert not identity.exists() and (tmp_path / "daemon" / "library.db").exists()
    assert call(capsys, "leave", "--home", tmp_path).code == 4
