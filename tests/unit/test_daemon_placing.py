"""Where a download may go: what cannot be a file's name is the user's to change, not to try again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon.hashing import hash_file
from daemon.placing import choose_target
from protocol.errors import CommandError, NotFound
from protocol.ids import Tag
from runtime.real import real_runtime

TAG = Tag(bytes(32), 1)


@pytest.mark.parametrize("name", ["a" * 256, "ü" * 128])
async def test_a_name_that_no_file_can_have_is_refused_as_that(tmp_path: Path, name: str) -> None:
    with pytest.raises(CommandError, match="not a possible file name") as refused:
        await choose_target(real_runtime(), tmp_path / name, tmp_path, "plain", TAG)
    assert refused.value.exit_code == 2


async def test_the_longest_name_is_one(tmp_path: Path) -> None:
    wanted = tmp_path / ("a" * 255)
    assert await choose_target(real_runtime(), wanted, tmp_path, "plain", TAG) == wanted


async def test_a_folder_that_no_folder_can_be_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"cannot be made.*too long") as refused:
        await choose_target(real_runtime(), tmp_path / ("a" * 300) / "x", tmp_path, "plain", TAG)
    assert refused.value.exit_code == 1


async def test_a_file_to_put_whose_name_is_too_long_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="so long"):
        await hash_file(real_runtime(), tmp_path / ("a" * 300))


async def test_folders_on_the_way_are_the_users_like_the_file(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        target = await choose_target(real_runtime(), tmp_path, tmp_path, "films/cut/a.mov", TAG)
    finally:
        os.umask(mask)
    assert target == tmp_path / "films/cut/a.mov"
    assert [folder.stat().st_mode & 0o777 for folder in (target.parent, target.parent.parent)] == [0o755, 0o755]


async def test_a_file_that_is_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(b"")
    for wanted in (tmp_path / "film" / "x", tmp_path / "film" / "y" / "x"):
        with pytest.raises(CommandError, match=r"a file is in the way of this folder; say -o PATH$") as refused:
            await choose_target(real_runtime(), wanted, tmp_path, "plain", TAG)
        assert refused.value.exit_code == 6
