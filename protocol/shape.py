"""What msgpack may be made of, looked at before it builds anything: a few bytes must not claim much memory.

msgpack's own limits bound one array at a time: 8 KiB of nested array headers still make it allocate 33 MB, and so do
512 KiB of empty arrays. Here an array may not claim more items than there are bytes left, and depth and number of all
items are bounded. It costs a fraction of a microsecond an item, and a message about a block has six.
"""

from __future__ import annotations

from protocol.errors import RemoteProtocolError

# Inventory nests deepest: message, list of holdings, holding, its names. Twice that leaves room for newer nodes.
DEPTH_MAX = 8
# A page of nodes is the largest: 128 records of 9 fields, 8 addresses in each, makes 2300.
ITEMS_MAX = 16 * 1024

_REFUSED = -1
_ARRAY = -2
# 0 and above: so many bytes follow. Below _RUN: a length of 1, 2 or 4 bytes follows, then as many bytes.
_RUN = -10


def _actions() -> tuple[int, ...]:
    actions = [_REFUSED] * 256  # maps, extension types and the one byte msgpack never uses
    actions[0x00:0x80] = [0] * 0x80  # small numbers
    actions[0xE0:0x100] = [0] * 0x20
    actions[0x90:0xA0] = [_ARRAY] * 0x10
    actions[0xA0:0xC0] = range(0x20)  # short text
    for first in (0xC0, 0xC2, 0xC3):  # nothing, false, true
        actions[first] = 0
    for first, size in zip((0xCA, 0xCB), (4, 8), strict=True):  # fractions: ours has none, a newer node's may
        actions[first] = size
    for first in (0xCC, 0xD0):  # whole numbers without and with sign
        actions[first : first + 4] = [1, 2, 4, 8]
    for first in (0xC4, 0xD9):  # bytes and text
        actions[first : first + 3] = [_RUN - 1, _RUN - 2, _RUN - 4]
    actions[0xDC] = actions[0xDD] = _ARRAY
    return tuple(actions)


_ACTIONS = _actions()


def check_shape_untrusted(body: bytes | bytearray | memoryview) -> None:
    """Say nothing when ``body`` is one msgpack value of arrays, text, bytes and numbers within our bounds.

    Raises:
        RemoteProtocolError: it is not.
    """
    end = len(body)
    position = 0
    seen = 0
    due = [1]  # items still to come, for each array we are in
    while due:
        if due[-1] == 0:
            due.pop()
            continue
        due[-1] -= 1
        seen += 1
        if position >= end or seen > ITEMS_MAX:
            raise RemoteProtocolError(f"not a message: cut short, or more than {ITEMS_MAX} items")
        first = body[position]
        position += 1
        action = _ACTIONS[first]
        if action >= 0:
            position += action
        elif action == _REFUSED:
            raise RemoteProtocolError(f"not a message: a value of kind 0x{first:02x}")
        elif action == _ARRAY:
            if first < 0xA0:
                items = first & 0x0F
            else:
                size = 2 if first == 0xDC else 4
                items = int.from_bytes(body[position : position + size], "big")
                position += size
            if items > end - position or len(due) > DEPTH_MAX:
                raise RemoteProtocolError("not a message: an array too long or too deep")
            due.append(items)
        else:
            size = _RUN - action
            position += size + int.from_bytes(body[position : position + size], "big")
    if position != end:
        raise RemoteProtocolError("not a message: it does not end where its frame ends")
