"""What others wrote reaches no terminal as it is: every verb, every program, and the page, with real processes.

Names of files and folders, of nodes, and the reasons of a storage node carry what terminals obey: clearing the screen,
renaming the window, links, writing the clipboard, C1 controls, direction marks. A verb that is new fails the test until
it is tried here, too.
"""

from __future__ import annotations

import os
import unicodedata
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import click
import httpx2
import pytest
import trio
from support.commands import Command, Done
from support.crew import Crew, put, share, wait_connected
from support.false_storage import FalseStorage
from support.processes import Program, Swarm, wait_until
from support.strangers import keyring_of
from support.terminal import on_a_terminal

from protocol import messages as m
from protocol.ids import Tag
from upswarm.cli import cli

EVIL = (
    "a\x1b[2J\x1b]0;t\x07\x1b]8;;data:x\x07\x1b]52;c;UFdO\x07\x9b31m\x9d52;c;UFdO\x9c\x90q"
    "\u202e\u2066\u200f\u200b\ufeff\u2028\u2029\x7f\b\r\n\tz"
)
AT_ONCE = 4
NOWHERE = f"{EVIL}-nowhere"
# What our own drawing on a terminal never has in it, whatever stands around it.
FOREIGN = ("\x1b]", "\x1b[2Jz", "UFdO\x07", "\x07", "\x9b", "\x9d", "\x90", "\u202e", "\u2066", "\u2028", "\x7f", "\b")
_UNSAFE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def flaws(text: str) -> list[str]:
    """Return what a terminal would obey in ``text``, or could not read."""
    return sorted({f"U+{ord(one):04X}" for one in text if one != "\n" and unicodedata.category(one) in _UNSAFE})


