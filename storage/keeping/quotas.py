"""How much one node, or all below one prefix of names, may take. Pure.

A file counts for every node that named it and for every prefix one of its names begins with, once each, however many
names it has there; what is stored already and only gets a further name counts as well, else a quota would depend on who
came first. Which use is found where, storage/ledger/ knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runtime.config import parse_size_bytes


@dataclass(frozen=True, slots=True)
class Quotas:
    """``node_bytes``: of each node, None is no bound; ``prefix_bytes``: by prefix, "" is every name."""

    node_bytes: int | None = None
    prefix_bytes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_settings(cls, node_bytes: int | None, prefixes: tuple[str, ...]) -> Quotas:
        """Return the quotas of ``PREFIX=SIZE`` texts.

        Raises:
            ValueError: one of them is none.
        """
        found: dict[str, int] = {}
        for text in prefixes:
            prefix, equals, size = text.rpartition("=")
            if not equals:
                raise ValueError(f"{text[:80]!r} is not as expected; right would be 'renders/=500GiB'")
            found[prefix] = parse_size_bytes(size)
        return cls(node_bytes, found)

    def prefixes_of(self, name: str) -> list[str]:
        """Return the prefixes that bound ``name``."""
        return [prefix for prefix in self.prefix_bytes if name.startswith(prefix)]


def excess(what: str, used_bytes: int, size_bytes: int, most_bytes: int) -> str | None:
    """Return why ``size_bytes`` more are too many for ``what``; None when they are not."""
    if used_bytes + size_bytes <= most_bytes:
        return None
    return f"the quota of {what} is {most_bytes} bytes; {used_bytes} are used, and this file has {size_bytes}"
