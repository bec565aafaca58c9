"""The scenarios of the crowd: who is there, on which lines, what happens, and what the bound is.

A scenario is a topology and what happens in it (``Scene``). Each run builds the topology anew, runs Upswarm in it and,
when wanted, libtorrent in the very same one right after. What is printed, crowd.py decides.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.files import make_file, tag_by_hand

from bench.cast import Cast, Got, Rivals, Watched, sent_by, wait_for
from bench.testbed import Host, Router, Testbed, usable

MIB = 1 << 20
SERVER_MBIT = 1000.0
BUCKETS = 24
UNEQUAL = (20.0, 5.0, 10.0, 50.0, 100.0)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. ``down``: Mbit/s of peers' downlinks; None: 100, or the uplink if that is more."""

    mib: int
    mbit: float
    nodes: int
    rival: bool
    keep_logs: Path | None
    down: float | None = None

    def downlink(self, *uplinks: float) -> float:
        """Return the Mbit/s of the downlinks of peers with these uplinks."""
        return max([SERVER_MBIT / 10, *uplinks]) if self.down is None else self.down


@dataclass
class Result:
    """One run of one contestant. Times in seconds from the accepted command; ``sent``: to storage, to peers."""

    scenario: str
    contestant: str
    mib: int
    bound_seconds: float
    stored_seconds: float | None
    sent: dict[str, tuple[int, int]]
    wasted_bytes: int
    before_seconds: float | None = None  # hashing, asking, the desk's answer
    free_seconds: float | None = None
    all_seconds: float | None = None
    all_bound_seconds: float | None = None
    note: str = ""
    load: float = 0.0
    lines: str = ""
    cpu: dict[str, float] = field(default_factory=dict)  # processor seconds of each program

    @property
    def ratio(self) -> float:
        """How far from the bound."""
        return (self.stored_seconds or float("inf")) / self.bound_seconds

    @property
    def uploader_share(self) -> float:
        """What the uploader has sent, in parts of the file."""
        return sum(self.sent.get("uploader", (0, 0))) / (self.mib * MIB)

    def to_json(self) -> dict[str, Any]:
        """Return it for a file of results."""
        return dataclasses.asdict(self) | {"ratio": self.ratio if self.stored_seconds else None}


@dataclass(frozen=True, slots=True)
class Absence:
    """A host that gives nothing from ``begin`` to ``end`` seconds after the put; ``kill``: it is killed and started
    again, else it is frozen."""

    host: str
    begin: float
    end: float = float("inf")
    kill: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """``useful``: Mbit/s of every uplink that can be of use for storage. ``holders``: those that have the file before.
    ``lend`` and ``get``: those that relay, those that download. ``all_useful``: the same for "everybody has it"."""

    hosts: tuple[Host, ...]
    useful: dict[str, float]
    routers: tuple[Router, ...] = ()
    cap: float | None = None  # storage's downlink
    holders: tuple[str, ...] = ()
    lend: tuple[str, ...] = ()
    get: tuple[str, ...] = ()
    absences: tuple[Absence, ...] = ()
    kill_when_free: bool = False
    rival: bool = True
    curl: bool = False

    def bound_seconds(self, size_bytes: int) -> float:
        """Return the time that nobody can beat."""
        edges = sorted({0.0, *(edge for absence in self.absences for edge in (absence.begin, absence.end))})
        rest = float(size_bytes)
        for begin, end in zip(edges, [*edges[1:], float("inf")], strict=True):
            away = {absence.host for absence in self.absences if absence.begin <= begin < absence.end}
            mbit = sum(mbit for name, mbit in self.useful.items() if name not in away)
            rate = usable(min(mbit, self.cap or mbit))
            if rest <= rate * (end - begin):
                return begin + rest / rate
            rest -= rate * (end - begin)
        raise AssertionError("nobody is left who could send")


def servers(down: float = SERVER_MBIT) -> tuple[Host, ...]:
    """Return the hosts of tracker and storage node."""
    return Host("tracker"), Host("storage", up=SERVER_MBIT, down=down)


def _peers(options: Options, uplinks: tuple[float, ...] = (), **more: Any) -> tuple[Host, ...]:
    rates = uplinks or (options.mbit,) * options.nodes
    names = ("uploader", *(f"helper{number}" for number in range(1, len(rates))))
    down = options.downlink(*rates)
    return tuple(Host(name, up=rate, down=down, **more) for name, rate in zip(names, rates, strict=True))


def _useful(hosts: tuple[Host, ...]) -> dict[str, float]:
    return {host.name: host.up or SERVER_MBIT for host in hosts if host.name not in ("tracker", "storage")}


