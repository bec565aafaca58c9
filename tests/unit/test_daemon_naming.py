"""Names on put and on get."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.naming import UnsafeName, is_part, name_of_parts, part_path, safe_parts, safe_target
from protocol.errors import CommandError
from protocol.ids import Tag


@pytest.mark.parametrize(
    "name",
    [
        "", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".", "a/./b", "..\\x", "a\\b", "x\x00y", "x\ny",
        "\x1b]0;x\x07",
        "evil\u202etxt.exe", "\u2066x", "x.", "x ", "a./b", "con", "CON.txt", "nul", "COM1.tar.gz", "lpt9",
        "com\u00b2",
        "a/aux/b", "x" * 256, "ä" * 128, "\ud800", "a\u2028b",
    ],
)  # fmt: skip
def test_evil_names_are_refused(name: str) -> None:
    with pytest.raises(UnsafeName) as caught:
        safe_parts(name)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(
    "name",
    ["a", "a/b/c.txt", ".hidden", "..a", "a..b", "console.txt", "company", "naïve/日本語.mov", "two words", "x" * 255,
     "-rf", "~"],
)  # fmt: skip
def test_ordinary_names_are_taken(name: str) -> None:
    assert "/".join(safe_parts(name)) == name
    assert safe_target(Path("/folder"), name) == Path("/folder") / name


def test_equal_names_have_equal_bytes_whatever_system_they_come_from() -> None:
    assert name_of_parts(["A\u030a.txt"]) == name_of_parts(["\u00c5.txt"]) == "\u00c5.txt"
    assert safe_parts("A\u030a.txt") == ("\u00c5.txt",)


def test_names_that_cannot_travel_are_refused_on_put() -> None:
    with pytest.raises(CommandError, match="UTF-8"):
        name_of_parts(["caf\udce9"])
    with pytest.raises(CommandError, match="1024"):
        name_of_parts(["x" * 250] * 5)
    for parts in (["..", "evil"], ["a", ".", "b"], ["a", ""], ["a/b"], ["a\0b"], [".."]):
        with pytest.raises(CommandError, match="leads elsewhere"):
            name_of_parts(parts)


def test_a_part_file_is_known_by_its_name() -> None:
    part = part_path(Path("/d/film.mov"), Tag(bytes(range(32)), 9))
    assert part == Path("/d/.film.mov.00010203.upswarm-part")
    assert is_part(part.name)
    assert not is_part("film.mov")
