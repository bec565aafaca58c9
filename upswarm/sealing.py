"""put --encrypt and get LINK#key: files sealed on this machine, and opened on another, so that nobody between can read.

All of it happens in the process of whoever asks: the daemon is given a sealed file to put, or asked for one by its tag,
and never sees a key, a name or a byte of what is in it. A sealed copy waits in the daemon's state until it is stored;
the daemon removes it then (daemon/puts.py). A download is sealed beside its target until it was opened as a whole: the
target appears by one step, when every segment was verified and is durable.

What sealed bytes look like is in runtime/sealed.py.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.errors import CommandError, IntegrityError, StorageError
from protocol.ids import Tag
from protocol.invite import Link
from protocol.limits import FILE_BYTES_MAX
from protocol.manifest import Layout, Manifest
from upswarm.client import Client, Notice
from upswarm.hashing import manifest_of
from upswarm.rpc import GetResult, PutOutcome, PutResult, Wait

FOLDER = "sealed"  # below the daemon's state
SUFFIX = ".sealed"
KEY_BYTES = 32
_PIECE_SEGMENTS = 16

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed copy that is durable. ``link`` carries its key."""

    source: Path
    copy: Path
    link: Link
    plain_bytes: int


# --- put ---


def put_sealed(
    daemon: Client,
    folder: Path,
    files: list[tuple[Path, str]],
    wait: Wait,
    *,
    sealed: Callable[[Sealed], None] = lambda sealed: None,
    progress: Notice | None = None,
    expires_seconds: float | None = None,
) -> PutOutcome:
    """Seal files (path and name) into ``folder`` and put them; returns as ``Client.put``, with links that carry keys.

    ``sealed`` is called for each file before anything of it is sent: only its link opens what is stored, so whoever
    asked should have it by then.

    Raises:
        CommandError, IntegrityError: a file cannot be read or changes, or there is no room. Nothing was put.
    """
    copies: dict[str, Sealed] = {}
    try:
        for path, name in files:
            one = seal_file(path, name, folder)
            copies[str(one.copy)] = one
            sealed(one)
    except BaseException:
        for copy in copies:
            Path(copy).unlink(missing_ok=True)
        raise

    def told(method: str, params: dict[str, Any]) -> None:
        if progress is not None:
            progress(method, {**params, **_unsealed(copies.get(str(params.get("path"))))})

    outcome = daemon.put(
        [one.copy for one in copies.values()], wait=wait, progress=told, expires_seconds=expires_seconds
    )
    outcome["results"] = [_result(result, copies.get(result["path"])) for result in outcome["results"]]
    return outcome


def _unsealed(one: Sealed | None) -> dict[str, Any]:
    return {} if one is None else {"path": str(one.source), "name": one.link.name}


def _result(result: PutResult, one: Sealed | None) -> PutResult:
    if one is not None:
        result["path"], result["name"], result["size"] = str(one.source), one.link.name, one.plain_bytes
        result["link"] = str(one.link)
    return result


def seal_file(source: Path, name: str, folder: Path, *, key: bytes | None = None) -> Sealed:
    """Write ``source`` sealed into ``folder``; durable when this returns. ``key`` None: a new one.

    Raises:
        CommandError: it cannot be read, or there is no room.
        IntegrityError: it changed meanwhile.
    """
    from runtime.sealed import sealed_bytes

    key = key or secrets.token_bytes(KEY_BYTES)
    manifest = manifest_of(source)
    size_bytes = sealed_bytes(manifest.size_bytes)
    if size_bytes > FILE_BYTES_MAX:
        raise CommandError("too-large", f"{source}: too large to be sealed", 6)
    copy = folder / f"{secrets.token_hex(8)}{SUFFIX}"
    unfinished = copy.with_suffix(".unfinished")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < size_bytes:
            raise CommandError("no-space", f"{folder}: no room for a sealed copy of {source} ({size_bytes} bytes)", 9)
        with _new_file(unfinished) as target:
            hashing = _TagOf(size_bytes)
            for piece in _sealed_pieces(source, manifest, key):
                target.write(piece)
                hashing.update(piece)
            target.flush()
            os.fsync(target.fileno())
        _give_to_owner_of(folder, unfinished)
        unfinished.rename(copy)
        _sync_folder(folder)
    except OSError as error:
        raise _write_error(error, folder) from error
    finally:
        unfinished.unlink(missing_ok=True)
    link = Link(tag=hashing.tag(), name=name, size_bytes=size_bytes, key=key)
    return Sealed(source, copy, link, manifest.size_bytes)


