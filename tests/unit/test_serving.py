from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import trio

from protocol.errors import ConfigError
from runtime import serving
from runtime.notify import ServiceManager
from runtime.serving import Life, changed_settings, serve_until_signal


@dataclass(frozen=True)
class Settings:
    up: int = 1
    listen: str = "a:1"


class Program:
    """Serves until it is told to end; remembers which settings it was given."""

    def __init__(self) -> None:
        self.applied: list[Settings] = []
        self.ready = trio.Event()
        self.changed = trio.Event()
        self.ended = False

    async def serve(self, life: Life[Settings]) -> None:
        life.ready({"ready": "toy", "listen": "a:1"}, self.apply)
        self.ready.set()
        try:
            await trio.sleep_forever()
        finally:
            self.ended = True

    async def apply(self, settings: Settings) -> Sequence[str]:
        self.applied.append(settings)
        self.changed.set()
        return changed_settings(Settings(), settings, ("up",))


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "has_terminal", lambda: False)


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly(number: signal.Signals) -> None:
    program, said, printed = Program(), [], []
    manager = ServiceManager(said.append)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: serve_until_signal(program.serve, Settings, manager=manager, tell=printed.append)
            )
            await program.ready.wait()
            os.kill(os.getpid(), number)
    assert program.ended
    assert [json.loads(line) for line in printed] == [{"ready": "toy", "listen": "a:1"}]
    assert said == [b"READY=1\nSTATUS=listens on a:1", b"STOPPING=1"]


async def test_sighup_reads_settings_again_and_wrong_ones_change_nothing() -> None:
    program, said = Program(), []
    answers: list[Settings | ConfigError] = [ConfigError("line 3"), Settings(up=2)]

    def read() -> Settings:
        answer = answers.pop(0)
        if isinstance(answer, ConfigError):
            raise answer
        return answer

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: serve_until_signal(program.serve, read, manager=ServiceManager(said.append), tell=lambda _: None)
        )
        await program.ready.wait()
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: len(said) == 3)
        assert program.applied == [], "those from before hold"
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: len(said) == 5)
        nursery.cancel_scope.cancel()
    assert program.applied == [Settings(up=2)]
    assert [data.split(b"\n")[0] for data in said] == [b"READY=1", *[b"RELOADING=1", b"READY=1"] * 2]


async def test_a_program_that_ends_by_itself_ends_the_waiting() -> None:
    async def serve(life: Life[Settings]) -> None:
        life.ready({"ready": "toy"})

    with trio.fail_after(5):
        await serve_until_signal(serve, tell=lambda _: None)


async def test_sighup_is_left_alone_when_a_terminal_is_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "has_terminal", lambda: True)
    program = Program()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_until_signal(program.serve, Settings, tell=lambda _: None))
        await program.ready.wait()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL, "the terminal's end is the program's end"
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        nursery.cancel_scope.cancel()


def test_settings_that_differ_are_named() -> None:
    assert changed_settings(Settings(), Settings(up=2, listen="b:1")) == ["up", "listen"]
    assert changed_settings(Settings(), Settings(up=2), ("up",)) == []
