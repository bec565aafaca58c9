"""What the front door's tests share: a program behind a real control socket, in a thread, and a call of the command."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from runtime.control import ControlServer
from runtime.places import Places
from upswarm.cli import main

Notify = Callable[[str, dict[str, Any]], Awaitable[None]]
TAG = f"{'ab' * 32}-3"


@dataclass
class FakeProgram:
    """Answers methods with prepared results, errors or functions, and remembers what it was asked."""

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def _handler(self, method: str) -> Callable[[dict[str, Any], Notify], Awaitable[Any]]:
        async def handle(params: dict[str, Any], notify: Notify) -> Any:
            self.asked.append((method, params))
            answer = self.answers[method]
            try:
                if isinstance(answer, Exception):
                    raise answer
                return await answer(params, notify) if callable(answer) else answer
            except trio.Cancelled:
                self.cancelled.set()
                raise

        return handle

    async def run(self, path: Path, ready: Callable[[trio.CancelScope], None]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(ControlServer(path, {name: self._handler(name) for name in self.answers}).run)
            ready(nursery.cancel_scope)


@contextlib.contextmanager
def running(home: Path, program: str = "daemon", **answers: Any) -> Iterator[FakeProgram]:
    """Run a fake ``program`` under ``home`` while the block lasts."""
    fake = FakeProgram(answers)
    begun = threading.Event()
    state: dict[str, Any] = {}

    def ready(scope: trio.CancelScope) -> None:
        state["scope"], state["token"] = scope, trio.lowlevel.current_trio_token()
        begun.set()

    def work() -> None:
        trio.run(fake.run, Places.of(home, program).control_socket, ready)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert begun.wait(20)
        yield fake
    finally:
        state["token"].run_sync_soon(state["scope"].cancel)
        thread.join(20)
        assert not thread.is_alive()


@dataclass
class Ended:
    """How a call of the command ended."""

    code: int
    out: str
    err: str


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ended:
    """Call ``upswarm`` with ``arguments`` in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return Ended(int(ended.value.code or 0), said.out, said.err)
