"""No name from the network leads out of the folder, whatever it is made of."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from daemon.naming import UnsafeName, name_of_parts, part_path, safe_parts, safe_target
from protocol.errors import CommandError
from protocol.ids import Tag

EVIL = st.sampled_from(
    [
        "..", ".", "", "/", "//", "\\", "..\\", "C:", "CON", "nul.txt", "LPT1", "aux .c", "a.", "a ", "\x00", "\n",
        "\x1b[2J",
        "\u202e", "\u2066", "\u2028", "~", "-rf", "a" * 255, "b" * 256, "ä" * 128, "A\u030a", "\ud800", "%2e%2e",
        "．．", "∕",
        "\u2024\u2024", "COM\u00b9",
    ]
)  # fmt: skip
NAMES = st.one_of(
    st.text(max_size=300),
    st.lists(st.one_of(EVIL, st.text(max_size=20)), max_size=12).map("/".join),
    st.lists(EVIL, max_size=4).map("".join),
)


@given(NAMES)
def test_no_name_escapes_the_folder(name: str) -> None:
    folder = Path("/downloads/here")
    try:
        target = safe_target(folder, name)
    except UnsafeName:
        return
    normal = os.path.normpath(os.fspath(target))
    assert normal == os.fspath(target), "nothing is left that a system would resolve"
    assert normal.startswith("/downloads/here/")
    for part in target.relative_to(folder).parts:
        assert part not in ("", ".", "..")
        assert len(part.encode()) <= 255
        assert "\\" not in part and part[-1] not in ". "
        assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in part)
        assert not any(
            unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
            for character in part
        )


@given(NAMES)
def test_a_safe_name_stays_what_it_is(name: str) -> None:
    try:
        parts = safe_parts(name)
    except UnsafeName:
        return
    again = "/".join(parts)
    assert safe_parts(again) == parts
    assert unicodedata.is_normalized("NFC", again)


@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=5))
def test_a_put_name_can_travel_or_is_refused(parts: list[str]) -> None:
    try:
        name = name_of_parts(parts)
    except CommandError as error:
        assert error.exit_code == 2
        return
    assert 1 <= len(name.encode("utf-8")) <= 1024
    assert unicodedata.is_normalized("NFC", name)


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=255))
def test_the_part_file_lies_beside_its_target_and_fits_a_file_system(name: str) -> None:
    target = Path("/downloads") / name
    if len(target.parts) != 3 or target.name in ("..", "."):
        return
    part = part_path(target, Tag(b"\x07" * 32, 3))
    assert part.parent == target.parent
    assert part.name != target.name
    assert len(os.fsencode(part.name)) <= 255
