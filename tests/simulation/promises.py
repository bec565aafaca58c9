"""What is promised, one name each, so that every checker can be shown to fail (test_checkers.py)."""

from __future__ import annotations

from enum import StrEnum


class Promise(StrEnum):
    """The text is what a broken one is called in an account."""

    ACKNOWLEDGED_IS_DURABLE = "what was acknowledged is durable and right, at every instant"
    STORED_IS_READABLE = "what was stored is readable and identical"
    VERIFIED_ONLY = "nothing unverified is among the objects"
    GOT_IS_RIGHT = "what was got is what was put, and durable"
    RIGHT_NODE_ONLY = "data goes to the node it is meant for"
    STRANGERS_HEAR_NOTHING = "who does not prove to be the node that was dialled hears nothing"
    REVOKED_IS_SHUT_OUT = "nobody who knows deals with a revoked node"
    STRUCK_IS_NOT_ASKED = "who sent wrong bytes often enough is not asked again"
    HAVING_IS_PROVEN = "knowing a file's digests is not having it"
    ORDERS_END = "no order is kept beyond its deadline"
    REQUESTS_END = "no request is outstanding beyond its deadline"
    MEMORY_IS_BOUNDED = "what one link can make us keep is bounded"
    TRACKER_IS_RIGHT = "the tracker calls stored what is"
    NOTHING_COMES_TWICE = "what one sends is not asked of another as well"
    ALL_IS_TOLD = "who uploads hears of every chunk that is durable"
    ALL_ENDS = "when all is healed, everything that was begun ends"
    REST_IS_THE_MODEL = "at rest everybody holds, and the tracker lists, what the model says"


class Violation(AssertionError):
    """A promise was broken."""

    def __init__(self, promise: Promise, how: str) -> None:
        super().__init__(f"{promise}: {how}")
        self.promise = promise
