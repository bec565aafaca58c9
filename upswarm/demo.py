"""``upswarm demo``: the same upload twice on this machine, alone and with the crowd, and the file back again.

Real processes, real sockets, real caps on each uplink. The first file is put by one peer that nobody can help. The
second is as long, but different, so that nothing of it is there yet; the other peers hold it already. Then the first
file is fetched on another peer and compared. Nothing is left behind, also on Ctrl-C and failure.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click

from protocol.errors import CommandError, IntegrityError, StorageFull
from runtime.config import parse_size_bytes
from upswarm.client import Client, PutResult
from upswarm.console import RATE, Console, TypedPathType, verb
from upswarm.hashing import manifest_of
from upswarm.local_swarm import LocalSwarm, ProcessFailed, Program
from upswarm.progress import progress_on
from upswarm.text import duration_text, pushed_text, rate_text, shown, size_text

SIZE = "48MiB"
# Two files of ours, both in the store, one fetched back.
COPIES_MAX = 5
KNOWN_SECONDS_MAX = 15.0
POLL_SECONDS = 0.05
_PIECE_BYTES = 1 << 20


@click.command()
@click.argument("file", required=False, type=TypedPathType(path_type=Path, dir_okay=False))
@click.option("--peers", type=click.IntRange(2, 32), default=4, show_default=True, help="How many push together.")
@click.option("--uplink", type=RATE, default="20mbit", show_default=True, help="Cap of each peer's uplink.")
@click.option("--size", default=SIZE, show_default=True, help="Size of the generated file when no FILE is given.")
@click.option("--keep", is_flag=True, help="Leave the swarm running, and say how to look at it.")
@verb
def demo(console: Console, file: Path | None, peers: int, uplink: float | str, size: str, keep: bool) -> None:
    """Run a whole swarm on this machine: upload alone, upload with the crowd, fetch, compare."""
    if isinstance(uplink, str):
        raise click.UsageError("--uplink: the demo needs a rate, as in 20mbit")
    try:
        size_bytes = parse_size_bytes(size) if file is None else _size_of(file)
    except ValueError as error:
        raise click.UsageError(f"--size: {error}") from error
    if size_bytes < 1:
        raise click.UsageError("an empty file is uploaded before anybody can help; give a larger one")
    with _swept(console, keep) as swarm:
        _check_room(swarm.root, size_bytes)
        outcome = _tell(console, swarm, file, size_bytes, peers, uplink)
        console.give(outcome, _outcome_text)
        if keep:
            _say_how_to_look(console, swarm)


@dataclass(frozen=True, slots=True)
class _Files:
    """``alone`` and ``crowd``: equally long, different tags."""

    alone: Path
    crowd: Path


def _tell(
    console: Console, swarm: LocalSwarm, file: Path | None, size_bytes: int, peers: int, uplink: float
) -> dict[str, Any]:
    """Run the whole story and return what came out, as ``--json`` prints it."""
    labels = [f"peer {number}" for number in range(1, peers + 1)]
    console.note(f"starting a tracker, a storage node and {peers} peers with {rate_text(uplink)} uplink each ...")
    files = _make_files(swarm.root, file, size_bytes)
    page = swarm.start_tracker().ready.get("http")
    peer_invite = swarm.invite("peer", peers)
    swarm.join({"storage": swarm.invite("storage", 1)} | dict.fromkeys(labels, peer_invite))
    storage, daemons = swarm.start_members(labels, uplink)
    names = {program.node: program.label for program in (storage, *daemons)}
    console.note(f"status page: http://{page}/")

    console.note(f"\nalone: peer 1 uploads {size_text(size_bytes)}, nobody can help")
    alone, alone_seconds = _put(swarm, daemons[0], files.alone, names)

    console.note(f"\nwith the crowd: as much again, which {peers - 1} other peers hold already")
    for helper in daemons[1:]:
        with Client.of_home(helper.home) as client:
            client.share([files.crowd])
    _wait_known(swarm, daemons[0], str(manifest_of(files.crowd).tag), peers - 1)
    crowd, crowd_seconds = _put(swarm, daemons[0], files.crowd, names)

    console.note("\nback again: peer 2 fetches the first file")
    fetched = _fetch(swarm, daemons[1], str(alone["tag"]), files.alone, names)

    bound_seconds = size_bytes / (uplink * peers)
    return {
        "size": size_bytes,
        "peers": peers,
        "uplink_bytes_per_second": uplink,
        "file": None if file is None else str(file),
        "nodes": {label: node for node, label in names.items()},
        "alone": {"tag": alone["tag"], "seconds": alone_seconds, "pushed": _by_name(alone["pushed"], names)},
        "crowd": {"tag": crowd["tag"], "seconds": crowd_seconds, "pushed": _by_name(crowd["pushed"], names)},
        "speedup": alone_seconds / crowd_seconds,
        "bound_seconds": bound_seconds,
        "ratio_to_bound": crowd_seconds / bound_seconds,
        "get": fetched,
    }


def _put(swarm: LocalSwarm, daemon: Program, path: Path, names: Mapping[str, str]) -> tuple[PutResult, float]:
    """Put one file and return the result and how long it took as the person waits for it."""
    begin = time.monotonic()
    with Client.of_home(daemon.home) as client, progress_on(sys.stderr, names=names) as progress:
        result = client.put([path], progress=progress.notice)["results"][0]
    seconds = time.monotonic() - begin
    swarm.check()
    if result["state"] != "stored":
        raise CommandError("demo", f"{path.name} was not stored: {result.get('error') or result['state']}", 1)
    return result, seconds


def _wait_known(swarm: LocalSwarm, daemon: Program, tag: str, holders: int) -> None:
    """Wait until the tracker knows who holds ``tag``: its heartbeats are no part of the upload."""
    due = time.monotonic() + KNOWN_SECONDS_MAX
    with Client.of_home(daemon.home) as client:
        while True:
            with contextlib.suppress(CommandError):
                if len(client.call("show", {"tag": tag}).get("holders", [])) >= holders:
                    return
            swarm.check()
            if time.monotonic() > due:
                raise CommandError("demo", f"the tracker does not know {holders} holders of {tag}", 10)
            time.sleep(POLL_SECONDS)


def _fetch(swarm: LocalSwarm, daemon: Program, tag: str, original: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """Fetch ``tag`` on ``daemon`` and compare it with ``original``."""
    target = swarm.root / "fetched"
    begin = time.monotonic()
    with Client.of_home(daemon.home) as client, progress_on(sys.stderr, names=names) as progress:
        result = client.get(tag, target, progress=progress.notice)
    seconds = time.monotonic() - begin
    path = Path(result["path"])
    found, wanted = _sha256(path), _sha256(original)
    if found != wanted or str(manifest_of(path).tag) != tag:
        raise IntegrityError(f"what came back is not what was put: {found} instead of {wanted}")
    return {
        "seconds": seconds,
        "from": _by_name(result["from"], names),
        "identical": True,
        "sha256": found,
        "tag": tag,
    }


def _make_files(root: Path, file: Path | None, size_bytes: int) -> _Files:
    """Return the two files. With a FILE the first is itself, the second a copy of it with another beginning: its tag
    is another, so that not a byte of it is there yet, and everything else is equal."""
    crowd = root / "crowd.bin"
    if file is None:
        alone = root / "alone.bin"
        for path in (alone, crowd):
            _write_random(path, size_bytes)
        return _Files(alone, crowd)
    shutil.copyfile(file, crowd)
    with crowd.open("r+b") as copy:
        beginning = copy.read(32)
        copy.seek(0)
        copy.write(bytes(byte ^ 0xFF for byte in beginning))
    return _Files(file.absolute(), crowd)


def _write_random(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        while size_bytes:
            count = min(_PIECE_BYTES, size_bytes)
            file.write(os.urandom(count))
            size_bytes -= count


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise CommandError("not-found", f"{file}: {error.strerror}", 4) from error


def _check_room(root: Path, size_bytes: int) -> None:
    free = shutil.disk_usage(root).free
    if free < COPIES_MAX * size_bytes:
        raise StorageFull(
            f"{root.parent}: the demo needs {size_text(COPIES_MAX * size_bytes)} for a while, {size_text(free)} are "
            "free; set TMPDIR to a roomier place, or use a smaller file"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _by_name(pushed: Mapping[str, int], names: Mapping[str, str]) -> dict[str, int]:
    """Return bytes by label instead of node id."""
    return {names.get(node, node): count for node, count in pushed.items()}


def _outcome_text(data: dict[str, Any]) -> str:
    alone, crowd, back = data["alone"], data["crowd"], data["get"]
    size = data["size"]

    def took(seconds: float) -> str:
        return f"{size_text(size)} in {duration_text(seconds)} ({rate_text(size / seconds)})"

    def shares(by_name: dict[str, int]) -> str:
        return pushed_text(by_name, {name: name for name in by_name})

    lines = [
        "",
        f"alone      {took(alone['seconds'])}",
        f"with crowd {took(crowd['seconds'])}",
        f"           pushed: {shares(crowd['pushed'])}",
        f"speed-up   {data['speedup']:.2f} x with {data['peers']} uplinks",
        f"bound      {duration_text(data['bound_seconds'])} = size / (sum of uplinks); "
        f"this was {data['ratio_to_bound']:.2f} x the bound",
        f"back       in {duration_text(back['seconds'])}, identical (sha256 {back['sha256'][:16]}...), "
        f"from: {shares(back['from'])}",
    ]
    if data["file"] is not None:
        lines.append(f"note       alone was {shown(data['file'])}, with the crowd a copy with another beginning")
    return "\n".join(lines)


@contextlib.contextmanager
def _swept(console: Console, keep: bool) -> Iterator[LocalSwarm]:
    """A swarm in a temporary folder, both gone afterwards; left alone when all went well and it is to be kept."""
    root = Path(tempfile.mkdtemp(prefix="upswarm-demo-"))
    swarm = LocalSwarm(root)
    kept = False

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield swarm
        kept = keep
    except ProcessFailed as error:
        if error.tail:
            console.note(f"\nthe end of its log:\n{_indented(error.tail)}")
        raise
    except CommandError:
        _show_tails(console, swarm)
        raise
    finally:
        # Impatience must not leave half of it behind.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        if not kept:
            swarm.stop()
            shutil.rmtree(root, ignore_errors=True)
        signal.signal(signal.SIGINT, interrupt)
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_tails(console: Console, swarm: LocalSwarm) -> None:
    """Show the logs of those that ended; of all that said something when none did."""
    ended = [program for program in swarm.programs if program.process.poll() is not None]
    for program in ended or swarm.programs:
        if tail := program.tail():
            console.note(f"\nthe end of {program.label}'s log:\n{_indented(tail)}")


def _indented(text: str) -> str:
    return "\n".join(f"  {shown(line)}" for line in text.splitlines())


def _say_how_to_look(console: Console, swarm: LocalSwarm) -> None:
    console.note(f"\nit keeps running in {swarm.root}")
    for program in swarm.programs:
        page = f", page http://{program.ready['http']}/" if program.ready.get("http") else ""
        console.note(f"  {program.label}: upswarm status --home {shlex.quote(str(program.home))}{page}")
    numbers = " ".join(str(program.process.pid) for program in swarm.programs)
    console.note(f"to end it: kill {numbers}; rm -r {shlex.quote(str(swarm.root))}")


VERBS = (demo,)
