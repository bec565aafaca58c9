"""What files are called: names on the way in, and which of them may become paths on the way out.

On put a name is a relative path with ``/`` between its parts, in Unicode normal form C, so that equal names have equal
bytes whatever system they come from. On get a name is what a stranger wrote: ``safe_parts`` accepts it only if it is
harmless as a path on every usual system, and nothing else ever turns a name into a path.

Pure: nothing here looks at a disk. Spec: docs/protocol.md#names.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from protocol.errors import CommandError
from protocol.ids import Tag
from protocol.limits import NAME_BYTES_MAX

PART_BYTES_MAX = 255  # NAME_MAX of every usual file system
_PART_SUFFIX = ".upswarm-part"

# They reorder what a reader sees: "exe.txt" may end otherwise than it looks.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Line and paragraph separators do to a listing what control characters do.
_SEPARATORS = frozenset("\u2028\u2029")
# Windows gives these to devices, with any extension and in any case; a swarm has such machines too.
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$", "clock$"]
    + [f"{port}{number}" for port in ("com", "lpt") for number in "0123456789\u00b9\u00b2\u00b3"]
)


class UnsafeName(CommandError):
    """A name that may not become a path; the user can give one with ``-o``."""

    def __init__(self, name: str, reason: str) -> None:
        self.flaw = f"the name {name[:200]!r} {reason}"
        super().__init__("unsafe-name", f"{self.flaw}; say where to put it with -o PATH", 6)


def name_of_parts(parts: Sequence[str]) -> str:
    """Return the name of a file to put whose relative path has these parts.

    Raises:
        CommandError: it cannot travel: too long, not text, or no way down.
    """
    if any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts):
        raise CommandError("bad-name", f"{'/'.join(parts)!r} leads elsewhere; a name is a path below some folder", 2)
    name = unicodedata.normalize("NFC", "/".join(parts))
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        wrong = f"the file name {name!r} is not UTF-8; rename it, or put it alone with --name"
        raise CommandError("bad-name", wrong, 2) from None
    if not 1 <= size <= NAME_BYTES_MAX:
        raise CommandError("bad-name", f"a name of {size} bytes; 1 to {NAME_BYTES_MAX} are possible", 2)
    return name


def safe_parts(name: str) -> tuple[str, ...]:
    """Return the parts of ``name`` as they may be joined to a folder.

    Raises:
        UnsafeName: it could lead out of the folder, or deceive whoever reads it.
    """
    normal = unicodedata.normalize("NFC", name)
    parts = tuple(normal.split("/"))
    for part in parts:
        reason = _flaw(part)
        if reason is not None:
            raise UnsafeName(name, reason)
    if len(normal.encode("utf-8")) > NAME_BYTES_MAX:
        raise UnsafeName(name, f"is longer than {NAME_BYTES_MAX} bytes")
    return parts


def safe_target(folder: Path, name: str) -> Path:
    """Return the path below ``folder`` that ``name`` stands for. Raises as ``safe_parts``."""
    return folder.joinpath(*safe_parts(name))


def part_path(target: Path, tag: Tag) -> Path:
    """Return where the unfinished download of ``target`` lies: beside it, so that one rename finishes it."""
    middle = f".{tag.root.hex()[:8]}{_PART_SUFFIX}"
    room = PART_BYTES_MAX - 1 - len(middle)
    name = bytes(Path(target.name))[:room].decode("utf-8", "ignore")
    return target.with_name(f".{name}{middle}")


def is_part(name: str) -> bool:
    """Whether a file of this name is an unfinished download of ours; directories are put without them."""
    return name.startswith(".") and name.endswith(_PART_SUFFIX)


def _flaw(part: str) -> str | None:
    """Return what is wrong with one part of a name, or None."""
    if part == "":
        return "is absolute, or has an empty part"
    if part in (".", ".."):
        return f"leads elsewhere by {part!r}"
    if "\\" in part:
        return "has a backslash"
    for character in part:
        if unicodedata.category(character) in ("Cc", "Cs") or character in _SEPARATORS:
            return "has a control character"
        if character in _BIDI:
            return "has a character that changes the direction of writing"
    if part[-1] in ". ":
        return "has a part that ends with a dot or a space"
    if len(part.encode("utf-8")) > PART_BYTES_MAX:
        return f"has a part of more than {PART_BYTES_MAX} bytes"
    if part.split(".", 1)[0].rstrip(" ").casefold() in _DEVICES:
        return "has a part that Windows takes for a device"
    return None