def _names(hosts: tuple[Host, ...]) -> tuple[str, ...]:
    return tuple(host.name for host in hosts if host.name != "uploader")


def alone(options: Options) -> Scene:
    """One uploader, nobody else."""
    peers = _peers(options)[:1]
    return Scene((*servers(), *peers), _useful(peers), rival=False, curl=True)


def holders(options: Options) -> Scene:
    """Everybody has the file; one puts it."""
    peers = _peers(options)
    return Scene((*servers(), *peers), _useful(peers), holders=_names(peers))


def unequal(options: Options) -> Scene:
    """The same, with lines of 5 to 100 Mbit/s."""
    peers = _peers(options, UNEQUAL)
    return Scene((*servers(), *peers), _useful(peers), holders=_names(peers))


def slow(options: Options) -> Scene:
    """The same, one helper with a twentieth of the others' rate."""
    peers = _peers(options, (options.mbit,) * (options.nodes - 1) + (options.mbit / 20,))
    return Scene((*servers(), *peers), _useful(peers), holders=_names(peers))


def queue(options: Options) -> Scene:
    """The same, with lines that queue no more than 50 ms."""
    peers = _peers(options, queue_milliseconds=50)
    return Scene((*servers(), *peers), _useful(peers), holders=_names(peers))


def narrow(options: Options) -> Scene:
    """The same; storage's downlink is narrower than all uplinks together."""
    peers = _peers(options)
    cap = options.mbit * options.nodes / 2
    return Scene((*servers(cap), *peers), _useful(peers), cap=cap, holders=_names(peers))


def stall(options: Options) -> Scene:
    """The same; one helper freezes after a third of the time, with its links open."""
    peers = _peers(options)
    at = options.mib * MIB / usable(options.mbit * options.nodes) / 3
    absences = (Absence("helper1", at),)
    return Scene((*servers(), *peers), _useful(peers), holders=_names(peers), absences=absences, rival=False)


def leave(options: Options) -> Scene:
    """The same; one helper is killed after a quarter of the time, and comes back after a half."""
    peers = _peers(options)
    at = options.mib * MIB / usable(options.mbit * options.nodes)
    absences = (Absence("helper1", at / 4, at / 2, kill=True),)
    return Scene((*servers(), *peers), _useful(peers), holders=_names(peers), absences=absences, rival=False)


def nat(options: Options) -> Scene:
    """The same; every helper is behind NAT and can only dial out."""
    peers = _peers(options)
    peers = (peers[0], *(dataclasses.replace(peer, nat=True) for peer in peers[1:]))
    return Scene((*servers(), *peers), _useful(peers), holders=_names(peers), rival=False)


def relays(options: Options) -> Scene:
    """Helpers with nothing, on a fast LAN with the uploader, each with a line of its own."""
    peers = _peers(options, lan="office")
    return Scene((*servers(), *peers), _useful(peers), lend=_names(peers))


def oneline(options: Options) -> Scene:
    """Helpers with nothing, on a LAN whose only line is the uploader's: relaying can gain nothing."""
    peers = tuple(dataclasses.replace(peer, lan="office", behind_lan=True) for peer in _peers(options))
    router = Router("office", up=options.mbit, down=options.downlink())
    return Scene((*servers(), *peers), {"office": options.mbit}, routers=(router,), lend=_names(peers), rival=False)


def faraway(options: Options) -> Scene:
    """Helpers with nothing, that lend, and no LAN: whatever they fetch comes over the uploader's own line."""
    peers = _peers(options)
    return Scene((*servers(), *peers), {"uploader": options.mbit}, lend=_names(peers), rival=False)


def crowd(options: Options) -> Scene:
    """Everybody downloads while it goes up; no LAN: the uploader's line is the bottleneck of all."""
    peers = _peers(options)
    return Scene((*servers(), *peers), {"uploader": options.mbit}, get=_names(peers))


def free(options: Options) -> Scene:
    """As crowd; the uploader is killed when it first hears that it may leave."""
    return dataclasses.replace(crowd(options), kill_when_free=True)


def freelan(options: Options) -> Scene:
    """As relays; the uploader is killed when it first hears that it may leave."""
    return dataclasses.replace(relays(options), kill_when_free=True)


SCENARIOS: dict[str, Callable[[Options], Scene]] = {
    maker.__name__: maker
    for maker in (
        *(alone, holders, unequal, slow, queue, narrow, stall, leave, nat),
        *(relays, oneline, faraway, crowd, free, freelan),
    )
}


