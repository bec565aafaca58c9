from __future__ import annotations

import io
from pathlib import Path

import pytest
from support.front_door import call, running

from protocol.ids import Role
from protocol.invite import Invite
from upswarm import membership

Capture = pytest.CaptureFixture[str]


def invite_text(role: Role = Role.PEER) -> str:
    return str(Invite(addresses=("127.0.0.1:1",), authority=bytes(32), token=b"t" * 32, role=role, expires=1))


@pytest.mark.parametrize(("role", "program"), [(Role.PEER, "daemon"), (Role.STORAGE, "storage")])
def test_an_invite_goes_to_the_program_of_its_role(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: Role, program: str
) -> None:
    seen = []

    def join(parsed: Invite, folder: Path, name: str) -> tuple[str, str]:
        seen.append((parsed.role, folder, name))
        return "n" * 52, "s" * 52

    monkeypatch.setattr(membership, "_join", join)
    ended = call(capsys, "join", invite_text(role), "--name", "here", "--home", tmp_path)
    assert (ended.code, ended.out) == (0, "n" * 52 + "\n") and f"upswarm {program}" in ended.err
    assert seen == [(role, tmp_path / program / "identity", "here")]


def test_an_invite_may_come_from_stdin(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(invite_text() + "\n"))
    monkeypatch.setattr(membership, "_join", lambda parsed, folder, name: ("n", parsed.role))
    assert call(capsys, "join", "-", "--home", tmp_path).out == "n\n"


def test_a_damaged_invite_is_exit_code_2_and_is_not_repeated(capsys: Capture, tmp_path: Path) -> None:
    text = invite_text()[:-3]
    ended = call(capsys, "join", text, "--json", "--home", tmp_path)
    assert ended.code == 2 and "damaged" in ended.err and text not in ended.out + ended.err


def test_a_member_is_not_made_a_member_again(capsys: Capture, tmp_path: Path) -> None:
    identity = tmp_path / "daemon" / "identity"
    identity.mkdir(parents=True)
    (identity / "certificate.pem").write_text("precious")
    ended = call(capsys, "join", invite_text(), "--home", tmp_path)
    assert ended.code == 6 and "leave" in ended.err
    assert (identity / "certificate.pem").read_text() == "precious"


def test_an_invite_for_a_tracker_is_refused(capsys: Capture, tmp_path: Path) -> None:
    assert call(capsys, "join", invite_text(Role.TRACKER), "--home", tmp_path).code == 6


def test_a_storage_node_that_runs_is_told_to_be_stopped_before_it_leaves(capsys: Capture, tmp_path: Path) -> None:
    with running(tmp_path, "storage") as fake:
        ended = call(capsys, "leave", "--role", "storage", "--yes", "--home", tmp_path)
    assert ended.code == 6 and "stop it first" in ended.err and fake.asked == []
