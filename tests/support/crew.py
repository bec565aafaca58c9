"""The usual cast of an integration test, tracker, storage node and some daemons, and what tests often ask of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from protocol.bitmap import Bitmap
from protocol.ids import Tag
from support.files import MIB, make_file
from support.processes import Program, Swarm, wait_until

PUT_SECONDS_MAX = 90.0


@dataclass
class Crew:
    """A swarm that runs."""

    swarm: Swarm
    tracker: Program
    storage: Program
    daemons: list[Program]

    @classmethod
    def of(cls, swarm: Swarm, daemons: int = 2, **settings: str) -> Crew:
        """Start a tracker, a storage node and ``daemons`` daemons called d0, d1, ..."""
        tracker = swarm.tracker()
        joining = [swarm.add_daemon(f"d{number}", **settings) for number in range(daemons)]
        storage, *started = swarm.start_all([swarm.add_storage("storage"), *joining])
        crew = cls(swarm, tracker, storage, started)
        for program in (storage, *started):
            wait_connected(program)
        return crew

    @property
    def folder(self) -> Path:
        """Where tests put their files."""
        return self.swarm.folder

    def file(self, name: str, size_bytes: int, seed: int = 0) -> Path:
        """Make a file of pseudo-random bytes."""
        return make_file(self.folder / "files" / name, size_bytes, seed)

    def object_of(self, tag: str, storage: Program | None = None) -> Path:
        """Return where the storage node keeps the bytes of ``tag``; they must be there."""
        found = objects_of(storage or self.storage, tag)
        assert len(found) == 1, found
        return found[0]


def objects_of(storage: Program, tag: str) -> list[Path]:
    """Return the finished files of ``tag`` in a storage node's folder."""
    return [path for path in storage.data.rglob(tag) if "objects" in path.parts]


def ledger_rows(storage: Program, query: str, *values: Any) -> list[Any]:
    """Read the ledger of a storage node with other eyes than its own."""
    with closing(apsw.Connection(str(ledger_path(storage)), flags=apsw.SQLITE_OPEN_READONLY)) as database:
        return list(database.execute(query, values))


def acknowledged_bytes(storage: Program, tag: str) -> int:
    """Return how many bytes of a file with one-MiB chunks are durable, by the ledger. The node need not run."""
    wanted = Tag.parse(tag)
    rows = ledger_rows(storage, "SELECT durable, state FROM jobs WHERE tag = ?", wanted.to_bytes())
    if not rows:
        return 0
    durable, state = rows[0]
    return MIB * (wanted.chunks if state == "stored" else len(Bitmap.from_bytes(wanted.chunks, durable)))


def ledger_path(storage: Program) -> Path:
    """Return the SQLite file of a storage node."""
    return storage.data / "ledger.db"


def wait_connected(program: Program) -> None:
    """Wait until a daemon or storage node has its tracker."""
    program.wait_logged("tracker connected")


# --- verbs ---


def put(daemon: Program, path: Path, *, wait: str = "stored", name: str | None = None) -> dict[str, Any]:
    """Put one file and return its result."""
    params: dict[str, Any] = {"paths": [str(path)], "wait": wait}
    if name is not None:
        params["name"] = name
    (result,) = daemon.call("put", PUT_SECONDS_MAX, **params)["results"]
    return dict(result)


def get(daemon: Program, what: str, output: Path | None = None) -> dict[str, Any]:
    """Get one file and return the result."""
    params = {"what": what, "output": None if output is None else str(output)}
    return dict(daemon.call("get", PUT_SECONDS_MAX, **params))


def share(daemon: Program, *paths: Path, told: bool = True) -> Any:
    """Offer files without storing them; return when the tracker has been ``told``, twice a second at most."""
    answer = daemon.call("share", PUT_SECONDS_MAX, paths=[str(path) for path in paths])
    held = {row["tag"] for row in files_of(daemon.call("ls", stored=False, local=True)["files"])}
    tracker = daemon.swarm.programs[0]
    if told:
        wait_until(
            lambda: any(
                row["node"] == daemon.node and row["tags"] >= len(held) for row in tracker.call("nodes")["nodes"]
            ),
            f"the tracker knows what {daemon} holds",
        )
    return answer


def progress_of_put(daemon: Program, path: Path, **params: Any) -> Iterator[dict[str, Any]]:
    """Begin to put ``path`` and yield its progress; the result comes last, as it stands in "results"."""
    arguments = {"paths": [str(path)], "wait": "stored", **params}
    for message in daemon.conversation("put", arguments, PUT_SECONDS_MAX):
        if message.get("method") == "progress":
            yield message["params"]
        elif "method" not in message:
            assert "result" in message, message
            yield message["result"]["results"][0]


def files_of(answer: Any) -> list[dict[str, Any]]:
    """Return the rows of a listing, whatever it is wrapped in."""
    if isinstance(answer, dict):
        (answer,) = [value for value in answer.values() if isinstance(value, list)]
    return list(answer)


def wait_stored(storage: Program, tag: str, seconds: float = PUT_SECONDS_MAX) -> None:
    """Wait until the storage node says that it has ``tag``."""
    wait_until(
        lambda: any(
            row["tag"] == tag and row.get("state", "stored") == "stored" for row in files_of(storage.call("ls"))
        ),
        f"{tag} is stored",
        seconds,
    )


def events(daemon: Program) -> list[dict[str, Any]]:
    """Return what ``events`` tells, without waiting."""
    told: list[dict[str, Any]] = []
    for message in daemon.conversation("events", {"follow": False}, 30):
        if message.get("method") == "event":
            told.append(message["params"])
        elif "method" not in message and message.get("result"):
            told.extend(files_of(message["result"]))
    return told
