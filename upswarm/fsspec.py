"""fsspec: ``upswarm://NAME`` and ``upswarm://TAG`` for pandas, dask and whoever else opens files by URL::

    pandas.read_csv("upswarm://measurements.csv")
    with fsspec.open("upswarm://results.parquet", "wb") as file: ...

Reading fetches the chunks that a range needs, from whoever has them, verified. Writing collects in a temporary file,
and puts it when it is closed; that returns when the file is stored. A swarm is no file system: files are never changed,
a name means the newest file of that name, folders are what the slashes in names say, and nothing is renamed. Removed is
what this machine's daemon put; others who hold a copy go on to offer it. Of equal files a swarm tells four names at
most. Who writes reads what he wrote, and so does everybody else: writing and removing return when the tracker, which
hears of it from the storage node, has heard. Where it does not hear in time, this process goes by what it did itself
for some seconds more.

Needs a running daemon on this machine; ``home``: its --home. Considered: the async flavour of fsspec; it brings an
asyncio loop in a thread of its own, to wait for a socket of this machine.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

from protocol.errors import CommandError
from upswarm.client import Client

BLOCK_BYTES = 4 << 20
# Usually the tracker hears within a few hundredths of a second. One that has not heard after so long has lost its
# storage node, or has too much to do; the file is stored all the same.
NEWS_SECONDS_MAX = 10.0
_NEWS_PAUSE_SECONDS = (0.01, 0.25)  # at first, and at most

# What the tracker did not hear of in time, of all instances, by home and name: until when we go by it, and what `info`
# says. fsspec makes an instance for each thread.
_written: dict[tuple[str | None, str], tuple[float, dict[str, Any]]] = {}
# By home and tag: until when, and the names under which it was removed (None: all).
_removed: dict[tuple[str | None, str], tuple[float, set[str] | None]] = {}


class UpswarmFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """See the module. Paths are names or tags, without a slash at their beginning."""

    protocol = "upswarm"
    root_marker = ""
    cachable = True

    def __init__(self, home: str | None = None, **options: Any) -> None:
        """``home``: of the daemon; None: where it is without --home."""
        super().__init__(**options)
        self.home = home

    def client(self) -> Client:
        """Connect to the daemon; a connection a call, so that threads do not wait for each other.

        Raises:
            OSError: it does not run here, or does not hear us.
        """
        try:
            return Client.of_home(None if self.home is None else Path(self.home))
        except CommandError as error:
            raise ConnectionError(str(error)) from error

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """List a folder, or the file itself."""
        path = self._strip_protocol(path)
        rows = self._rows()
        if path in rows:
            found = [rows[path]]
        else:
            before = f"{path}/" if path else ""
            below = [name for name in rows if name.startswith(before)]
            if path and not below:
                found = [self.info(path)]
            else:
                heads = sorted({name[len(before) :].partition("/")[0] for name in below})
                found = [rows.get(before + head) or _folder(before + head) for head in heads]
        return found if detail else [one["name"] for one in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return name, size, type and tag.

        Raises:
            FileNotFoundError: neither a file nor a folder.
        """
        path = self._strip_protocol(path)
        if path == "":
            return _folder("")
        if (mine := self._own().get(path)) is not None:
            return mine
        try:
            with self.client() as daemon:
                shown = daemon.show(path)
            if not self._is_removed(path, str(shown["tag"])):
                return _file(path, shown["size"], shown["tag"])
        except CommandError as error:
            if error.code not in ("not-found", "usage"):
                raise _os_error(error, path) from error
        if any(name.startswith(f"{path}/") for name in self._rows()):
            return _folder(path)
        raise FileNotFoundError(path)

    def ukey(self, path: str) -> str:
        """Return the tag: it is what the bytes are."""
        return str(self.info(path)["tag"])

    checksum = ukey

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return the bytes from ``start`` to ``end``; below zero counts from the end."""
        info = self.info(path)
        if info["type"] != "file":
            raise IsADirectoryError(path)
        first, last, _step = slice(start, end).indices(info["size"])
        return self.read_range(info["tag"], first, max(0, last - first))

    def read_range(self, tag: str, offset: int, length: int) -> bytes:
        """Return bytes of a file by its tag. Raises ``OSError``."""
        try:
            with self.client() as daemon:
                return daemon.read(tag, offset, length)
        except CommandError as error:
            raise _os_error(error, tag) from error

    def put_file(self, lpath: Any, rpath: str, callback: Any = None, mode: str = "overwrite", **_: Any) -> None:
        """Store a file of this machine under a name; returns when it is stored."""
        local = Path(lpath)
        name = self._strip_protocol(rpath)
        if local.is_dir():
            return  # Folders are what the names say.
        if mode == "create" and self.exists(name):
            raise FileExistsError(name)
        try:
            with self.client() as daemon:
                (result,) = daemon.put([local], name=name)["results"]
                if result["state"] != "stored":
                    failed = result.get("error")
                    raise OSError(f"{name}: {failed['message'] if failed else result['state']}")
                info = _file(result["name"], result["size"], str(result["tag"]))
                _removed.pop((self.home, info["tag"]), None)
                _written.pop((self.home, info["name"]), None)
                if not _is_told(daemon, info["name"], lambda shown: _is_stored_as(shown, info["tag"])):
                    _written[self.home, info["name"]] = (time.monotonic() + NEWS_SECONDS_MAX, info)
        except CommandError as error:
            raise _os_error(error, name) from error

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Store bytes under a name."""
        with tempfile.NamedTemporaryFile(prefix="upswarm-") as file:
            file.write(value)
            file.flush()
            self.put_file(file.name, path, mode=mode)

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Do nothing: folders are what the names of files say."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing, as ``mkdir``."""

    def rm_file(self, path: str) -> None:
        """Remove a name from storage, with its versions, or a tag with its names: what this machine's daemon put.

        Raises:
            FileNotFoundError: there is no such file.
            PermissionError: others put it.
        """
        what = self._strip_protocol(path)
        with self.client() as daemon:
            try:
                answer = daemon.call("rm", {"what": what})
            except CommandError as error:
                raise _os_error(error, path) from error
            for tag in answer["removed"]:
                # Else this machine would go on to offer, and to list, what it has just removed.
                with contextlib.suppress(CommandError):
                    daemon.call("unshare", {"what": tag})
            told = _is_told(daemon, what, _is_gone)
        for key, (_, info) in list(_written.items()):
            if key == (self.home, what) or info["tag"] in answer["removed"]:
                _written.pop(key, None)
        now = time.monotonic()
        for key in [key for key, (until, _) in list(_removed.items()) if until < now]:
            _removed.pop(key, None)
        if not told:
            _removed.update({(self.home, tag): (now + NEWS_SECONDS_MAX, None) for tag in answer["removed"]})
            _removed.update({(self.home, tag): (now + NEWS_SECONDS_MAX, {what}) for tag in answer["kept"]})

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files; of folders nothing is left when their files are gone. Raises as ``rm_file``."""
        for one in self.expand_path(path, recursive=recursive, maxdepth=maxdepth):
            if not self.isdir(one):
                self.rm_file(one)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Refuse: a second name would need the bytes on this machine; get the file and put it."""
        raise NotImplementedError("no copies inside a swarm: get the file, and put it under the other name")

    def _rows(self) -> dict[str, dict[str, Any]]:
        """Return all named files of the swarm, the newest of each name."""
        with self.client() as daemon:
            files = daemon.call("ls")["files"]
        newest: dict[str, Any] = {}
        for file in files:
            for name in file.get("names") or [file["name"]]:
                if name and (name not in newest or _rank(file) >= _rank(newest[name])):
                    newest[name] = file
        there = {name: _file(name, file["size"], file["tag"]) for name, file in newest.items()}
        return {name: row for name, row in there.items() if not self._is_removed(name, row["tag"])} | self._own()

    def _is_removed(self, name: str, tag: str) -> bool:
        """Return whether this process removed it a moment ago, and the tracker has not heard."""
        until, names = _removed.get((self.home, tag), (0.0, set()))
        return time.monotonic() < until and (names is None or name in names)

    def _own(self) -> dict[str, dict[str, Any]]:
        """Return what was put by this process a moment ago, and the tracker has not heard of, by name."""
        now = time.monotonic()
        for key in [key for key, (until, _) in list(_written.items()) if until < now]:
            _written.pop(key, None)
        return {name: dict(info) for (home, name), (_, info) in list(_written.items()) if home == self.home}

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | str | None = None,
        cache_options: Any = None,
        **options: Any,
    ) -> UpswarmFile:
        if mode not in ("rb", "wb", "xb"):
            raise NotImplementedError(f"mode {mode!r}: files of a swarm are written once; rb, wb and xb are possible")
        if mode == "xb" and self.exists(path):
            raise FileExistsError(path)
        block_size = BLOCK_BYTES if block_size in (None, "default") else block_size
        return UpswarmFile(
            self, path, "rb" if mode == "rb" else "wb", block_size, cache_options=cache_options, **options
        )


class UpswarmFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """An open file: read by ranges of one tag, or written to a temporary file that is put at the end."""

    def __init__(self, fs: UpswarmFileSystem, path: str, mode: str, block_size: Any, **options: Any) -> None:
        super().__init__(fs, path, mode, block_size, **options)
        # What was opened is read to its end, also when somebody puts another file of this name meanwhile.
        self.tag = str(self.details["tag"]) if mode == "rb" else ""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return bytes(self.fs.read_range(self.tag, start, end - start))

    def _initiate_upload(self) -> None:
        self._collected = tempfile.NamedTemporaryFile(prefix="upswarm-")  # noqa: SIM115  # closed by the last _upload_chunk

    def _upload_chunk(self, final: bool = False) -> bool:
        self._collected.write(self.buffer.getvalue())
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        """Put what was written."""
        with self._collected:
            self._collected.flush()
            self.fs.put_file(self._collected.name, self.path)

    def discard(self) -> None:
        """Forget what was written."""
        self._collected.close()


def _folder(name: str) -> dict[str, Any]:
    return {"name": name, "size": 0, "type": "directory"}


def _file(name: str, size: int, tag: str) -> dict[str, Any]:
    return {"name": name, "size": size, "type": "file", "tag": tag}


def _rank(file: Mapping[str, Any]) -> tuple[bool, float]:
    """Return how much a file counts among those of one name: as for the tracker, what is stored comes first."""
    return file["state"] == "stored", file.get("since", 0)


def _is_told(daemon: Client, what: str, is_news: Callable[[Mapping[str, Any] | None], bool]) -> bool:
    """Wait until what is known of a tag or name (None: nothing) is the news; False: it was not in time."""
    give_up_at = time.monotonic() + NEWS_SECONDS_MAX
    pause_seconds, pause_seconds_max = _NEWS_PAUSE_SECONDS
    while True:
        try:
            shown = daemon.show(what)
        except CommandError as error:
            if error.code != "not-found":
                return False  # Nobody can be asked: the tracker is away.
            shown = None
        if is_news(shown):
            return True
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, pause_seconds_max)


def _is_stored_as(shown: Mapping[str, Any] | None, tag: str) -> bool:
    # Only the tracker says where; our own daemon knows what it has just put.
    return shown is not None and shown["tag"] == tag and shown["storage"] is not None


def _is_gone(shown: Mapping[str, Any] | None) -> bool:
    # What others hold they go on to offer.
    return shown is None or (shown["storage"] is None and bool(shown["holders"]))


def _os_error(error: CommandError, path: str) -> OSError:
    kinds = {4: FileNotFoundError, 6: PermissionError, 10: TimeoutError}
    return kinds.get(error.exit_code, OSError)(f"{path}: {error}")
