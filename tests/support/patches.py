"""Put something in the place of something, for a while. Where a test has pytest's ``monkeypatch``, that does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def patched(place: Any, name: str, new: Any) -> Iterator[None]:
    """Let ``place.name`` be ``new`` while the block lasts."""
    old = place.__dict__[name]
    setattr(place, name, new)
    try:
        yield
    finally:
        setattr(place, name, old)