def sealed_tag_of(source: Path, key: bytes) -> Tag:
    """Return the tag that ``source`` has when it is sealed with ``key``. Raises as ``seal_file``."""
    from runtime.sealed import sealed_bytes

    manifest = manifest_of(source)
    hashing = _TagOf(sealed_bytes(manifest.size_bytes))
    for piece in _sealed_pieces(source, manifest, key):
        hashing.update(piece)
    return hashing.tag()


def _sealed_pieces(source: Path, manifest: Manifest, key: bytes) -> Iterator[bytes]:
    """Yield the sealed bytes of ``source``: of exactly what ``manifest`` says, or not to the end."""
    from runtime.sealed import SEGMENT_BYTES, Sealer, segments_of

    sealer = Sealer(key, manifest.tag, manifest.size_bytes)
    yield sealer.header
    hashing = _TagOf(manifest.size_bytes)
    left = segments_of(manifest.size_bytes)
    with source.open("rb", buffering=0) as file:
        while left:
            count = min(left, _PIECE_SEGMENTS)
            text = _read(file.fileno(), count * SEGMENT_BYTES)
            hashing.update(text)
            left -= count
            if not left and (os.read(file.fileno(), 1) or hashing.tag() != manifest.tag):
                raise IntegrityError(f"{source}: changed while it was read; try again when it is still")
            if left and len(text) != count * SEGMENT_BYTES:
                raise IntegrityError(f"{source}: changed while it was read; try again when it is still")
            yield b"".join(
                sealer.seal(text[number * SEGMENT_BYTES : (number + 1) * SEGMENT_BYTES]) for number in range(count)
            )


