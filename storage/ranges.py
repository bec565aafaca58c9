"""Which bytes an HTTP request wants: the Range header, by RFC 9110 §14. Pure.

A header that makes no sense is ignored, as the RFC demands, and the whole is sent; one that makes sense and touches
nothing of the file is unsatisfiable. So many ranges that only an attacker wants them are ignored too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# A PDF reader asks for a handful at once.
RANGES_MAX = 16
_RANGE = re.compile(r"[ \t]*(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))[ \t]*")


class Unsatisfiable(Exception):
    """None of the ranges is within the file: 416."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``start`` up to, not including, ``end``; never empty."""

    start: int
    end: int

    def content_range(self, size_bytes: int) -> str:
        """Return the value of Content-Range."""
        return f"bytes {self.start}-{self.end - 1}/{size_bytes}"


def wanted_spans(header: str, size_bytes: int) -> list[Span] | None:
    """Return what is wanted of a file, in the order it was asked for; None: the whole.

    Raises:
        Unsatisfiable: there is nothing of it.
    """
    unit, equals, text = header.partition("=")
    parts = [part for part in text.split(",") if part.strip()]
    if unit.strip().lower() != "bytes" or not equals or not parts or len(parts) > RANGES_MAX:
        return None
    spans = []
    for part in parts:
        match = _RANGE.fullmatch(part)
        if match is None:
            return None
        first, last, suffix = match.groups()
        if suffix is not None:
            start, end = max(0, size_bytes - int(suffix)), size_bytes
        else:
            if last and int(last) < int(first):
                return None
            start, end = int(first), min(int(last) + 1 if last else size_bytes, size_bytes)
        if start < end:
            spans.append(Span(start, end))
    if not spans:
        raise Unsatisfiable
    # Overlapping ranges would let a small request ask for the file many times over.
    if sum(span.end - span.start for span in spans) > size_bytes:
        return None
    return spans
