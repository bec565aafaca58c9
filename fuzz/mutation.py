"""Inputs by chance and by seed: what runs in every test run, where atheris may not be there to be guided by coverage.

Takes the seeds of a target, changes them as fuzzers do (bits, interesting numbers, cuts, copies, pieces of another
seed), and calls the harness. The same seed number gives the same inputs, so that a red run is about the change. What
came out wrong is raised with the input in hex and the line that shows it again.

    python -m fuzz.mutation TARGET HEX      one input again
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

from fuzz.targets import TARGETS

INPUT_BYTES_MAX = 8192
_NUMBERS = [
    number.to_bytes(size, "big")
    for size in (1, 2, 4, 8)
    for bits in (7, 8, 15, 16, 31, 32, 53, 63, 64)
    for number in (2**bits - 1, 2**bits)
    if number < 2 ** (8 * size)
]
_TOKENS = [
    b"\x00",
    b"\xff",
    b"\xc1",
    b"\xdd\xff\xff\xff\xff",
    b"..",
    b"/",
    b"\\",
    b"%",
    b"=",
    b"-",
    b",",
    b"\n",
    b"\x1b[",
]
_TOKENS += [
    "\u202e".encode(),
    "\u2028".encode(),
    "e\u0301".encode(),
    b"\xed\xa0\x80",
    b"<!ENTITY",
    b"bytes=",
    b"[daemon]",
]


class Finding(AssertionError):
    """A harness let something out that it should not."""

    def __init__(self, target: str, data: bytes, error: BaseException) -> None:
        super().__init__(
            f"{target}: {type(error).__name__}: {error}\nagain: python -m fuzz.mutation {target} {data.hex()}"
        )


def inputs(seeds: list[bytes], rng: random.Random) -> Iterator[bytes]:
    """Yield the seeds themselves, then changed ones without end."""
    yield from seeds
    while True:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 4, 8, 16))):
            _change(data, seeds, rng)
        yield bytes(data[:INPUT_BYTES_MAX])


def _change(data: bytearray, seeds: list[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    match rng.randrange(8):
        case 0 if data:
            data[at - 1] ^= 1 << rng.randrange(8)
        case 1 if data:
            data[at - 1] = rng.randrange(256)
        case 2:
            number = rng.choice(_NUMBERS)
            data[at : at + len(number)] = number
        case 3:
            data[at:at] = rng.choice(_TOKENS)
        case 4:
            del data[at : at + rng.choice((1, 2, 4, 16, 64))]
        case 5:
            data[at:at] = data[at : at + rng.choice((1, 4, 32))] * rng.choice((1, 2, 8))
        case 6:
            other = rng.choice(seeds)
            begin = rng.randrange(len(other) + 1)
            data[at:] = other[begin:]
        case _:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 8)))


def try_one(target: str, data: bytes) -> None:
    """Give one input to a harness.

    Raises:
        Finding: something came out that should not.
    """
    try:
        TARGETS[target](data)
    except Exception as error:
        raise Finding(target, data, error) from error


def main() -> None:
    """Try one input again."""
    target, text = sys.argv[1:]
    try_one(target, bytes.fromhex(text))
    print("nothing came out that should not")


if __name__ == "__main__":
    main()
