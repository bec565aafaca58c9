"""When the collector of garbage should rest. Decides nothing about memory itself."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def nothing_is_garbage() -> Iterator[None]:
    """Make many objects that will all stay: the collector does not look for garbage among them meanwhile.

    Ten objects for each of a hundred thousand files: looking at them again and again took as long as making them.
    Considered: gc.freeze() at the end; it would keep for ever what is garbage by then.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
