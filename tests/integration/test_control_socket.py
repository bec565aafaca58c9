"""The control sockets of the three programs: permissions, JSON-RPC errors, and callers without manners."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys

import pytest
from support.crew import Crew
from support.processes import Program, Refused, wait_until


def programs(crew: Crew) -> list[Program]:
    """Everybody who has one."""
    return [crew.tracker, crew.storage, crew.daemons[0]]


def say(program: Program, line: bytes) -> list[dict]:
    """Send a line and return what comes back until they hang up or answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(program.socket_path))
        connection.sendall(line)
        with connection.makefile("rb") as lines:
            return [json.loads(answer) for answer in [lines.readline()] if answer]


def test_only_the_owner_may_touch_it(crew: Crew) -> None:
    for program in programs(crew):
        status = program.socket_path.stat()
        assert stat.S_ISSOCK(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o600
        assert stat.S_IMODE(program.socket_path.parent.stat().st_mode) & 0o077 == 0


def test_another_user_is_refused_by_the_kernels_word(crew: Crew) -> None:
    """Even when the file's mode would let them in: the peer's user id is asked."""
    if os.geteuid() != 0:
        pytest.fail("run this test as root: it becomes another user")
    program = crew.daemons[0]
    script = (
        "import os,socket,sys\n"
        "s=socket.socket(socket.AF_UNIX)\n"
        "s.settimeout(10)\n"
        "d=os.open(sys.argv[1],os.O_PATH|os.O_DIRECTORY)\n"
        "os.setuid(65534)\n"
        "s.connect(f'/proc/self/fd/{d}/control.sock')\n"
        's.sendall(b\'{"jsonrpc":"2.0","id":1,"method":"status"}\\n\')\n'
        "print(s.recv(100))\n"
    )
    folder = program.socket_path.parent
    folder.chmod(0o711)
    program.socket_path.chmod(0o666)
    try:
        done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=30)
    finally:
        program.socket_path.chmod(0o600)
        folder.chmod(0o700)
    assert "status" not in done.stdout and "result" not in done.stdout
    refused = ("PermissionError", "ConnectionResetError", "BrokenPipeError")
    assert "b''" in done.stdout or any(word in done.stderr for word in refused), done


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"this is no JSON\n", -32700),
        (b'{"jsonrpc":"1.0","id":1,"method":"status"}\n', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"no_such_method"}\n', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"status","params":[1]}\n', -32602),
        (b"[]\n", -32600),
        (b'"text"\n', -32600),
        (b"{" * 5000 + b"\n", -32700),
        (b"\xff\xfe\x00\n", -32700),
    ],
)
def test_what_is_no_request_gets_the_error_of_the_specification(crew: Crew, line: bytes, code: int) -> None:
    for program in programs(crew):
        (answer,) = say(program, line)
        assert answer["error"]["code"] == code, (program, answer)
        assert program.call("version")


def test_a_command_that_fails_says_code_sentence_and_exit_code(crew: Crew) -> None:
    with pytest.raises(Refused) as refused:
        crew.daemons[0].call("get", what="00" * 32 + "-1", output=str(crew.folder / "x"))
    assert refused.value.code == -32000
    assert refused.value.data["exit_code"] == 4 and refused.value.data["code"] == "not-found"
    with pytest.raises(Refused) as refused:
        crew.tracker.call("invite", role="tracker", uses=1, expires_seconds=60)
    assert refused.value.data["exit_code"] == 2


WRONG_PARAMS = [
    ("put", {}),
    ("put", {"paths": "text"}),
    ("put", {"paths": [7]}),
    ("put", {"paths": ["/tmp"], "wait": "whenever"}),
    ("get", {"what": 7}),
    ("get", {"what": "x" * 100_000}),
    ("limit", {"up": "fast"}),
    ("limit", {"up": -5}),
    ("limit", {"sideways": 5}),
    ("cancel", {}),
    ("cancel", {"id": {"a": 1}}),
    ("show", {"tag": None}),
    ("pause", {"id": "nonsense"}),
    ("share", {"paths": None}),
    ("unshare", {"what": []}),
]


@pytest.mark.parametrize(("method", "params"), WRONG_PARAMS)
def test_wrong_params_are_named_and_no_inner_failure(crew: Crew, method: str, params: dict) -> None:
    daemon = crew.daemons[0]
    with pytest.raises(Refused) as refused:
        daemon.call(method, **params)
    assert refused.value.code != -32603, f"a traceback instead of an answer: {refused.value}"
    assert not daemon.logged("control method failed")


def test_a_line_without_end_is_cut_off(crew: Crew) -> None:
    for program in programs(crew):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(15)
            connection.connect(str(program.socket_path))
            with pytest.raises(OSError):
                for _ in range(64):
                    connection.sendall(b"x" * (1 << 16))
                while connection.recv(65536):
                    pass
                raise BrokenPipeError
        program.wait_logged("control client refused")
        assert program.call("version")


def test_a_second_program_on_the_same_home_is_refused_and_says_so(crew: Crew) -> None:
    for program in programs(crew):
        done = crew.swarm.upswarm(
            "--home", program.home, program.kind, *program.arguments[2:], "--listen", "127.0.0.1:0"
        )
        assert done.exit_code == 2 and ("already running" in done.stderr or "is running" in done.stderr), done
        assert program.call("version")


def test_a_socket_file_that_a_killed_process_left_is_no_obstacle(crew: Crew) -> None:
    daemon = crew.daemons[1]
    daemon.kill()
    assert daemon.socket_path.exists()
    daemon.start()
    wait_until(lambda: daemon.call("version"), "it answers")
    assert daemon.stop() == 0
    assert not daemon.socket_path.exists()
    daemon.start()
