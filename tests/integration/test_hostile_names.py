"""A hundred thousand evil names, on real disks: none leads out of its folder, whatever is asked or put."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import trio
from support.runtimes import memory_runtime

from daemon.naming import UnsafeName, safe_parts, safe_target
from daemon.placing import choose_target
from daemon.walking import find_files
from protocol.errors import CommandError
from protocol.ids import Tag
from runtime.real import RealDisk

PIECES = [
    "..", ".", "", "/", "//", "\\", "..\\", "../", "/..", "C:", "CON", "nul.txt", "LPT1", "aux .c", "a.", "a ",
    "\x00", "\n", "\r", "\x1b[2J", "\x1b]0;t\x07", "\x9b", "\u202e", "\u2066", "\u2028", "\u200f", "~",
    "~root", "$HOME", "`id`", "-rf", "*", "a" * 255, "b" * 256, "ä" * 128, "A\u030a", "Å", "\ud800", "%2e%2e",
    "．．", "∕", "\u2024\u2024", "COM\u00b9", ".ssh", "x", ".x.0123abcd.upswarm-part", "etc", "passwd", "out",
    "in", "link", "file", "key.pem", "…", "\ufeff", "e\u0301", "ﬀ", "ı", "K",
]  # fmt: skip
NAMES = 100_000
# Each makes folders, durably.
ON_DISK = 300


def evil_names(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    names = []
    for _ in range(count):
        parts = [
            "".join(chance.choices(PIECES, k=chance.choice((1, 1, 1, 2, 3)))) for _ in range(chance.randrange(1, 6))
        ]
        names.append("/".join(parts))
    return names


def outside(folder: Path, below: Path) -> list[tuple[str, int, int]]:
    """Return what is around ``below``, as it is: any touch shows."""
    seen = []
    for root, folders, files in os.walk(folder):
        if Path(root) == below.parent and below.name in folders:
            folders.remove(below.name)
        for name in (*folders, *files):
            status = os.lstat(os.path.join(root, name))
            seen.append((os.path.join(root, name), status.st_mtime_ns, status.st_size))
    return sorted(seen)


def test_no_name_of_a_download_leads_out_of_its_folder(tmp_path: Path) -> None:
    here = tmp_path / "a" / "b" / "downloads"
    (here / "in").mkdir(parents=True)
    (tmp_path / "a" / "secret").write_text("untouched")
    # Links that lead out lie in the way, where names will try to go.
    (here / "link").symlink_to(tmp_path / "a")
    (here / "out").symlink_to(tmp_path)
    (here / "in" / "x").symlink_to(tmp_path / "a")
    before = outside(tmp_path, here)
    runtime = memory_runtime()
    taken: dict[str, None] = {}
    refused = in_the_way = 0
    for name in evil_names(NAMES, 1):
        try:
            target = safe_target(here, name)
        except UnsafeName:
            refused += 1
            continue
        taken[name] = None
        assert os.path.normpath(target) == str(target) and str(target).startswith(f"{here}/"), name
    assert len(taken) > 1000 and refused > NAMES // 2, (len(taken), refused)

    async def choose() -> None:
        nonlocal in_the_way
        # Those through a link first: they would lead out.
        for name in sorted(taken, key=lambda name: not name.startswith(("link/", "out/", "in/x/")))[:ON_DISK]:
            try:
                chosen = await choose_target(runtime, None, here, name, Tag(bytes(32), 1))
            except CommandError:
                in_the_way += 1
                continue
            # What the kernel makes of it, links and all, is below the folder.
            real = os.path.realpath(chosen.parent)
            assert real == str(here) or real.startswith(f"{here}/"), name

    trio.run(choose)
    assert in_the_way > 3, "links in the way were met"
    assert outside(tmp_path, here) == before, "nothing around it was made, changed or removed"


def test_no_name_of_a_put_leaves_as_another_than_a_path_below(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_text("not below")
    (folder / "link").symlink_to("../secret")
    (folder / "up").symlink_to("..")
    made = 0
    for name in evil_names(4000, 2):
        part = name.replace("/", "")
        try:
            (folder / part).write_bytes(b"")
            made += 1
        except (OSError, ValueError):
            continue
    assert made > 500
    found, skipped = find_files(RealDisk(), folder, None)
    for file in found:
        assert file.path.parent == folder and not file.path.is_symlink() and ".." not in file.name.split("/")
        file.name.encode("utf-8")
    assert {one.path.name for one in skipped} >= {"link", "up"}, "links are named, and not followed"
    # Not every name that leaves may arrive as a path everywhere: that is the receiver's to judge, by the same rule.
    for file in found:
        try:
            assert all(part not in ("", ".", "..") for part in safe_parts(file.name))
        except UnsafeName:
            continue


def test_a_file_that_turns_into_a_link_while_it_is_opened_shows_nothing_of_what_it_leads_to(tmp_path: Path) -> None:
    share_folder, victim = tmp_path / "share", tmp_path / "secret"
    share_folder.mkdir()
    victim.write_bytes(b"SECRET" * 100)
    path, spare, link = share_folder / "file", share_folder / "spare", share_folder / "link"
    path.write_bytes(b"public" * 100)
    disk, stop, swaps = RealDisk(), threading.Event(), 0

    def swap() -> None:
        nonlocal swaps
        while not stop.is_set():
            link.symlink_to(victim)
            os.replace(link, path)
            spare.write_bytes(b"public" * 100)
            os.replace(spare, path)
            swaps += 1

    racer = threading.Thread(target=swap)
    racer.start()
    opened = refused = 0
    try:
        while opened + refused < 20_000:
            try:
                file = disk.open_read(path)
            except OSError:
                refused += 1
                continue
            buffer = memoryview(bytearray(600))
            file.read_into(buffer, 0)
            file.close()
            assert b"SECRET" not in bytes(buffer)
            opened += 1
    finally:
        stop.set()
        racer.join()
    assert swaps > 10 and opened > 100 and refused > 100, (swaps, opened, refused)