@contextmanager
def own_folder() -> Iterator[Path]:
    """Make a folder for one run, and remove it."""
    folder = Path(f"/tmp/upswarm-crowd-{os.getpid()}")
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Run:
    scenario: str
    scene: Scene
    options: Options
    testbed: Testbed
    file: Path
    folder: Path
    results: list[Result] = field(default_factory=list)

    @property
    def bound(self) -> float:
        return self.scene.bound_seconds(self.options.mib * MIB)


def run_scenario(name: str, options: Options) -> Iterator[Result]:
    """Run one scenario once: Upswarm, and its rivals if wanted."""
    scene = SCENARIOS[name](options)
    with own_folder() as folder:
        file = make_file(folder / "file.bin", options.mib * MIB, seed=time.time_ns())
        with Testbed(scene.hosts, scene.routers) as testbed:
            run = _Run(name, scene, options, testbed, file, folder)
            yield _run_upswarm(run)
            if options.rival and scene.curl:
                yield _run_curl(run)
            if options.rival and scene.rival:
                yield _run_libtorrent(run)


def _run_upswarm(run: _Run) -> Result:
    scene = run.scene
    tag = tag_by_hand(run.file)
    with Cast.opened(run.testbed, lend=scene.lend, mdns=any(host.lan for host in scene.hosts)) as cast:
        try:
            if scene.holders:
                cast.share(scene.holders, run.file)
            run.testbed.watch()
            cpu = cast.cpu()
            began_at = time.monotonic()
            watched = Watched(cast.daemons["uploader"], run.file)
            gets = [Got(cast.daemons[name], tag, run.folder / f"{name}.got", began_at) for name in scene.get]
            note = _act(run, cast, watched)
            sent = {}
            free_seconds: float | None
            if scene.kill_when_free:
                wait_for(lambda: watched.free_seconds() is not None or watched.result is not None, "free to go", 300)
                sent["uploader"] = sent_by(cast.daemons["uploader"])
                cast.daemons["uploader"].kill()
                limit = 10 * run.bound + 60
                done = wait_for(lambda: cast.stored(tag), "stored without its uploader", limit)
                stored_seconds = time.monotonic() - began_at if done else None
            else:
                while watched.is_alive():
                    watched.join(0.5)
                    # A put waits for storage as long as it takes; nobody comes to start it again here.
                    assert cast.storage.running and cast.tracker.running, "a server has ended"
                stored_seconds = watched.seconds()
            for get in gets:
                get.join(None if stored_seconds else 1.0)
            whole = [get.seconds for get in gets]
            free_seconds = watched.free_seconds()
            for absence in scene.absences:
                if not absence.kill:
                    os.kill(cast.daemons[absence.host].pid, 18)  # who is frozen cannot be asked
            sent |= cast.sent()
            return Result(
                run.scenario,
                "upswarm",
                run.options.mib,
                run.bound,
                stored_seconds,
                sent,
                cast.wasted(),
                before_seconds=watched.first("sending"),
                free_seconds=free_seconds,
                all_seconds=_latest([*whole, stored_seconds]) if gets else None,
                all_bound_seconds=run.bound if gets else None,
                note=note,
                load=os.getloadavg()[0],
                lines=_lines(run, began_at, stored_seconds),
                cpu=cast.cpu_since(cpu),
            )
        finally:
            cast.keep_logs(run.options.keep_logs, run.scenario)


def _act(run: _Run, cast: Cast, watched: Watched) -> str:
    notes = []
    steps = [(absence.begin, absence, True) for absence in run.scene.absences]
    steps += [(absence.end, absence, False) for absence in run.scene.absences if absence.end < float("inf")]
    for at, absence, begins in sorted(steps, key=lambda step: step[0]):
        wait_for(lambda at=at: time.monotonic() - watched.began_at >= at or watched.result, "the moment", at + 60)
        daemon = cast.daemons[absence.host]
        if not absence.kill:
            os.kill(daemon.pid, 19 if begins else 18)
        elif begins:
            daemon.kill()
        else:
            daemon.start()
        notes.append(f"{absence.host} {'away' if begins else 'back'} at {time.monotonic() - watched.began_at:.1f} s")
    return ", ".join(notes)


