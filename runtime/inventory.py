"""What a node says it holds: a book of holdings, and the messages that keep the tracker's picture equal to it.

Each Inventory message has the next sequence number of its epoch. The epoch is drawn at each start of the node, so that
a tracker never takes the sequence of an earlier life for this one's. A message that was lost, or came twice, shows at
the next heartbeat (epoch and sequence differ), and the tracker asks for the book in full. Many changes of one tag
between two messages become one: a download that verifies a hundred chunks a second says so twice a second at most
(heartbeat.py). What now is held whole, or not at all any more, cannot wait for that: somebody may ask for it at once.

Pure: knows no clock and no link. The rules of the receiving side are in docs/protocol.md#inventory and are checked
against this file in tests/property/test_inventory.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Protocol

from protocol.ids import Tag
from protocol.limits import HOLDINGS_PER_FRAME_MAX
from protocol.messages import Holding, Inventory


class InventorySource(Protocol):
    """What heartbeat.py needs of a book."""

    @property
    def epoch(self) -> int:
        """Drawn at start."""
        ...

    @property
    def sequence(self) -> int:
        """Number of the last message made."""
        ...

    def changes(self) -> list[Inventory]:
        """Return the messages that say what changed since the last ones; they count as said."""
        ...

    def full(self) -> list[Inventory]:
        """Return the messages that say everything; changes up to now count as said."""
        ...

    def on_change(self, notice: Callable[[bool], None]) -> None:
        """Call ``notice(urgent)`` when there is something to say that was not there before, or that now is urgent: a
        file that has become whole, has other names, or is gone. It must not wait."""
        ...


class InventoryBook:
    """The holdings of one node. ``epoch``: a random number below 2**53, another one at each start."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._sequence = 0
        self._held: dict[Tag, Holding] = {}
        # What the tracker has not heard yet: the newest state of each tag, None when nothing is held any more.
        self._unsaid: dict[Tag, Holding | None] = {}
        self._urgent = False
        self._notice: Callable[[bool], None] | None = None

    @property
    def epoch(self) -> int:
        """See ``InventorySource``."""
        return self._epoch

    @property
    def sequence(self) -> int:
        """See ``InventorySource``."""
        return self._sequence

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Holding]:
        return iter(list(self._held.values()))

    def get(self, tag: Tag) -> Holding | None:
        """Return what is held of ``tag``."""
        return self._held.get(tag)

    def hold(self, holding: Holding) -> None:
        """Note what is held of a tag now; replaces what was."""
        before = self._held.get(holding.tag)
        if before != holding:
            self._held[holding.tag] = holding
            # What is whole is asked for by its names.
            found_anew = before is None or bool(before.bitmap) or before.names != holding.names
            self._say(holding.tag, holding, urgent=not holding.bitmap and found_anew)

    def drop(self, tag: Tag) -> None:
        """Note that nothing of ``tag`` is held any more."""
        if self._held.pop(tag, None) is not None:
            self._say(tag, None, urgent=True)

    def on_change(self, notice: Callable[[bool], None]) -> None:
        """See ``InventorySource``."""
        self._notice = notice

    def changes(self) -> list[Inventory]:
        """See ``InventorySource``."""
        held = [holding for holding in self._unsaid.values() if holding is not None]
        dropped = [tag for tag, holding in self._unsaid.items() if holding is None]
        self._said_all()
        return self._messages(held, dropped, full=False)

    def full(self) -> list[Inventory]:
        """See ``InventorySource``."""
        self._said_all()
        return self._messages(list(self._held.values()), [], full=True)

    def _say(self, tag: Tag, holding: Holding | None, *, urgent: bool) -> None:
        is_news = not self._unsaid or (urgent and not self._urgent)
        self._unsaid[tag] = holding
        self._urgent |= urgent
        if is_news and self._notice is not None:
            self._notice(self._urgent)

    def _said_all(self) -> None:
        self._unsaid.clear()
        self._urgent = False

    def _messages(self, held: list[Holding], dropped: list[Tag], *, full: bool) -> list[Inventory]:
        # Entries of both kinds at once: 88 of the largest of each still fit a frame (tests/unit/test_limits.py).
        holdings, drops = iter(held), iter(dropped)
        messages: list[Inventory] = []
        while True:
            some_held = tuple(islice(holdings, HOLDINGS_PER_FRAME_MAX))
            some_dropped = tuple(islice(drops, HOLDINGS_PER_FRAME_MAX))
            begins = full and not messages
            if not some_held and not some_dropped and not begins:
                return messages
            self._sequence += 1
            messages.append(
                Inventory(epoch=self._epoch, sequence=self._sequence, full=begins, held=some_held, dropped=some_dropped)
            )
