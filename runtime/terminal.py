"""What others wrote, made safe to show on a terminal. Changes what is shown only, never what is stored or sent.

A file name or a log field from the network may carry escape sequences that move the cursor, rename the window or
answer in the reader's name, and direction marks that let ``exe.txt`` look like ``txt.exe``.
"""

from __future__ import annotations

import unicodedata

# Control, format (direction marks, zero widths), lone surrogates (undecodable file names), line and paragraph
# separators. Everything else is text.
_UNSAFE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def escape_controls(text: str, *, keep: str = "") -> str:
    """Return ``text`` with unsafe characters as ``\\xNN``, ``\\uNNNN`` or ``\\UNNNNNNNN``; those in ``keep`` stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if character in keep or unicodedata.category(character) not in _UNSAFE else _escaped(character)
        for character in text
    )


def _escaped(character: str) -> str:
    number = ord(character)
    if number <= 0xFF:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
