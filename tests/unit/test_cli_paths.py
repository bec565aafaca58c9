"""Paths that somebody typed: what is none, or cannot be looked at, is a sentence and an exit code, no traceback."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from support.front_door import TAG, call, running

from upswarm.paths import path_error

Capture = pytest.CaptureFixture[str]
TOO_LONG = "a" * 300


@pytest.mark.parametrize(
    ("number", "code", "exit_code"),
    [
        (errno.ENOENT, "not-found", 4),
        (errno.ENOTDIR, "not-found", 4),
        (errno.ENAMETOOLONG, "not-found", 4),
        (errno.EACCES, "unreadable", 1),
        (errno.ELOOP, "unreadable", 1),
        (errno.EIO, "unreadable", 1),
    ],
)
def test_what_the_file_system_says_has_an_exit_code(number: int, code: str, exit_code: int) -> None:
    told = path_error(OSError(number, os.strerror(number)), Path("/there"))
    assert (told.code, told.exit_code) == (code, exit_code)
    assert str(told) == f"/there: {os.strerror(number)}"


@pytest.mark.parametrize("verb", ["put", "share", "tag"])
def test_a_name_that_no_file_can_have_is_not_found(capsys: Capture, tmp_path: Path, verb: str) -> None:
    with running(tmp_path, put={}, share={}) as fake:
        ended = call(capsys, verb, TOO_LONG, "--json", "--home", tmp_path)
    assert ended.code == 4 and "Traceback" not in ended.err and fake.asked == []
    assert json.loads(ended.out)["error"]["code"] == "not-found"


def test_a_link_that_leads_in_a_circle_is_told(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with running(tmp_path, put={}) as fake:
        ended = call(capsys, "put", tmp_path / "circle", "--home", tmp_path)
    assert ended.code == 1 and "Too many levels" in ended.err and fake.asked == []


def test_what_is_no_path_is_unshared_as_a_name(capsys: Capture, tmp_path: Path) -> None:
    for what in (TOO_LONG, TAG, "circle", ""):
        with running(tmp_path, unshare={"paths": []}) as fake:
            assert call(capsys, "unshare", what, "--home", tmp_path).code == 0
        assert fake.asked == [("unshare", {"what": what})]


@pytest.mark.parametrize(
    "arguments",
    [("put", ""), ("put", __file__, ""), ("share", ""), ("get", TAG, "-o", ""), ("tag", ""), ("verify", "", TAG),
     ("watch", "add", ""), ("watch", "remove", ""), ("status", "--home", ""), ("demo", ""), ("storage", "--data", ""),
     ("config", "validate", ""), ("service", "install", "daemon", "--into", "")],
)  # fmt: skip
def test_an_empty_path_is_not_the_current_folder(capsys: Capture, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """``upswarm put "$FOLDER"``, where nobody set FOLDER, must not store whatever lies around."""
    with running(tmp_path, put={}, share={}, get={}, watch_add={}, watch_remove={}) as fake:
        ended = call(capsys, "--home", tmp_path, *arguments)
    assert ended.code == 2 and "empty path" in ended.err and fake.asked == []


@pytest.mark.parametrize("arguments", [("get", TAG), ("get", TAG, "-o", "here"), ("watch", "add", "here")])
def test_a_current_folder_that_is_gone_is_told(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with running(tmp_path, get={}, watch_add={}) as fake:
        ended = call(capsys, *arguments, "--json", "--home", tmp_path)
    assert ended.code == 4 and "current folder is gone" in ended.err and fake.asked == []
    assert json.loads(ended.out)["error"]["exit_code"] == 4


def test_a_path_that_ends_with_a_slash_means_a_folder(capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    with running(tmp_path, get={}) as fake:
        for path in (tmp_path / "new", file):
            ended = call(capsys, "get", TAG, "-o", f"{path}/", "--json", "--home", tmp_path)
            assert ended.code == 4 and json.loads(ended.out)["error"]["code"] == "not-found"
            assert "no such folder" in ended.err
    assert fake.asked == []


def test_who_means_a_file_whose_name_begins_with_a_dash_is_told_how_to_say_so(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-film").write_bytes(b"x")
    wrong = call(capsys, "put", "-film")
    assert wrong.code == 2 and "./ in front" in wrong.err
    assert "./ in front" not in call(capsys, "put", "-other").err