def leaves(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield every verb, with the groups it stands in."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*before, name))
        else:
            yield (*before, name)


class Stage:
    """A swarm with evil names everywhere; ``link`` is a stored file's."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.folder = crew.folder / "files" / f"d{EVIL}"
        self.folder.mkdir(parents=True)
        self.file = self.folder / EVIL
        self.file.write_bytes(b"stored" * 1000)
        self.other = self.folder / f"{EVIL}2"
        self.other.write_bytes(b"shared" * 1000)
        (self.folder / f"{EVIL}link").symlink_to(self.file)
        with open(bytes(self.folder) + b"/\xff\xfe\x9b2J", "wb") as file:
            file.write(b"not UTF-8")
        self.daemon, self.second = crew.daemons
        self.result = put(self.daemon, self.file)
        assert self.result["state"] == "stored" and self.result["name"] == EVIL
        share(self.second, self.other)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Swarm() as swarm:
        tracker = swarm.tracker("tracker", "--name", f"t{EVIL}"[:40])
        programs = [
            swarm.add_storage("storage", "--name", f"s{EVIL}"[:40]),
            swarm.add_daemon("d0", "--name", f"d{EVIL}"[:40]),
            swarm.add_daemon("d1"),
        ]
        storage, *daemons = swarm.start_all(programs)
        for program in (storage, *daemons):
            wait_connected(program)
        yield Stage(Crew(swarm, tracker, storage, daemons))


def calls(stage: Stage) -> dict[tuple[str, ...], list[tuple[Program, tuple[str | Path, ...]]]]:
    """Return for every verb how it is called so that it prints what others wrote."""
    first, second, storage, tracker = stage.daemon, stage.second, stage.crew.storage, stage.crew.tracker
    file, folder, tag = stage.file, stage.folder, str(stage.result["tag"])
    evil_home = stage.crew.folder / f"h{EVIL}"
    return {
        ("tracker",): [(tracker, ("--listen", EVIL))],
        ("storage",): [(storage, ("--listen", EVIL))],
        ("daemon",): [(first, ("--listen", EVIL)), (first, ("--advertise", EVIL))],
        ("invite",): [(tracker, ()), (tracker, ("--role", EVIL))],
        ("join",): [(first, (EVIL,))],
        ("leave",): [(first, ("--role", EVIL))],
        ("nodes",): [(tracker, ()), (first, ())],
        ("revoke",): [(tracker, (NOWHERE,))],
        ("rotate",): [(tracker, (EVIL,))],
        ("put",): [
            (first, (file,)),
            (first, (folder,)),
            (first, (folder, "--encrypt")),
            (first, (folder / NOWHERE,)),
            (first, (f"--{EVIL}",)),
            (first, (file, "--name", f"{EVIL}/../x")),
        ],
        ("get",): [
            (second, (EVIL, "-o", stage.crew.folder / f"got{EVIL}")),
            (second, (EVIL,)),
            (second, (NOWHERE,)),
            (second, (f"upswarm:{EVIL}",)),
        ],
        ("share",): [(first, (folder,)), (first, (folder / NOWHERE,))],
        ("unshare",): [(second, (stage.other,)), (second, (NOWHERE,))],
        ("pause",): [(first, (EVIL,))],
        ("resume",): [(first, (EVIL,))],
        ("cancel",): [(first, (EVIL,))],
        ("limit",): [(first, ()), (first, (EVIL,)), (first, ("timetable", EVIL)), (first, (f"up={EVIL}",))],
        ("ls",): [(first, ()), (first, ("--stored",)), (second, ("--local",)), (storage, ())],
        ("show",): [(first, (tag,)), (first, (EVIL,)), (first, (NOWHERE,))],
        ("status",): [(first, ()), (storage, ("--of", "storage")), (tracker, ("--of", "tracker")), (first, (EVIL,))],
        ("peers",): [(first, ())],
        ("storage-nodes",): [(first, ())],
        ("events",): [(first, ()), (second, ())],
        ("tag",): [(first, (file,)), (first, (folder / NOWHERE,))],
        ("verify",): [(first, (file, tag)), (first, (stage.other, tag)), (first, (file, EVIL))],
        ("check",): [(first, ()), (first, (EVIL,))],
        ("rm",): [(second, (EVIL,)), (first, (NOWHERE,))],
        ("keep",): [(first, (EVIL, "--for", "30d")), (first, (NOWHERE, "--forever")), (first, (EVIL, "--for", EVIL))],
        ("scrub",): [(storage, ()), (storage, (EVIL,))],
        ("doctor",): [(first, ()), (first, ("--home", evil_home))],
        ("bugreport",): [(first, ()), (first, ("--home", evil_home))],
        ("config", "show"): [(first, ()), (first, ("--home", evil_home)), (first, (EVIL,))],
        ("config", "validate"): [(first, ("--home", evil_home)), (first, (folder / NOWHERE,)), (first, (file,))],
        ("completion",): [(first, ("bash",)), (first, (EVIL,))],
        ("version",): [(first, ()), (first, (EVIL,))],
        ("service", "install"): [(first, ("daemon", "--into", folder, "--writes", folder)), (first, (EVIL,))],
        ("service", "status"): [(first, (EVIL,))],
        ("service", "uninstall"): [(first, (EVIL,))],
        ("watch", "add"): [(first, (folder / NOWHERE,)), (first, (stage.crew.folder / f"w{EVIL}",))],
        ("watch", "list"): [(first, ())],
        ("watch", "remove"): [(first, (folder / NOWHERE,))],
        ("demo",): [(first, (EVIL,)), (first, (f"--{EVIL}",))],
    }


def together(
    ways: list[tuple[tuple[str, ...], Program, tuple[str | Path, ...]]],
) -> Iterator[tuple[tuple[str, ...], Done]]:
    """Run all, a few at a time, and yield what each left."""
    running: deque[tuple[tuple[str, ...], Command]] = deque()
    for verb, program, arguments in ways:
        running.append((verb, program.begin(*verb, *arguments)))
        if len(running) == AT_ONCE:
            first, command = running.popleft()
            yield first, command.wait()
    for first, command in running:
        yield first, command.wait()


def test_every_verb_is_tried_and_none_passes_on_what_a_terminal_obeys(stage: Stage) -> None:
    (stage.crew.folder / f"w{EVIL}").mkdir()
    (stage.crew.folder / f"h{EVIL}").mkdir()
    (stage.crew.folder / f"h{EVIL}" / "upswarm.toml").write_text('[daemon]\nname = "\\u001b[2J\\u009b\\u202e"\n')
    table = calls(stage)
    assert set(table) == set(leaves(cli)), "a new verb is tried here, too"
    ways = [(verb, program, arguments) for verb, several in table.items() for program, arguments in several]
    printed_evil = 0
    for verb, done in together(ways):
        for channel, text in (("stdout", done.stdout), ("stderr", done.stderr)):
            assert not flaws(text), (verb, channel, flaws(text), text)
            assert "\ufffd" not in text, (verb, channel, "bytes that are no UTF-8", text)
            assert "Traceback" not in text, text
            printed_evil += "\\x1b" in text
    # The names did come that far: shown, not left out.
    assert printed_evil > len(table), printed_evil


def test_in_json_too_and_the_name_is_what_it_was(stage: Stage) -> None:
    rows = stage.daemon.upswarm("ls", "--stored", "--json")
    assert not flaws(rows.stdout) and any(row["name"] == EVIL for row in rows.json["files"])
    failed = stage.daemon.upswarm("get", NOWHERE, "--json", check=False)
    assert not flaws(failed.stdout) and failed.json["error"]["exit_code"] == failed.exit_code


def test_bars_and_screens_on_a_terminal_carry_none_of_it(stage: Stage) -> None:
    stage.daemon.call("limit", up=300_000)
    new = stage.folder / f"{EVIL}3"
    new.write_bytes(os.urandom(500_000))
    try:
        putting = on_a_terminal(stage.daemon, "put", new)
        again = stage.folder / f"{EVIL}4"
        again.write_bytes(os.urandom(900_000))
        put(stage.daemon, again, wait="no")
        watching = on_a_terminal(stage.daemon, "status", "--watch", screens=2)
    finally:
        stage.daemon.call("limit", up="off")
    for text in (putting, watching):
        assert "\\x1b" in text, text
        assert not [one for one in FOREIGN if one in text], text


def pages(stage: Stage) -> list[str]:
    tag, quoted = stage.result["tag"], quote(EVIL, safe="")
    nodes = [program.node for program in (stage.crew.storage, stage.daemon)]
    inner = ["/", "/nodes", "/files", f"/jobs/{tag}", f"/files/{tag}", *(f"/nodes/{node}" for node in nodes)]
    api = ["state", "history", "jobs", "nodes", "files", f"jobs/{tag}", f"files/{tag}", f"nodes/{nodes[1]}"]
    hostile = [f"/nodes/{quoted}", f"/files/{quoted}", f"/jobs/{quoted}", f"/nodes?after={quoted}", f"/{quoted}"]
    return [*inner, *(f"/api/v1/{one}" for one in api), *hostile, f"/api/v1/files/{quoted}", "/metrics"]


def test_the_page_and_the_logs_carry_none_of_it(stage: Stage) -> None:
    """Also what a storage node says that means no good: the reasons of its refusals, names and reasons of its jobs."""
    swarm, daemon = stage.crew.swarm, stage.daemon
    keyring = keyring_of(swarm.join(swarm.add_storage("false")).identity)
    reason = f"no{EVIL}"

    def refuse(propose: m.Propose) -> m.Failure:
        return m.Failure(request=propose.request, code="refused", reason=reason)

    async def play() -> None:
        async with trio.open_nursery() as nursery:
            false = FalseStorage(keyring, f"f{EVIL}"[:40], refuse)
            await nursery.start(false.run)
            for number, state in enumerate((m.JobState.OPEN, m.JobState.FAILED)):
                false.tell(
                    m.JobUpdate(
                        tag=Tag(bytes([number]) * 32, 1), size_bytes=1000, name=EVIL, state=state, reason=reason,
                        chunks_stored=0, safe=False, uploaders=(daemon.node,), pushed=(),
                    )
                )  # fmt: skip
            stage.crew.storage.stop()
            new = stage.folder / f"{EVIL}5"
            new.write_bytes(os.urandom(5000))
            done = await trio.to_thread.run_sync(lambda: daemon.upswarm("put", new, check=False))
            assert done.exit_code != 0 and "no" in done.stderr and "\\x1b" in done.stderr, done
            assert not flaws(done.stdout + done.stderr), done
            for verb in ("status", "events", "peers", "storage-nodes", "nodes"):
                told = await trio.to_thread.run_sync(lambda verb=verb: daemon.upswarm(verb))
                assert not flaws(told.stdout + told.stderr), told
            await trio.to_thread.run_sync(stage.crew.storage.start)
            base = f"http://{stage.crew.tracker.ready['http']}"
            await trio.to_thread.run_sync(wait_until, lambda: "\\x1b" in httpx2.get(base, timeout=10).text, "shown")
            for path in (*pages(stage), f"/jobs/{Tag(bytes(32), 1)}", f"/nodes/{false.node}"):
                answer = await trio.to_thread.run_sync(lambda path=path: httpx2.get(base + path, timeout=10))
                assert answer.status_code < 500, (path, answer.status_code)
                assert not flaws(answer.text), (path, flaws(answer.text))
                assert not flaws("".join(f"{key}{value}" for key, value in answer.headers.items())), path
            nursery.cancel_scope.cancel()

    trio.run(play)
    for program in swarm.programs:
        if program.log_path.exists():
            assert not flaws(program.log_path.read_text("utf-8")), program
    assert stage.crew.tracker.logged("node connected")
