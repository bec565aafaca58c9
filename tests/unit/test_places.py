from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.errors import ConfigError, StorageBroken, StorageError, StorageFull
from runtime.places import PROGRAMS, SOCKET_PATH_BYTES_MAX, Places, folder_trouble
from runtime.terminal import escape_controls


@pytest.mark.parametrize("program", PROGRAMS)
def test_with_a_home_everything_stands_under_it(program: str) -> None:
    places = Places.of(Path("/srv/u"), program)
    assert places.state == Path("/srv/u") / program
    assert places.control_socket == Path("/srv/u") / program / "control.sock"
    assert places.identity == Path("/srv/u") / program / "identity"
    assert places.config_file == Path("/srv/u/upswarm.toml")


def test_without_a_home_the_platforms_places_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/x/state")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/x/config")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    places = Places.of(None, "daemon")
    assert places.state == Path("/x/state/upswarm/daemon")
    assert places.config_file == Path("/x/config/upswarm/upswarm.toml")
    assert places.control_socket == tmp_path / "upswarm" / "daemon" / "control.sock"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "absent"))
    assert Places.of(None, "daemon").control_socket == places.state / "control.sock"


def test_a_relative_home_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Places.of(Path("here"), "tracker").state == tmp_path / "here" / "tracker"


def test_a_socket_path_that_no_kernel_takes_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="shorter --home"):
        Places.of(Path("/" + "x" * SOCKET_PATH_BYTES_MAX), "daemon")


def test_bytes_count_not_characters() -> None:
    with pytest.raises(ConfigError, match="shorter --home"):
        Places.of(Path("/" + "ü" * 60), "daemon")


def test_an_unknown_program_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="daemon, storage, tracker"):
        Places.of(None, "demon")


def test_places_and_config_load_no_trio() -> None:
    code = "import runtime.places, runtime.config, runtime.terminal, sys; assert 'trio' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("film.mov", "film.mov"),
        ("Überblick 日本.txt", "Überblick 日本.txt"),
        ("\x1b[2Jx", "\\x1b[2Jx"),
        ("a\nb", "a\\x0ab"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("\x9b31m", "\\x9b31m"),
        ("\udcff", "\\udcff"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_could_move_the_cursor_or_mislead_is_shown_as_its_number(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


def test_kept_characters_stay() -> None:
    assert escape_controls("a\n\x1b", keep="\n") == "a\n\\x1b"


def _failed(number: int) -> StorageBroken:
    error = StorageBroken("make folder")
    error.__cause__ = OSError(number, os.strerror(number))
    return error


@pytest.mark.parametrize(
    "error",
    [
        _failed(errno.EACCES),
        _failed(errno.EROFS),
        _failed(errno.ENOTDIR),
        PermissionError(errno.EPERM, "no"),
    ],
)
def test_a_folder_that_cannot_be_used_is_for_the_operator_to_change(error: OSError | StorageBroken) -> None:
    trouble = folder_trouble(Path("/srv/data"), error, "give --data a folder we may write to")
    assert isinstance(trouble, ConfigError)
    assert "/srv/data" in str(trouble) and "give --data" in str(trouble)


@pytest.mark.parametrize("error", [_failed(errno.EIO), OSError(errno.EIO, "no"), StorageFull("no room")])
def test_a_disk_that_fails_at_the_start_may_be_right_at_the_next_one(error: OSError | StorageBroken) -> None:
    assert isinstance(folder_trouble(Path("/srv/data"), error, ""), StorageError)
