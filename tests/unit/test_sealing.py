"""Sealed files: what was sealed comes out whole or not at all, whatever was done to it, and in little memory."""

from __future__ import annotations

import os
import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import CommandError, IntegrityError
from protocol.invite import Link
from protocol.limits import FILE_BYTES_MAX, MIB
from runtime import sealed as format
from upswarm import sealing
from upswarm.hashing import manifest_of
from upswarm.sealing import open_file, seal_file, sealed_tag_of

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
SIZES = [0, 1, 65535, 65536, 65537, 3 * 65536, MIB, MIB + 1, 17 * 65536]


def sealed(folder: Path, data: bytes, key: bytes | None = KEY) -> sealing.Sealed:
    source = folder / "source"
    source.write_bytes(data)
    return seal_file(source, "name", folder / "sealed", key=key)


@pytest.mark.parametrize("size", SIZES)
def test_what_was_sealed_comes_out(tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    one = sealed(tmp_path, data)
    assert open_file(one.copy, KEY, tmp_path / "part") == size
    assert (tmp_path / "part").read_bytes() == data
    assert one.copy.stat().st_size == one.link.size_bytes == format.sealed_bytes(size)
    assert manifest_of(one.copy).tag == one.link.tag == sealed_tag_of(tmp_path / "source", KEY)
    assert Link.parse(str(one.link)) == one.link


def test_one_key_and_one_file_make_the_same_bytes_and_nothing_else_does(tmp_path: Path) -> None:
    same = {sealed(tmp_path, b"text").copy.read_bytes() for _ in range(2)}
    others = {
        sealed(tmp_path, b"text", OTHER_KEY).copy.read_bytes(),
        sealed(tmp_path, b"texu").copy.read_bytes(),
        *(sealed(tmp_path, b"text", None).copy.read_bytes() for _ in range(3)),
    }
    assert len(same) == 1 and len(others) == 5 and not same & others
    # Not even under one key do two files share what a nonce is used with.
    assert len({data[16:32] for data in same | others}) == 6


def test_a_sealed_file_shows_nothing_of_its_text_or_name(tmp_path: Path) -> None:
    data = b"what nobody shall read " * 10_000
    one = sealed(tmp_path, data)
    stored = one.copy.read_bytes()
    assert b"nobody" not in stored and b"name" not in stored and "name" not in one.copy.name
    assert one.copy.stat().st_mode & 0o777 == 0o600


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    one = sealed(tmp_path, bytes(100_000))
    with pytest.raises(IntegrityError, match="key of this link"):
        open_file(one.copy, OTHER_KEY, tmp_path / "part")
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize("size", [0, 5, 65536, 65536 * 2 + 9])
def test_no_changed_bit_is_released(tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    one = sealed(tmp_path, data)
    good = one.copy.read_bytes()
    chance = random.Random(1)
    places = {*range(0, 64), len(good) - 1, len(good) - 16, *(chance.randrange(len(good)) for _ in range(60))}
    for place in places:
        bad = bytearray(good)
        bad[place] ^= 1 << chance.randrange(8)
        one.copy.write_bytes(bad)
        with pytest.raises(IntegrityError):
            open_file(one.copy, KEY, tmp_path / "part")
        released = (tmp_path / "part").read_bytes() if (tmp_path / "part").exists() else b""
        assert data.startswith(released), "what is before the change may lie in the hidden file, nothing else"
        (tmp_path / "part").unlink(missing_ok=True)


@pytest.mark.parametrize(
    "change",
    ["cut a byte", "cut a segment", "cut to the header", "empty", "add a byte", "add a segment", "swap", "repeat"],
)
def test_nothing_is_cut_off_added_or_moved_without_being_found(tmp_path: Path, change: str) -> None:
    one = sealed(tmp_path, random.Random(3).randbytes(5 * 65536))
    good = one.copy.read_bytes()
    step = 65536 + 16
    header, parts = good[:64], [good[64 + at : 64 + at + step] for at in range(0, len(good) - 64, step)]
    bad = {
        "cut a byte": good[:-1],
        "cut a segment": header + b"".join(parts[:-1]),
        "cut to the header": header,
        "empty": b"",
        "add a byte": good + b"\0",
        "add a segment": good + parts[-1],
        "swap": header + b"".join([parts[1], parts[0], *parts[2:]]),
        "repeat": header + b"".join([parts[0], parts[0], *parts[2:]]),
    }[change]
    one.copy.write_bytes(bad)
    with pytest.raises(IntegrityError):
        open_file(one.copy, KEY, tmp_path / "part")


@given(st.integers(0, FILE_BYTES_MAX))
def test_lengths_go_both_ways(size: int) -> None:
    assert format.plain_bytes(format.sealed_bytes(size)) == size


@given(st.integers(-10, 10 * 65552))
def test_a_length_that_no_sealed_file_has_is_refused(length: int) -> None:
    try:
        size = format.plain_bytes(length)
    except IntegrityError:
        return
    assert format.sealed_bytes(size) == length


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(40 * MIB)
    tracemalloc.start()
    one = seal_file(source, "name", tmp_path / "sealed")
    sealing_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    assert one.link.key is not None
    open_file(one.copy, one.link.key, tmp_path / "part")
    opening_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Hashing has a megabyte for each thread; what is sealed at a time is one.
    assert sealing_peak < 14 * MIB and opening_peak < 8 * MIB


def test_a_file_that_changes_while_it_is_sealed_is_not_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(300_000))
    before = manifest_of(source)
    for change in (b"\1" + bytes(299_999), bytes(300_001), bytes(299_999), b""):
        source.write_bytes(change)
        monkeypatch.setattr(sealing, "manifest_of", lambda path: before)
        with pytest.raises(IntegrityError, match="changed"):
            seal_file(source, "name", tmp_path / "sealed")
        assert list((tmp_path / "sealed").iterdir()) == [], "nothing is left of it"


def test_where_there_is_no_room_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 10

    monkeypatch.setattr(sealing.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(CommandError, match="no room") as raised:
        sealed(tmp_path, bytes(1000))
    assert raised.value.exit_code == 9 and list((tmp_path / "sealed").iterdir()) == []


def test_the_part_of_somebody_else_is_not_written_through(tmp_path: Path) -> None:
    one = sealed(tmp_path, b"text")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "part").symlink_to(victim)
    open_file(one.copy, KEY, tmp_path / "part")
    assert victim.read_bytes() == b"precious" and (tmp_path / "part").read_bytes() == b"text"
    assert not (tmp_path / "part").is_symlink()


def test_a_link_does_not_show_its_key(tmp_path: Path) -> None:
    link = sealed(tmp_path, b"text").link
    assert repr(KEY) not in repr(link) and "#" in str(link)
    damaged = str(link)[:-1] + ("A" if not str(link).endswith("A") else "B")
    with pytest.raises(ValueError, match="damaged") as raised:
        Link.parse(damaged)
    assert damaged.partition("#")[2] not in str(raised.value)
    assert os.fsencode(str(link).partition("#")[2]) not in one_line(raised.value)


def one_line(error: BaseException) -> bytes:
    return repr(error).encode()
