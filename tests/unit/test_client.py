from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from support.front_door import Notify, running

from protocol.errors import CommandError, NotFound
from upswarm import client as client_module
from upswarm.client import Client, NoProgram


@contextmanager
def saying(path: Path, said: bytes) -> Iterator[None]:
    """Listen on ``path`` and answer the first client with raw bytes, then hang up."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def work() -> None:
            stream, _ = listener.accept()
            with stream:
                stream.recv(65536)
                stream.sendall(said)

        thread = threading.Thread(target=work)
        thread.start()
        yield
        thread.join(10)


def test_a_call_returns_the_result(tmp_path: Path) -> None:
    with running(tmp_path, status={"peers": 3}) as fake, Client.of_home(tmp_path) as client:
        assert client.status() == {"peers": 3}
        assert client.call("status", {"a": 1}) == {"peers": 3}
    assert fake.asked == [("status", {}), ("status", {"a": 1})]


def test_notifications_come_in_order_before_the_result(tmp_path: Path) -> None:
    async def put(params: dict[str, Any], notify: Notify) -> Any:
        for number in range(3):
            await notify("progress", {"number": number})
        return {"results": []}

    seen: list[int] = []
    with running(tmp_path, put=put), Client.of_home(tmp_path) as client:
        outcome = client.put([Path("x")], progress=lambda method, params: seen.append(params["number"]))
    assert (seen, outcome) == ([0, 1, 2], {"results": []})


def test_paths_are_made_absolute_here_not_in_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    (tmp_path / "folder" / "link").symlink_to("elsewhere")
    with running(tmp_path / "h", put={"results": []}, get={}) as fake, Client.of_home(tmp_path / "h") as client:
        client.put([Path("a"), Path("../b"), Path("."), Path(".."), Path("link")], name="n", wait="safe")
        client.get("some", Path("o"))
        client.get("some")
    folder = tmp_path / "folder"
    paths = [str(path) for path in (folder / "a", tmp_path / "b", folder, tmp_path, folder / "link")]
    assert fake.asked[0] == ("put", {"paths": paths, "name": "n", "wait": "safe"})
    assert fake.asked[1:] == [
        ("get", {"what": "some", "output": str(folder / "o")}),
        ("get", {"what": "some", "output": None}),
    ]


def test_a_name_that_is_no_text_travels(tmp_path: Path) -> None:
    async def echo(params: dict[str, Any], notify: Notify) -> Any:
        return params["paths"]

    name = os.fsdecode(b"/x/\xff\n")
    with running(tmp_path, put=echo), Client.of_home(tmp_path) as client:
        assert client.put([Path(name)]) == cast(Any, [name])


def test_a_refusal_keeps_code_sentence_and_exit_code(tmp_path: Path) -> None:
    with running(tmp_path, get=NotFound("no such tag")), Client.of_home(tmp_path) as client:
        with pytest.raises(CommandError) as caught:
            client.get("x")
        assert (caught.value.code, caught.value.sentence, caught.value.exit_code) == ("not-found", "no such tag", 4)
        with pytest.raises(CommandError, match="no method"):
            client.status()


def test_nobody_there_is_exit_code_3_and_says_how_to_start(tmp_path: Path) -> None:
    with pytest.raises(NoProgram, match="start it: upswarm daemon") as caught:
        Client.of_home(tmp_path)
    assert caught.value.exit_code == 3


def test_a_socket_whose_process_died_is_nobody_too(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with pytest.raises(NoProgram):
        Client(tmp_path / "s")


def test_a_program_that_hangs_up_is_temporary(tmp_path: Path) -> None:
    with saying(tmp_path / "s", b""), Client(tmp_path / "s") as client, pytest.raises(CommandError) as caught:
        client.status()
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("said", [b"\n", b"nonsense\n", b"[1]\n", b"\xff\n", b'{"id":1,"error":7}\n'])
def test_a_program_that_speaks_nonsense_is_an_error_not_a_crash(tmp_path: Path, said: bytes) -> None:
    with saying(tmp_path / "s", said), Client(tmp_path / "s") as client, pytest.raises(CommandError) as caught:
        client.status()
    assert caught.value.code == "protocol"


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LINE_BYTES_MAX", 1000)
    with (
        saying(tmp_path / "s", b"x" * 5000),
        Client(tmp_path / "s") as client,
        pytest.raises(CommandError, match="line"),
    ):
        client.status()


def test_no_answer_in_time_is_a_timeout(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with Client(tmp_path / "s") as client, pytest.raises(CommandError) as caught:
            client.call("status", seconds_max=0.05)
    assert caught.value.exit_code == 10


def test_a_socket_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, status={}):
        monkeypatch.setattr(client_module.os, "geteuid", lambda: 4242)
        if os.getuid() == 0:
            Client.of_home(tmp_path).close()  # root may be who it is
            monkeypatch.setattr(client_module.struct, "unpack", lambda *_: (1, 4243, 1))
        with pytest.raises(CommandError, match="not you and not root") as caught:
            Client.of_home(tmp_path)
    assert caught.value.exit_code == 6