class _TagOf:
    """The tag of a stream of known length, piece by piece."""

    def __init__(self, size_bytes: int) -> None:
        self._layout = Layout.of_size(size_bytes)
        self._digests: list[bytes] = []
        self._digest = hashlib.sha256()
        self._room = self._layout.chunk_bytes

    def update(self, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            part = rest[: self._room]
            self._digest.update(part)
            self._room -= len(part)
            rest = rest[len(part) :]
            if not self._room:
                self._next()

    def tag(self) -> Tag:
        if len(self._digests) < self._layout.chunks:
            self._next()
        # A stream of another length than it was said to have is nobody's.
        if len(self._digests) != self._layout.chunks:
            return Tag(bytes(32), 1)
        return Manifest.of_digests(self._layout.size_bytes, self._digests).tag

    def _next(self) -> None:
        self._digests.append(self._digest.digest())
        self._digest = hashlib.sha256()
        self._room = self._layout.chunk_bytes


# --- get ---


def get_sealed(daemon: Client, link: Link, output: Path, *, progress: Notice | None = None) -> GetResult:
    """Fetch what ``link`` names and open it with its key, to ``output`` or below it when it is a folder.

    Raises:
        CommandError: as for every get; ``exists`` when another file is there.
        IntegrityError: the key does not open it, or it was altered before it was sealed in; nothing is left of it.
    """
    import trio

    from daemon.placing import choose_target, exists_error, place
    from runtime.real import real_runtime

    assert link.key is not None
    runtime = real_runtime()
    target = trio.run(choose_target, runtime, output, output, link.name, link.tag)
    if _is_there(target):
        if not target.is_file() or target.is_symlink() or sealed_tag_of(target, link.key) != link.tag:
            raise exists_error(target)
        return _got(link, target, None)
    sealed, part = sealed_path(target, link.tag), opened_path(target, link.tag)

    def told(method: str, params: dict[str, Any]) -> None:
        if progress is not None:
            progress(method, {**params, "path": str(target), "name": link.name})

    result = daemon.get(str(link.tag), sealed, progress=told)
    try:
        open_file(sealed, link.key, part)
        if trio.run(place, runtime, part, target) is None:
            raise exists_error(target)
    except (OSError, StorageError) as error:
        raise _write_error(error, target) from error
    finally:
        part.unlink(missing_ok=True)
        # The sealed copy was only for us. A daemon that is gone by now forgets it when it looks for it.
        with contextlib.suppress(CommandError):
            daemon.call("unshare", {"what": str(sealed)})
        sealed.unlink(missing_ok=True)
    return _got(link, target, result)


def open_file(sealed: Path, key: bytes, part: Path) -> int:
    """Write what is in ``sealed`` to the new file ``part``, durably; return how many bytes.

    Raises:
        IntegrityError: the key is another, or something was altered; ``part`` holds nothing that counts then.
        OSError: it cannot be read or written.
    """
    from runtime.sealed import HEADER_BYTES, OVERHEAD_BYTES, SEGMENT_BYTES, Opener, segments_of

    step = SEGMENT_BYTES + OVERHEAD_BYTES
    with sealed.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        opener = Opener(key, _read(descriptor, HEADER_BYTES), os.fstat(descriptor).st_size)
        left = segments_of(opener.plain_bytes)
        part.unlink(missing_ok=True)
        with _new_file(part) as target:
            while left:
                piece = _read(descriptor, min(left, _PIECE_SEGMENTS) * step)
                for begin in range(0, max(1, len(piece)), step):
                    target.write(opener.open(piece[begin : begin + step]))
                    left -= 1
            target.flush()
            os.fsync(target.fileno())
    return opener.plain_bytes


def sealed_path(target: Path, tag: Tag) -> Path:
    """Return where the sealed bytes of a download lie: beside its target, and never put along with its folder."""
    return _hidden(target, tag, "sealed")


def opened_path(target: Path, tag: Tag) -> Path:
    """Return where a download lies while it is being opened."""
    return _hidden(target, tag, "opened")


def _hidden(target: Path, tag: Tag, word: str) -> Path:
    from daemon.naming import part_path

    # Each purpose has a tag of its own, and so a name of its own that fits every file system.
    return part_path(target, Tag(hashlib.sha256(word.encode() + tag.root).digest(), tag.chunks))


def _got(link: Link, target: Path, result: GetResult | None) -> GetResult:
    size_bytes = target.stat().st_size
    if result is None:
        return {
            "id": "",
            "tag": str(link.tag),
            "size": size_bytes,
            "name": link.name,
            "path": str(target),
            "state": "done",
            "seconds": 0.0,
            "instant": True,
            "from": {},
        }
    result["path"], result["name"], result["size"] = str(target), link.name, size_bytes
    return result


# --- files ---


def _read(descriptor: int, count: int) -> bytes:
    """Return ``count`` bytes, fewer only at the end of the file."""
    data = bytearray()
    while len(data) < count:
        piece = os.read(descriptor, count - len(data))
        if not piece:
            break
        data += piece
    return bytes(data)


def _new_file(path: Path) -> Any:
    """Open a file that nobody made before, for its owner alone."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def _give_to_owner_of(folder: Path, path: Path) -> None:
    """Root may command a daemon of another user, who must be able to read what it is told to put."""
    owner = folder.parent.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        for one in (folder, path):
            os.chown(one, owner.st_uid, owner.st_gid)


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_error(error: OSError | StorageError, path: Path) -> CommandError:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CommandError("no-space", f"{path}: {error.strerror}", 9)
    return CommandError("cannot-write", f"{path}: {getattr(error, 'strerror', None) or error}", 1)
