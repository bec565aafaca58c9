"""Outside runtime/ nothing reaches clocks, randomness, threads, files or sockets by itself: it asks the Runtime.

upswarm/ is exempt: the front door is a process of its own that a simulation does not run. Ruff refuses the same names
(TID251); this test also sees calls of builtins and of ``Path`` methods, and holds the two lists together.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("protocol", "exchange", "daemon", "tracker", "storage")

# Dotted names; whatever lies below one is banned with it.
BANNED = (
    "apsw",
    "asyncio",
    "concurrent.futures",
    "datetime.date.today",
    "datetime.datetime.now",
    "datetime.datetime.today",
    "datetime.datetime.utcnow",
    "fcntl",
    "glob",
    "io.open",
    "multiprocessing",
    "os.environ",
    "os.getenv",
    "os.open",
    "os.urandom",
    "psycopg",
    "queue",
    "random.SystemRandom",
    "random.betavariate",
    "random.choice",
    "random.choices",
    "random.expovariate",
    "random.gauss",
    "random.getrandbits",
    "random.randbytes",
    "random.randint",
    "random.random",
    "random.randrange",
    "random.sample",
    "random.seed",
    "random.shuffle",
    "random.triangular",
    "random.uniform",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "socket",
    "socketserver",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "trio.Path",
    "trio.SSLListener",
    "trio.SSLStream",
    "trio.SocketListener",
    "trio.SocketStream",
    "trio.from_thread",
    "trio.open_file",
    "trio.open_ssl_over_tcp_listeners",
    "trio.open_ssl_over_tcp_stream",
    "trio.open_tcp_listeners",
    "trio.open_tcp_stream",
    "trio.open_unix_socket",
    "trio.run_process",
    "trio.serve_listeners",
    "trio.serve_ssl_over_tcp",
    "trio.serve_tcp",
    "trio.socket",
    "trio.to_thread",
    "uuid",
    "zeroconf",
)
# Of os, whose list would be long, only what merely computes; ruff refuses the worst of the rest.
OF_OS = {"os", "os.PathLike", "os.fsdecode", "os.fsencode", "os.fspath"}
BANNED_BUILTINS = {"open", "input", "print"}
# Methods of pathlib.Path that touch the disk and that nothing else of ours is called.
BANNED_METHODS = {
    "exists", "expanduser", "hardlink_to", "is_dir", "is_file", "is_symlink", "iterdir", "lstat", "read_bytes",
    "read_text", "rglob", "rmdir", "samefile", "symlink_to", "unlink", "write_bytes", "write_text",
}  # fmt: skip


def banned(name: str) -> bool:
    if name.partition(".")[0] == "os":
        return name not in OF_OS
    return any(name == ban or name.startswith(ban + ".") for ban in BANNED)


def violations(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of everything that goes around the seam."""
    tree = ast.parse(source)
    known: dict[str, str] = {}  # what a local name stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                if banned(alias.name):
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                known[alias.asname or alias.name] = name
                if banned(name):
                    yield node.lineno, name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = dotted(node, known)
            # Only the shortest banned form, or "trio.socket.x" would be told twice.
            if name is not None and banned(name) and not banned(name.rpartition(".")[0]):
                yield node.lineno, name
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in BANNED_BUILTINS:
                yield node.lineno, node.func.id + "()"
            if isinstance(node.func, ast.Attribute) and node.func.attr in BANNED_METHODS:
                yield node.lineno, f".{node.func.attr}()"
            # A generator forked from ours is fine; one without a seed draws from the machine.
            if dotted(node.func, known) == "random.Random" and not node.args:
                yield node.lineno, "random.Random() without a seed"


def dotted(node: ast.expr, known: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        base = dotted(node.value, known)
        return None if base is None else f"{base}.{node.attr}"
    return None


@pytest.mark.parametrize(
    "path",
    sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_nothing_goes_around_the_seam(path: Path) -> None:
    found = [f"{path.relative_to(ROOT)}:{line}: {name}" for line, name in violations(path.read_text("utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import trio\nasync def f():\n    await trio.to_thread.run_sync(g)",
        "from trio import socket",
        "import trio as t\nt.open_file",
        "from datetime import datetime\ndatetime.now()",
        "import datetime as d\nd.datetime.now()",
        "def f():\n    from os import urandom",
        "import os.path",
        "import os\nos.stat('x')",
        "import random\nrandom.choice([1])",
        "from random import Random\nRandom()",
        "open('x')",
        "path.read_bytes()",
    ],
)
def test_the_guard_sees(source: str) -> None:
    assert list(violations(source))


def test_the_guard_lets_pass_what_is_ours() -> None:
    source = (
        "import trio\nimport datetime\nimport os\nfrom random import Random\n"
        "async def f(runtime, path, file):\n"
        "    await trio.sleep(1)\n    runtime.disk.remove(path)\n    self.open(path)\n    runtime.random.random()\n"
        "    Random(runtime.random.getrandbits(64))\n    os.fsencode(path)\n"
        "    datetime.datetime.fromtimestamp(0, datetime.UTC)\n"
    )
    assert list(violations(source)) == []


def test_ruff_bans_the_same_names() -> None:
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]
    assert sorted(ruff["flake8-tidy-imports"]["banned-api"]) == sorted(BANNED)
    exempt = {pattern for pattern, codes in ruff["per-file-ignores"].items() if "TID251" in codes}
    assert exempt == {"runtime/*", "upswarm/*", "tests/*", "bench/*", "scripts/*", "fuzz/*"}
