"""Byte vectors as text, read and written: blocks of ``key = value`` lines, an empty line between two blocks.

    [heartbeat]
    message = Heartbeat
    frame = 0000000b 97 10...
    number = 7

Long hex goes on in lines that begin with a blank. Values of fields are JSON: bytes and digests as hex, tags and node
ids as people see them, records as objects. What the fields are called is in docs/protocol.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol import fields as kinds
from protocol.ids import NodeAddress, NodeId, Role, Tag

FOLDER = Path(__file__).parents[1] / "vectors"
HEX_PER_LINE = 96


@dataclass(frozen=True)
class Vector:
    """One block: its name and its lines."""

    name: str
    values: Mapping[str, str]

    def bytes_of(self, key: str) -> bytes:
        """Return a hex value."""
        return bytes.fromhex(self.values[key])


def read(name: str) -> list[Vector]:
    """Return all blocks of tests/vectors/``name``."""
    blocks: list[tuple[str, dict[str, str]]] = []
    key = ""
    for line in (FOLDER / name).read_text("utf-8").splitlines():
        if line.startswith("#") or not line:
            continue
        if line.startswith("["):
            blocks.append((line.strip("[]"), {}))
        elif line.startswith(" "):
            blocks[-1][1][key] += line.strip()
        else:
            key, _, value = line.partition(" = ")
            assert key not in blocks[-1][1], line
            blocks[-1][1][key] = value
    assert len({block[0] for block in blocks}) == len(blocks), "two vectors of one name"
    return [Vector(block, values) for block, values in blocks]


def text_of(header: str, vectors: Iterable[Vector]) -> str:
    """Return what ``read`` reads."""
    lines = [f"# {line}".rstrip() for line in header.strip().splitlines()]
    for vector in vectors:
        lines += ["", f"[{vector.name}]"]
        for key, value in vector.values.items():
            if key in ("frame", "frames", "raw") and len(value) > HEX_PER_LINE:
                pieces = [value[start : start + HEX_PER_LINE] for start in range(0, len(value), HEX_PER_LINE)]
                lines.append(f"{key} = {pieces[0]}")
                lines += [f"    {piece}" for piece in pieces[1:]]
            else:
                lines.append(f"{key} = {value}")
    return "\n".join(lines) + "\n"


def readable(kind: kinds.Kind, value: Any) -> Any:
    """Return a field's value as JSON takes it."""
    match kind:
        case kinds.Bytes():
            return value.hex()
        case kinds.TagField():
            return str(value)
        case kinds.NodeAddressField():
            return {"node": value.node, "role": value.role.value, "addresses": list(value.addresses)}
        case kinds.ListOf():
            return [readable(kind.kind, item) for item in value]
        case kinds.Maybe():
            return None if value is None else readable(kind.kind, value)
        case kinds.Record():
            return {name: readable(inner, getattr(value, name)) for name, inner in kind.kinds}
    return value


def meant(kind: kinds.Kind, value: Any) -> Any:
    """Return the field's value that ``readable`` made this JSON of."""
    match kind:
        case kinds.Bytes():
            return bytes.fromhex(value)
        case kinds.TagField():
            return Tag.parse(value)
        case kinds.Word():
            return kind.of(value)
        case kinds.NodeAddressField():
            return NodeAddress(NodeId(value["node"]), Role(value["role"]), tuple(value["addresses"]))
        case kinds.ListOf():
            return tuple(meant(kind.kind, item) for item in value)
        case kinds.Maybe():
            return None if value is None else meant(kind.kind, value)
        case kinds.Record():
            return kind.of(**{name: meant(inner, value[name]) for name, inner in kind.kinds})
    return value


def lines_of(message: Any) -> dict[str, str]:
    """Return the fields of a message, readable."""
    return {
        name: json.dumps(readable(kind, getattr(message, name)), ensure_ascii=False)
        for name, kind in kinds.kinds_of(type(message))
    }


def message_of(kind: type, lines: Mapping[str, str]) -> Any:
    """Return the message that ``lines_of`` made these lines of."""
    return kind(**{name: meant(field, json.loads(lines[name])) for name, field in kinds.kinds_of(kind)})
