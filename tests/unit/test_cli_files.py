from __future__ import annotations

import hashlib
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from support.front_door import TAG, call

from protocol.errors import CommandError, IntegrityError
from protocol.limits import LARGE_CHUNK_BYTES, MIB
from upswarm import hashing
from upswarm.hashing import manifest_of

Capture = pytest.CaptureFixture[str]


def plain_tag(data: bytes, chunk_bytes: int) -> str:
    """The rule, written down as plainly as can be."""
    chunks = [data[start : start + chunk_bytes] for start in range(0, max(1, len(data)), chunk_bytes)]
    digests = b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)
    return f"{hashlib.sha256(digests).hexdigest()}-{len(chunks)}"


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 7])
def test_the_tag_is_what_the_plain_rule_says(capsys: Capture, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    assert call(capsys, "tag", tmp_path / "file").out == plain_tag(data, MIB) + "\n"


def test_large_files_have_large_chunks_and_take_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    size = 64 * MIB + 5
    with path.open("wb") as file:
        file.write(b"beginning")
        file.truncate(size)
    tracemalloc.start()
    tag = manifest_of(path).tag
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(tag) == plain_tag(path.read_bytes(), LARGE_CHUNK_BYTES)
    assert peak < (hashing.THREADS_MAX + 2) * hashing.PIECE_BYTES


def test_json_says_tag_size_and_chunks(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    answer = json.loads(call(capsys, "tag", tmp_path / "file", "--json").out)
    assert (answer["tag"], answer["size"], answer["name"], answer["chunks"]) == (plain_tag(b"abc", 10), 3, "file", 1)


def test_verify_says_ok_or_is_exit_code_8(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    tag = plain_tag(b"abc", 10)
    for wanted in (tag, f"upswarm:{tag}?name=x&size=3"):
        ended = call(capsys, "verify", tmp_path / "file", wanted)
        assert (ended.code, ended.out) == (0, f"ok  {tmp_path}/file\n")
    ended = call(capsys, "verify", tmp_path / "file", TAG, "--json")
    assert ended.code == 8 and json.loads(ended.out)["error"]["exit_code"] == 8


@pytest.mark.parametrize(("name", "code"), [("absent", 4), (".", 2), ("pipe", 2)])
def test_what_is_no_file_has_no_tag(capsys: Capture, tmp_path: Path, name: str, code: int) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert call(capsys, "tag", tmp_path / name).code == code


def test_what_has_no_size_and_is_not_empty_has_no_tag(capsys: Capture) -> None:
    ended = call(capsys, "tag", "/proc/self/status")
    assert (ended.code, ended.out) == (2, "") and "copy it" in ended.err


@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite"])
def test_a_file_that_changes_while_it_is_read_has_no_tag(tmp_path: Path, change: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * MIB))
    changed: list[bool] = []

    def meddle(done: int, total: int) -> None:
        if changed:
            return
        changed.append(True)
        if change == "shrink":
            os.truncate(path, 10)
        else:
            with path.open("r+b") as file:
                file.seek(0, os.SEEK_END if change == "grow" else os.SEEK_SET)
                file.write(b"x")
            os.utime(path)

    with pytest.raises(IntegrityError, match="changed while it was read"):
        manifest_of(path, meddle)


def test_an_unreadable_disk_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    (tmp_path / "file").write_bytes(b"abc")
    monkeypatch.setattr(hashing.os, "preadv", broken)
    with pytest.raises(CommandError, match="Input/output error"):
        manifest_of(tmp_path / "file")
