"""Every message, a file for each conversation. The order of the fields is the order on the wire.

Who may send what to whom is in states.py; how the bytes look is in codec.py; the words are in docs/protocol.md.
A type number below 128 is critical: who does not know it must drop the link. From 128 on it may be ignored.

``from protocol import messages as m`` has them all.
"""

from __future__ import annotations

from protocol.messages.base import Message as Message
from protocol.messages.desk import *
from protocol.messages.exchange import *
from protocol.messages.heartbeats import *
from protocol.messages.jobs import *
from protocol.messages.keeping import *
from protocol.messages.links import *
from protocol.messages.membership import *
from protocol.messages.parts import *
from protocol.messages.questions import *

MESSAGES: dict[int, type[Message]] = {
    thing.TYPE: thing
    for thing in list(globals().values())
    if isinstance(thing, type) and issubclass(thing, Message) and thing is not Message
}
CRITICAL_TYPES_END = 128
