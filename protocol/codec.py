"""Messages to frame bodies and back: a msgpack array of the type number and the fields.

``decode_untrusted`` may raise ``RemoteProtocolError`` and nothing else (tests/property/test_codec.py). The length of a
body is bounded by frames.py before it gets here; shape.py bounds what msgpack may make of it.
"""

from __future__ import annotations

from typing import Any

import msgpack

from protocol.errors import RemoteProtocolError
from protocol.fields import decode_fields, kinds_of
from protocol.limits import FRAME_BYTES_MAX
from protocol.messages import CRITICAL_TYPES_END, MESSAGES, Message
from protocol.shape import ITEMS_MAX, check_shape_untrusted


def encode(message: Message) -> bytes:
    """Return the frame body of ``message``.

    Raises:
        LocalProtocolError: a field does not fit its kind.
    """
    kinds = kinds_of(type(message))
    body: list[Any] = [message.TYPE]
    body.extend([kind.encode(getattr(message, name)) for name, kind in kinds])
    packed: bytes = msgpack.packb(body)
    return packed


def decode_untrusted(body: bytes | bytearray | memoryview) -> Message | None:
    """Return the message of a frame body; None for an unknown one that may be ignored.

    Raises:
        RemoteProtocolError: whatever else it is.
    """
    check_shape_untrusted(body)
    try:
        raw = msgpack.unpackb(
            body,
            raw=False,
            use_list=True,
            strict_map_key=True,
            max_str_len=FRAME_BYTES_MAX,
            max_bin_len=FRAME_BYTES_MAX,
            max_array_len=ITEMS_MAX,
            max_map_len=0,
            max_ext_len=0,
        )
    # What is left to go wrong is text that is no UTF-8: a UnicodeDecodeError, which is a ValueError.
    except ValueError as error:
        raise RemoteProtocolError(f"not a message: {type(error).__name__}") from error
    if type(raw) is not list or not raw or type(raw[0]) is not int or raw[0] < 0:
        raise RemoteProtocolError("not a message: an array that begins with a type number was expected")
    kind = MESSAGES.get(raw[0])
    if kind is None:
        if raw[0] < CRITICAL_TYPES_END:
            raise RemoteProtocolError(f"message type {raw[0]} is critical and unknown here")
        return None
    message = decode_fields(kind, raw[1:])
    assert isinstance(message, Message)
    return message
