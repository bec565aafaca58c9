"""The real side of the seam: this machine's clock, threads, disk, sockets and SQLite. Thin on purpose.

What decides is elsewhere; here foreign errors become ours. Considered: trio's SocketStream for sockets; its receive
copies each piece once more, and bulk data is what this project is about.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import random
import secrets
import socket as stdlib_socket
import stat
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, TypeVar, TypeVarTuple

import trio

from protocol.errors import ConfigError, LinkLost, StorageBroken, StorageFull
from protocol.ids import format_address
from runtime.below import checked_regular, open_below
from runtime.control import ControlServer
from runtime.database import SqliteDatabase
from runtime.seam import Buffer, ByteStream, Database, File, FileStatus, Listener, Runtime
from runtime.tcpline import ReadMark, TcpLine
from runtime.tls import TlsSecurity

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

DIAL_SECONDS_MAX = 10.0
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_MODES = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}
# Connections that died before we took them, and moments without descriptors: neither is the listener's fault.
_ACCEPT_AGAIN = {errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.EHOSTUNREACH, errno.ENETDOWN}
_ACCEPT_PAUSE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
ACCEPT_PAUSE_SECONDS = 0.1
_SECRET_BYTES_MAX = 64 * 1024
# What a link to another machine keeps in the kernel beyond what is on its way: enough that the line stays full while we
# are busy (20 ms of 100 Mbit/s), little enough for words to be there soon behind it (0.1 s of 20 Mbit/s).
UNSENT_BYTES_MAX = 256 * 1024


def _write_error(error: OSError, what: str) -> StorageFull | StorageBroken:
    if error.errno in _NO_ROOM:
        return StorageFull(f"{what}: {error.strerror}")
    return StorageBroken(f"{what}: {error}")


_UMASK_LOCK = threading.Lock()


@functools.cache
def _read_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _umask() -> int:
    """Return what this process takes from the modes of new files. It can only be read by setting it: once, and by one
    thread alone. A second one would read what the first has set, and leave it so."""
    with _UMASK_LOCK:
        return _read_umask()


@functools.cache
def _is_memory(device: int) -> bool:
    """Whether ``device`` is a file system in memory, as far as this system tells."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return False
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts:
        place, _, kind = line.partition(" - ")
        if place.split()[2] == wanted:
            return kind.split()[0] == "tmpfs"
    return False


