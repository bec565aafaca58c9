"""What is said on every link: greeting, farewell, sign of life, and the answer to what could not be granted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from protocol import fields as kinds
from protocol import limits
from protocol.messages.base import ADDRESSES, REQUEST, SENTENCE, WORD, Message, wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Message):
    """First message each way; the listener speaks first: only then does the dialler know that it was accepted.

    Both sides use the features that both name; unknown names are ignored. ``addresses`` is where the sender listens
    ("0.0.0.0:port" when it does not know how others see it). ``name`` is for people.
    """

    TYPE: ClassVar[int] = 1

    version: int = wire(kinds.UInt(2**16))
    features: tuple[str, ...] = wire(kinds.ListOf(WORD, limits.FEATURES_MAX))
    name: str = wire(WORD)
    agent: str = wire(WORD)
    addresses: tuple[str, ...] = wire(ADDRESSES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodbye(Message):
    """I close this link, and this is why. Nothing follows."""

    TYPE: ClassVar[int] = 2

    code: str = wire(WORD)
    reason: str = wire(SENTENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping(Message):
    """Are you there? Answered by Pong with the same number."""

    TYPE: ClassVar[int] = 3

    number: int = wire(REQUEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong(Message):
    """I am."""

    TYPE: ClassVar[int] = 4

    number: int = wire(REQUEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure(Message):
    """Answer to a request that could not be granted. ``code`` is a word of docs/protocol.md#codes."""

    TYPE: ClassVar[int] = 5

    request: int = wire(REQUEST)
    code: str = wire(WORD)
    reason: str = wire(SENTENCE)
