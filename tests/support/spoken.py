"""What tests of links send and expect: blocks, and how a link ended."""

from __future__ import annotations

from protocol import messages as m
from runtime.link import Link
from support.pairs import some_tag

TAG = some_tag()


def block(length: int, chunk: int = 0) -> m.Block:
    """Return the head of a block; ``length`` bytes follow it."""
    return m.Block(tag=TAG, chunk=chunk, offset=0, length=length)


async def expect_block(link: Link, length: int) -> bytes:
    """Receive a block of ``length`` bytes and return them."""
    message = await link.receive()
    assert isinstance(message, m.Block) and message.length == length
    buffer = bytearray(length)
    await link.receive_raw(memoryview(buffer))
    return bytes(buffer)


async def ended(link: Link) -> str:
    """Wait until ``link`` has ended; return why."""
    await link.wait_ended()
    assert link.lost is not None
    return link.lost
