"""The life of a program around its loop: ready, SIGHUP reads settings again, SIGTERM and SIGINT end it cleanly.

A program hands in what serves; it calls ``Life.ready`` once, with the line for stdout and with what applies new
settings. The service manager (runtime/notify.py) hears of all of it.

SIGHUP means "read again" only where no terminal is attached. With one it means that the terminal is gone, and ends the
program as it ends every other. A second SIGTERM or SIGINT ends the process at once: nothing acknowledged is lost by it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import structlog
import trio

from protocol.errors import ConfigError, StorageError
from runtime.notify import ServiceManager

log = structlog.get_logger()

C = TypeVar("C")
Read = Callable[[], C]
# Bring new settings into force; return the names of those that changed and need a restart.
Apply = Callable[[C], Awaitable[Sequence[str]]]


class Life(Generic[C]):
    """What a program that serves knows of its surroundings."""

    def __init__(self, read: Read[C] | None, manager: ServiceManager, tell: Callable[[str], None]) -> None:
        self._read = read
        self._manager = manager
        self._tell = tell
        self._apply: Apply[C] | None = None

    def ready(self, line: Mapping[str, Any], apply: Apply[C] | None = None) -> None:
        """We accept connections: say so on stdout, and to the service manager."""
        self._apply = apply
        self._tell(json.dumps(line) + "\n")
        self._manager.ready(f"listens on {line['listen']}" if line.get("listen") else "")

    async def reload(self) -> None:
        """Read settings again, and bring into force what can be; wrong ones change nothing."""
        if self._read is None or self._apply is None:
            log.warning("nothing to read again")
            return
        self._manager.reloading()
        try:
            restart = await self._apply(await trio.to_thread.run_sync(self._read))
        except ConfigError as error:
            log.error("settings not read again; those from before hold", reason=str(error))
        else:
            log.info("settings read again")
            if restart:
                log.warning("settings that change with a restart only", settings=list(restart))
        finally:
            self._manager.ready()


def run_until_signal(serve: Callable[[Life[C]], Awaitable[None]], read: Read[C] | None, *, broken: str) -> int:
    """Run a program in the foreground, as ``serve_until_signal``; return its exit code.

    0; 2 when a setting is wrong; 1 when the disk failed, of which the log says ``broken``.
    """
    code = 0
    try:
        trio.run(serve_until_signal, serve, read)
    except* ConfigError as group:
        code = _tell(group, "cannot start", ConfigError.exit_code)
    except* StorageError as group:
        code = _tell(group, broken, 1)
    return code


async def serve_until_signal(
    serve: Callable[[Life[C]], Awaitable[None]],
    read: Read[C] | None = None,
    *,
    manager: ServiceManager | None = None,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Run ``serve`` until it returns, or a signal ends it. ``read`` returns the settings as they are now (it may take
    a disk's time, and raise ``ConfigError``); ``tell`` gets the line for stdout."""
    if manager is None:
        manager = ServiceManager.of_environment(os.environ)
    life = Life(read, manager, tell or _print)
    async with trio.open_nursery() as program:

        async def heed(task_status: trio.TaskStatus[None]) -> None:
            heeded = [signal.SIGTERM, signal.SIGINT, *([] if has_terminal() else [signal.SIGHUP])]
            with trio.open_signal_receiver(*heeded) as signals:
                task_status.started()
                async for number in signals:
                    if number == signal.SIGHUP:
                        await life.reload()
                    else:
                        log.info("stopping", signal=signal.Signals(number).name)
                        break
            # The receiver is gone: from here a signal does what it does to every program.
            manager.stopping()
            program.cancel_scope.cancel()

        await program.start(heed)
        program.start_soon(manager.feed_watchdog, name="watchdog")
        await serve(life)
        program.cancel_scope.cancel()


def has_terminal() -> bool:
    """Whether somebody sits before this process."""
    return any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))


def changed_settings(before: Any, after: Any, without: Sequence[str] = ()) -> list[str]:
    """Return the names of the fields in which two settings of one kind differ."""
    names = [field.name for field in dataclasses.fields(before) if field.name not in without]
    return [name for name in names if getattr(before, name) != getattr(after, name)]


def _tell(group: BaseExceptionGroup[Any], event: str, code: int) -> int:
    for error in _leaves(group):
        log.critical(event, reason=str(error), kind=type(error).__name__)
    return code


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _print(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()
