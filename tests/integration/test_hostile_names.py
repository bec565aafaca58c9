"""A hundred thousand evil names, on real disks: none leads out of its folder, whatever is asked or put."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from support.crew import Crew, ledger_rows
from support.processes import Swarm, wait_until
from support.runtimes import memory_runtime
from support.strangers import manifest_of

from daemon.hashing import hash_file
from daemon.naming import UnsafeName, name_of_parts, safe_parts, safe_target
from daemon.placing import choose_target
from daemon.walking import FILES_MAX, find_files
from protocol.errors import CommandError
from protocol.ids import Tag
from runtime.real import RealDisk
from runtime.seam import FileStatus

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


def real_path(path: Path) -> str:
    return os.path.realpath(path)


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
            real = real_path(chosen.parent)
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


# --- watched folders ---

WATCHED = 1200


def test_no_path_in_a_watched_folder_becomes_a_name_that_leads_elsewhere() -> None:
    named = 0
    for name in evil_names(NAMES, 3):
        # As a walk finds it: no part has a slash. Bytes that are no UTF-8 come as lone surrogates.
        parts = name.split("/")
        try:
            made = name_of_parts(parts)
        except CommandError:
            continue
        named += 1
        assert made == unicodedata.normalize("NFC", made) and 1 <= len(made.encode("utf-8")) <= 1024
        assert made.count("/") == len(parts) - 1 and not {"", ".", ".."} & set(made.split("/")), name
        with contextlib.suppress(UnsafeName):
            assert safe_parts(made) == tuple(made.split("/"))
    assert named > 1000


def evil_files(folder: Path) -> Iterator[Path]:
    """Make files, each with a content of its own, under whatever names the file system takes."""
    chance = random.Random(4)
    pieces = [os.fsencode(piece) if piece != "\ud800" else b"\xed\xa0\x80" for piece in PIECES]
    pieces += [b"\xff", b"\xfe\x9b2J", b"\xc3", b"\x80", "\u0301".encode(), b"x" * 255, "ä".encode() * 127]
    made = 0
    while made < WATCHED:
        parts = [
            b"".join(chance.choices(pieces, k=chance.choice((1, 1, 2, 3)))) for _ in range(chance.choice((1, 1, 2)))
        ]
        parts = [part.replace(b"/", b"").replace(b"\0", b"") for part in parts]
        if any(part in (b"", b".", b"..") or len(part) > 255 for part in parts):
            continue
        path = Path(os.fsdecode(b"/".join((os.fsencode(folder), *parts))))
        try:
            path.parent.mkdir(exist_ok=True)
            with path.open("xb") as file:
                file.write(b"file %d" % made)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
        made += 1
        yield path


@pytest.mark.slow
def test_a_watched_folder_of_evil_names_puts_what_may_travel_and_nothing_from_outside(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1)
    (daemon,) = crew.daemons
    secret = swarm.folder / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(b"SECRET" * 100)
    watched = swarm.folder / "watched"
    watched.mkdir()
    wanted: set[tuple[str, bytes]] = set()
    for path in evil_files(watched):
        parts = path.relative_to(watched).parts
        with contextlib.suppress(UnicodeEncodeError):
            name = unicodedata.normalize("NFC", "/".join(parts))
            if len(name.encode("utf-8")) <= 1024 and not any(part.startswith(".") for part in parts):
                wanted.add((name, manifest_of(path).tag.to_bytes()))
    for name, target in (("a link", secret / "key"), ("b link", secret), ("c link", Path("../secret/key"))):
        (watched / name).symlink_to(target)
    assert len(wanted) > WATCHED / 4
    daemon.call("watch_add", path=str(watched))

    def rows() -> set[tuple[str, bytes]]:
        return {(str(name), bytes(tag)) for name, tag in ledger_rows(crew.storage, "SELECT name, tag FROM files")}

    wait_until(lambda: len(rows()) >= len(wanted), f"{len(wanted)} files are stored", 100)
    (told,) = daemon.call("watch_list")["folders"]
    assert told["trouble"] == "" and rows() == wanted
    assert not [path for path in crew.storage.data.rglob("*") if path.is_file() and b"SECRET" in path.read_bytes()]


def test_a_folder_that_turns_into_a_link_while_a_file_in_it_is_opened_leads_nowhere(tmp_path: Path) -> None:
    watched, outside_ = tmp_path / "watched", tmp_path / "outside"
    for folder, content in ((watched / "sub" / "deep", b"public"), (outside_ / "deep", b"SECRET")):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(content)
    path, link, real = watched / "sub" / "deep" / "file", tmp_path / "link", tmp_path / "real"
    disk, stop = RealDisk(), threading.Event()

    def swap() -> None:
        while not stop.is_set():
            link.symlink_to(outside_)
            (watched / "sub").rename(real)
            link.rename(watched / "sub")
            (watched / "sub").unlink()
            real.rename(watched / "sub")

    racer = threading.Thread(target=swap)
    racer.start()
    seen: dict[bytes, int] = {}
    refused = 0
    try:
        while sum(seen.values()) + refused < 20_000 or not (refused and seen):
            try:
                file = disk.open_below(watched, path)
            except OSError:
                refused += 1
                continue
            buffer = memoryview(bytearray(6))
            file.read_into(buffer, 0)
            file.close()
            seen[bytes(buffer)] = seen.get(bytes(buffer), 0) + 1
    finally:
        stop.set()
        racer.join()
    assert set(seen) == {b"public"}, seen


async def test_a_file_behind_a_link_has_no_manifest_where_links_must_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "watched").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"SECRET")
    (tmp_path / "watched" / "sub").symlink_to(tmp_path / "outside")
    path = tmp_path / "watched" / "sub" / "file"
    runtime = memory_runtime()
    assert (await hash_file(runtime, path))[1].size_bytes == 6, "by hand one may put through a link"
    with pytest.raises(CommandError):
        await hash_file(runtime, path, below=tmp_path / "watched")


class CrowdedDisk(RealDisk):
    """One folder of so many entries, all of one kind."""

    def __init__(self, entries: int, kind: str) -> None:
        self._names = [f"{number:07}" for number in range(entries)]
        self._kind = kind

    def list_folder(self, path: Path) -> list[str]:
        return self._names

    def status(self, path: Path) -> FileStatus:
        kind = self._kind if path.name.isdigit() else "folder"
        return FileStatus(kind, 1, 1, 1, 1, 1)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_folder_of_a_million_entries_is_refused_in_words_before_they_are_all_looked_at(kind: str) -> None:
    with pytest.raises(CommandError, match="more than 100000 files at once; put its folders one by one") as refused:
        find_files(CrowdedDisk(1_000_000, kind), Path("/crowded"), None)
    assert refused.value.exit_code == 2
    found, skipped = find_files(CrowdedDisk(FILES_MAX - 1, "file"), Path("/crowded"), None)
    assert (len(found), len(skipped)) == (FILES_MAX - 1, 0)