def _run_libtorrent(run: _Run) -> Result:
    scene = run.scene
    rivals = Rivals(run.testbed, run.folder, run.file)
    rivals.make()
    run.testbed.watch()
    try:
        seeds = {"uploader", *scene.holders}
        last = "storage" if scene.holders else "uploader"
        for name in scene.hosts:
            if name.name not in ("tracker", last):
                rivals.start(name.name, seed=name.name in seeds)
        rivals.start(last, seed=last in seeds)
        began_at = rivals.first_at[last]
        size = run.options.mib * MIB
        if scene.kill_when_free:
            # libtorrent cannot say when: we take its uploader away after a quarter more than the file.
            wait_for(lambda: sum(map(sum, [rivals.sent().get("uploader", (0, 0))])) >= 1.25 * size, "1.25 files", 600)
            killed_at = time.monotonic() - began_at
            rivals.kill("uploader")
            wait_for(lambda: "storage" in rivals.whole_at, "storage", 2 * run.bound + 20)
        else:
            everybody = ["storage", *scene.get]
            wait_for(lambda: all(name in rivals.whole_at for name in everybody), "everybody", 20 * run.bound + 60)
            killed_at = None
        whole = rivals.whole_at.get("storage")
        stored_seconds = whole - began_at if whole is not None else None
        times = [rivals.whole_at.get(name) for name in ("storage", *scene.get)]
        latest = _latest(times)
        return Result(
            run.scenario,
            "libtorrent",
            run.options.mib,
            run.bound,
            stored_seconds,
            rivals.sent(),
            rivals.lines["storage"]["wasted"],
            free_seconds=killed_at,
            all_seconds=latest - began_at if latest is not None and scene.get else None,
            all_bound_seconds=run.bound if scene.get else None,
            note="" if stored_seconds else f"storage has {rivals.lines['storage']['done'] / size:.2f} of the file",
            load=os.getloadavg()[0],
            lines=_lines(run, began_at, stored_seconds),
        )
    finally:
        rivals.close()


_PUT_SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_PUT(self):
        left = int(self.headers["Content-Length"])
        with open(sys.argv[1], "wb") as file:
            while left:
                data = self.rfile.read1(min(left, 1 << 20))
                left -= len(data)
                file.write(data)
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("0.0.0.0", 8080), Handler)
print("ready", flush=True)
server.serve_forever()
"""


def _run_curl(run: _Run) -> Result:
    """The plainest upload: HTTP PUT, one connection, no TLS, nothing verified."""
    command = [*run.testbed.prefix("storage"), sys.executable, "-c", _PUT_SERVER, str(run.folder / "put.bin")]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None and server.stdout.readline()
        url = f"http://{run.testbed.addresses['storage']}:8080/file"
        run.testbed.watch()
        began_at = time.monotonic()
        curl = ["curl", "-sS", "-H", "Expect:", "-T", str(run.file), url]
        subprocess.run([*run.testbed.prefix("uploader"), *curl], check=True, capture_output=True)
        seconds = time.monotonic() - began_at
    finally:
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()
    size = run.options.mib * MIB
    sent = {"uploader": (size, 0)}
    lines = _lines(run, began_at, seconds)
    return Result(
        run.scenario, "curl", run.options.mib, run.bound, seconds, sent, 0, load=os.getloadavg()[0], lines=lines
    )


def _latest(times: list[float | None]) -> float | None:
    return None if any(at is None for at in times) else max(at for at in times if at is not None)


def _watched_lines(scene: Scene) -> Iterator[tuple[str, bool, float]]:
    """Yield whose line it is, whether it is what comes, and how much it carries, in Mbit/s."""
    yield "storage", True, scene.cap or min(SERVER_MBIT, sum(scene.useful.values()))
    if scene.get:
        yield "storage", False, SERVER_MBIT
    for router in scene.routers:
        if router.up is not None:
            yield f"{router.lan}-router", False, router.up
    for host in scene.hosts:
        if host.name in ("tracker", "storage") or host.behind_lan:
            continue  # no line of its own
        if host.up is not None:
            yield host.name, False, host.up
        if host.name in scene.get and host.down is not None:
            yield host.name, True, host.down


def _lines(run: _Run, began_at: float, seconds: float | None) -> str:
    """Return each line's use over time: a digit for each part of it, tenths of what the line carries; * is full."""
    samples = run.testbed.samples
    if len(samples) < 2 or seconds is None:
        return ""
    width = seconds / BUCKETS
    shown = [f"      each column {width:.2f} s; what leaves (>) and, of whoever receives, what comes (<)"]
    for name, received, mbit in _watched_lines(run.scene):
        text, total = "", 0.0
        for bucket in range(BUCKETS):
            inside = [s for s in samples if bucket * width <= s.at - began_at <= (bucket + 1) * width]
            if len(inside) < 2:
                text += "?"
                continue
            counted = [sample.received[name] if received else sample.sent[name] for sample in (inside[0], inside[-1])]
            share = (counted[1] - counted[0]) / (inside[-1].at - inside[0].at) / usable(mbit)
            total += share / BUCKETS
            text += "*" if share >= 0.95 else str(int(share * 10))
        shown.append(f"      {'<' if received else '>'} {name:<16} {text}  {100 * total:.1f} % of {mbit:g} Mbit/s")
    return "\n".join(shown)