class RealClock:
    """This machine's clocks. ``monotonic`` is trio's, so that a mock clock moves it too."""

    def monotonic(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        return time.time()


class RealFile:
    """An open descriptor."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path

    @property
    def descriptor(self) -> int:
        """The number of the descriptor, for what only the real disk does with it."""
        return self._descriptor

    def read_into(self, target: memoryview, offset: int) -> int:
        done = 0
        while done < len(target):
            count = os.preadv(self._descriptor, [target[done:]], offset + done)
            if count == 0:
                break
            done += count
        return done

    def write(self, data: Buffer, offset: int) -> None:
        rest = memoryview(data)
        try:
            while rest:
                count = os.pwrite(self._descriptor, rest, offset)
                offset += count
                rest = rest[count:]
        except OSError as error:
            raise _write_error(error, f"write {self._path.name}") from error

    def sync(self) -> None:
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise StorageBroken(f"fdatasync {self._path.name}: {error}") from error

    def uncache(self, offset: int, size_bytes: int) -> None:
        if hasattr(os, "posix_fadvise"):  # macOS has none
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._descriptor, offset, size_bytes, os.POSIX_FADV_DONTNEED)

    def resize(self, size_bytes: int) -> None:
        try:
            status = os.fstat(self._descriptor)
            if size_bytes > status.st_size:
                try:
                    if _is_memory(status.st_dev):
                        # Reserving it would fill every page with zeros first, before anything could be written: a third
                        # of a second for each GiB. That there is room now must do.
                        room = os.fstatvfs(self._descriptor)
                        if size_bytes - status.st_size > room.f_bavail * room.f_frsize:
                            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                        os.ftruncate(self._descriptor, size_bytes)
                        return
                    os.posix_fallocate(self._descriptor, 0, size_bytes)
                    return
                except OSError as error:
                    if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                        raise
            os.ftruncate(self._descriptor, size_bytes)
        except OSError as error:
            raise _write_error(error, f"resize {self._path.name}") from error

    def status(self) -> FileStatus:
        return _status(os.fstat(self._descriptor))

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _status(status: os.stat_result) -> FileStatus:
    if stat.S_ISREG(status.st_mode):
        kind = "file"
    elif stat.S_ISDIR(status.st_mode):
        kind = "folder"
    elif stat.S_ISLNK(status.st_mode):
        kind = "link"
    else:
        kind = "other"
    return FileStatus(kind, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def _read_whole(file: BinaryIO, path: Path, bytes_max: int) -> bytes:
    data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise OSError(errno.EFBIG, f"more than {bytes_max} bytes", str(path))
    return data


class RealDisk:
    """This machine's file systems."""

    def open_read(self, path: Path, *, follow: bool = False) -> File:
        # O_NONBLOCK: opening a named pipe must not hang; it changes nothing for regular files.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
        return RealFile(checked_regular(os.open(path, flags), path), path)

    def open_below(self, folder: Path, path: Path) -> File:
        return RealFile(checked_regular(open_below(folder, path), path), path)

    def open_write(self, path: Path) -> RealFile:
        try:
            return RealFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), path)
        except OSError as error:
            raise _write_error(error, f"open {path.name}") from error

    def status(self, path: Path) -> FileStatus:
        return _status(path.lstat())

    def list_folder(self, path: Path) -> list[str]:
        return sorted(entry.name for entry in path.iterdir())

    def make_folder(self, path: Path, *, public: bool = False) -> None:
        if path.is_dir():
            return
        parent = path.parent
        self.make_folder(parent, public=public)
        try:
            path.mkdir(mode=0o777 if public else 0o700, exist_ok=True)
        except OSError as error:
            raise _write_error(error, f"make folder {path}") from error
        self.sync_folder(parent)

    def rename(self, source: Path, target: Path) -> None:
        try:
            source.rename(target)
        except OSError as error:
            raise _write_error(error, f"rename {source.name}") from error

    def link_new(self, source: Path, target: Path) -> bool:
        try:
            os.link(source, target)
        except FileExistsError:
            return False
        except OSError as error:
            raise _write_error(error, f"link {target.name}") from error
        return True

    def publish(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                os.fchmod(descriptor, 0o666 & ~_umask())
            finally:
                os.close(descriptor)
        except OSError as error:
            # A file system without modes (FAT, some network shares) has given it one of its own.
            if error.errno not in _NO_MODES:
                raise _write_error(error, f"chmod {path.name}") from error

    def remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _write_error(error, f"remove {path.name}") from error

    def sync_folder(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageBroken(f"fsync of folder {path}: {error}") from error

    def lock(self, path: Path) -> File | None:
        file = self.open_write(path)
        try:
            fcntl.flock(file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            file.close()
            raise _write_error(error, f"lock {path.name}") from error
        return file

    def free_bytes(self, path: Path) -> int:
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def read_small(self, path: Path, bytes_max: int = 1 << 20) -> bytes:
        with open(path, "rb") as file:
            return _read_whole(file, path, bytes_max)

    def read_secret(self, path: Path) -> bytes:
        with open(path, "rb") as file:
            # Judged by the open descriptor: the name may be given to another file in between.
            status = os.fstat(file.fileno())
            if status.st_mode & 0o077:
                raise ConfigError(f"{path}: mode {stat.S_IMODE(status.st_mode):04o} lets others at it; chmod 0600 it")
            if status.st_uid not in (os.geteuid(), 0):
                raise ConfigError(f"{path}: belongs to user {status.st_uid}, not to {os.geteuid()}; chown it")
            return _read_whole(file, path, _SECRET_BYTES_MAX)

    def write_small(self, path: Path, data: bytes, *, mode: int = 0o600) -> None:
        # Two threads may write the same file at once; each has its own beginning of it.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.new")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
            try:
                os.fchmod(descriptor, mode)
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.rename(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _write_error(error, f"write {path.name}") from error
        self.sync_folder(path.parent)


def _is_this_machine(socket: stdlib_socket.socket) -> bool:
    """Whether both ends have the same address."""
    return bool(socket.getsockname()[0] == socket.getpeername()[0])


class TcpStream:
    """A connected TCP socket.

    Considered: trio's own socket. It asks the kernel before it waits, and lets others run after each call that did not
    have to: a third of what a small message costs a tracker.
    """

    fills_at_once = True  # nothing awaits between the bytes in ``target`` and ``receive_into``'s return

    def __init__(self, socket: trio.socket.SocketType, remote: str) -> None:
        self._socket = stdlib_socket.socket(fileno=socket.detach())
        self._socket.setblocking(False)
        self._remote = remote
        self._drained = True  # the last read took all there was
        self._mark = ReadMark(self._socket)
        # A connection that has died already may refuse options; the first read or write says so better.
        with contextlib.suppress(OSError):
            self._socket.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
            # What the kernel cannot deliver for a minute is lost; without this a vanished peer holds a link for 15
            # minutes.
            if hasattr(stdlib_socket, "TCP_USER_TIMEOUT"):
                self._socket.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_USER_TIMEOUT, 60_000)
            near = _is_this_machine(self._socket)
            if hasattr(stdlib_socket, "TCP_NOTSENT_LOWAT"):
                # Trio lets sockets that dial have 16 KiB: that has left before a busy program is there again.
                unsent_bytes = 0 if near else UNSENT_BYTES_MAX
                self._socket.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NOTSENT_LOWAT, unsent_bytes)
            if hasattr(stdlib_socket, "TCP_CONGESTION") and near:
                # Nothing is congested within a machine. Where BBR is the default, its pacing halves what goes through.
                self._socket.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_CONGESTION, b"reno")
        self._line = TcpLine(self._socket) if sys.platform == "linux" else None

    @property
    def line(self) -> TcpLine | None:
        return self._line

    @property
    def remote(self) -> str:
        return self._remote

    async def send_all(self, data: Buffer) -> None:
        rest = memoryview(data)
        full = False
        try:
            while rest:
                if full:
                    # The kernel says so when a third of its buffer is free; asked before, it takes little at a time.
                    await self._wait(trio.lowlevel.wait_writable)
                else:
                    # Before each piece: whoever sends much must let others run.
                    await trio.lowlevel.checkpoint()
                try:
                    count = self._socket.send(rest)
                except BlockingIOError:
                    count = 0
                full = count < len(rest)
                rest = rest[count:]
        except (OSError, trio.ClosedResourceError) as error:
            raise LinkLost(f"{self._remote}: {error}") from error

    def send_now(self, data: Buffer) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise LinkLost(f"{self._remote}: {error}") from error

    def gather(self, size_bytes: int, *, at_once: bool = False) -> None:
        """Who waits to receive need not be woken for less; ``at_once``: nor who waits already."""
        self._mark.want(size_bytes, at_once=at_once)

    async def receive_into(self, target: memoryview) -> int:
        try:
            if not self._drained:
                await trio.lowlevel.checkpoint()
            while True:
                if self._drained:
                    self._mark.apply()
                    await self._wait(trio.lowlevel.wait_readable)
                try:
                    count = self._socket.recv_into(target)
                except BlockingIOError:
                    self._drained = True
                    continue
                self._drained = count < len(target)
                return count
        except (OSError, trio.ClosedResourceError) as error:
            raise LinkLost(f"{self._remote}: {error}") from error

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def _wait(self, ready: Callable[[stdlib_socket.socket], Awaitable[None]]) -> None:
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError("closed by us")
        await ready(self._socket)


class TcpListener:
    """A listening TCP socket."""

    def __init__(self, socket: trio.socket.SocketType) -> None:
        self._socket = socket
        host, port = socket.getsockname()[:2]
        self._address = format_address(host, port)

    @property
    def address(self) -> str:
        return self._address

    async def accept(self) -> ByteStream:
        while True:
            try:
                socket, remote = await self._socket.accept()
                return TcpStream(socket, format_address(remote[0], remote[1]))
            except OSError as error:
                if error.errno in _ACCEPT_PAUSE:
                    await trio.sleep(ACCEPT_PAUSE_SECONDS)
                elif error.errno not in _ACCEPT_AGAIN:
                    raise

    def close(self) -> None:
        self._socket.close()


class TcpNetwork:
    """TCP over IPv4 and IPv6."""

    async def dial(self, host: str, port: int) -> ByteStream:
        try:
            with trio.fail_after(DIAL_SECONDS_MAX):
                stream = await trio.open_tcp_stream(host, port)
        # A name that cannot be asked for (a label of more than 63 characters) is a UnicodeError, no OSError.
        except (OSError, UnicodeError, trio.TooSlowError) as error:
            raise LinkLost(f"{format_address(host, port)}: {error or 'no answer'}") from error
        return TcpStream(stream.socket, format_address(host, port))

    async def listen(self, host: str, port: int) -> Listener:
        try:
            listeners = await trio.open_tcp_listeners(port, host=host, backlog=512)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise ConfigError(f"cannot listen on {format_address(host, port)}: {reason or error}") from error
        for spare in listeners[1:]:
            spare.socket.close()
        return TcpListener(listeners[0].socket)


async def run_sync(work: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call ``work`` in a thread of trio's pool."""
    return await trio.to_thread.run_sync(work, *args)


async def open_database(path: Path, schema: str) -> Database:
    """Open or create a SQLite database."""
    return await SqliteDatabase.open(path, schema, run_sync)


def real_runtime() -> Runtime:
    """Return the runtime that production uses."""
    return Runtime(
        clock=RealClock(),
        random=random.Random(secrets.token_bytes(32)),
        token_bytes=secrets.token_bytes,
        network=TcpNetwork(),
        disk=RealDisk(),
        security=TlsSecurity(),
        run_sync=run_sync,
        open_database=open_database,
        control_server=ControlServer,
        cores=os.cpu_count() or 1,
        machine_name=stdlib_socket.gethostname()[:48],
    )
