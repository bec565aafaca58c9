"""Imports go down the list of rooms only; programs never import each other. See docs/architecture.md."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the front door down. Rooms of one line may not import each other.
STOREYS = (
    ("upswarm",),
    ("daemon", "tracker", "storage"),
    ("exchange",),
    ("runtime",),
    ("protocol",),
)
HEIGHT = {room: -number for number, storey in enumerate(STOREYS) for room in storey}

# Pure: no clock, no await, no trio. Decisions that are tested by the thousand.
PURE = (
    "exchange/picker.py",
    "exchange/assembly.py",
    "exchange/uplink.py",
    "tracker/matchmaking.py",
    "daemon/timetable.py",
)


def modules(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms or HEIGHT for path in (ROOT / room).rglob("*.py"))


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything imported anywhere, functions and TYPE_CHECKING blocks included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def may_import(importer: str, imported: str) -> bool:
    return importer == imported or HEIGHT[imported] < HEIGHT[importer]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for line, name in imports(path.read_text("utf-8")):
        assert not name.startswith("."), f"{path}:{line}: import {name} is relative"
        first = name.partition(".")[0]
        if first in HEIGHT:
            assert may_import(room, first), f"{path}:{line}: {room} imports {name}"


def test_the_reader_of_imports_sees_those_inside_functions_and_type_checking() -> None:
    source = "if TYPE_CHECKING:\n    from daemon.app import x\ndef f():\n    import tracker.app as t\nfrom . import y\n"
    assert sorted(imports(source)) == [(2, "daemon.app"), (4, "tracker.app"), (5, ".")]
    assert not may_import("daemon", "tracker") and not may_import("runtime", "exchange")
    assert may_import("upswarm", "daemon") and may_import("storage", "storage")


def test_protocol_needs_nothing_but_msgpack_and_knows_no_outside() -> None:
    third_party = {
        name.partition(".")[0] for path in modules("protocol") for _, name in imports(path.read_text("utf-8"))
    } - {"protocol", "__future__"}
    pure_stdlib = {
        "array",
        "base64",
        "binascii",
        "collections",
        "dataclasses",
        "enum",
        "functools",
        "hashlib",
        "itertools",
        "re",
        "typing",
        "urllib",
    }
    assert third_party - pure_stdlib == {"msgpack"}


@pytest.mark.parametrize("name", PURE)
def test_decisions_await_nothing(name: str) -> None:
    source = (ROOT / name).read_text("utf-8")
    assert "trio" not in {imported.partition(".")[0] for _, imported in imports(source)}
    assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(ast.parse(source)))


def test_the_front_door_starts_without_trio() -> None:
    """The command line is started often and by people: importing trio would double the time it takes."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules("upswarm")]
    # The client for programs that use trio is for nobody else, and nothing else may import it.
    names = [name.removesuffix(".__init__") for name in names if not name.endswith(("__main__", ".trio_client"))]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'trio', 'cryptography', 'zeroconf'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"
