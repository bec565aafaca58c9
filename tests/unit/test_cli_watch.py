"""``upswarm watch``: what is asked of the daemon, and how its answer is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.front_door import call, running

from protocol.errors import CommandError, NotFound

Capture = pytest.CaptureFixture[str]
FOLDER = {"path": "/srv/renders", "configured": False, "done": 12, "settling": 1, "putting": 2, "trouble": ""}


@pytest.mark.parametrize(("verb", "method"), [("add", "watch_add"), ("remove", "watch_remove")])
def test_a_folder_is_named_absolutely(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, method: str
) -> None:
    (tmp_path / "card").mkdir()
    monkeypatch.chdir(tmp_path)
    with running(tmp_path, **{method: {"folders": [FOLDER]}}) as fake:
        ended = call(capsys, "watch", verb, "card", "--home", tmp_path)
    assert ended.code == 0 and fake.asked == [(method, {"path": str(tmp_path / "card")})]
    assert ended.out.splitlines()[1].split() == ["/srv/renders", "12", "2", "1"]


def test_the_list_is_a_table_or_json(capsys: Capture, tmp_path: Path) -> None:
    with running(tmp_path, watch_list={"folders": [{**FOLDER, "trouble": "gone\x1b[2J"}]}):
        shown = call(capsys, "watch", "list", "--home", tmp_path)
        data = call(capsys, "watch", "list", "--json", "--home", tmp_path)
    assert shown.out.splitlines()[0].split() == ["PATH", "DONE", "PUTTING", "SETTLING", "TROUBLE"]
    assert "\x1b" not in shown.out and "gone" in shown.out
    assert json.loads(data.out)["folders"][0]["done"] == 12


@pytest.mark.parametrize(
    ("error", "code"), [(NotFound("/x is not watched"), 4), (CommandError("refused", "the settings say so", 6), 6)]
)
def test_what_the_daemon_refuses_is_said(capsys: Capture, tmp_path: Path, error: CommandError, code: int) -> None:
    with running(tmp_path, watch_remove=error):
        ended = call(capsys, "watch", "remove", "/x", "--home", tmp_path)
    assert ended.code == code and error.sentence in ended.err
