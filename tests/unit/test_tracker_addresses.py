"""Where nodes are said to be reachable, from what they announce and what the tracker saw."""

from __future__ import annotations

import pytest

from protocol.limits import ADDRESSES_MAX
from tracker.addresses import own_addresses, reachable_addresses

LAN = ("192.168.1.5", "fd00::5")


@pytest.mark.parametrize(
    ("announced", "remote", "expected"),
    [
        (["0.0.0.0:4200"], "10.1.2.3:50000", ["10.1.2.3:4200"]),
        (["[::]:4200"], "10.1.2.3:50000", ["10.1.2.3:4200"]),
        (["0.0.0.0:4200"], "[2001:db8::7]:50000", ["[2001:db8::7]:4200"]),
        (["0.0.0.0:4200"], "[::ffff:10.1.2.3]:50000", ["10.1.2.3:4200"]),
        # On the tracker's own machine: others reach it where they reach the tracker.
        (["0.0.0.0:4200"], "127.0.0.1:50000", ["192.168.1.5:4200", "127.0.0.1:4200"]),
        (["[::]:4200"], "[::1]:50000", ["[fd00::5]:4200", "[::1]:4200"]),
        # A concrete address is kept, and the one we saw comes behind it.
        (["192.168.7.7:4200"], "203.0.113.9:50000", ["192.168.7.7:4200", "203.0.113.9:4200"]),
        (["10.1.2.3:4200"], "10.1.2.3:50000", ["10.1.2.3:4200"]),
        (["node.example:4200"], "10.1.2.3:50000", ["node.example:4200", "10.1.2.3:4200"]),
        (["192.168.7.7:4200"], "127.0.0.1:50000", ["192.168.7.7:4200"]),
        (["127.0.0.1:4200"], "10.1.2.3:50000", ["127.0.0.1:4200"]),
        (["127.0.0.1:4200"], "127.0.0.1:50000", ["127.0.0.1:4200"]),
        (["0.0.0.0:4200", "[::]:4201"], "10.1.2.3:50000", ["10.1.2.3:4200", "10.1.2.3:4201"]),
        # Nobody can dial these.
        (["0.0.0.0:0", "224.0.0.1:4200", "[ff02::1]:4200"], "10.1.2.3:50000", []),
        ([], "10.1.2.3:50000", []),
    ],
)
def test_addresses_are_what_others_can_dial(announced: list[str], remote: str, expected: list[str]) -> None:
    assert list(reachable_addresses(announced, remote, LAN)) == expected


def test_addresses_are_bounded() -> None:
    announced = [f"10.0.0.{number}:4200" for number in range(ADDRESSES_MAX)]
    assert len(reachable_addresses(announced, "203.0.113.9:1", LAN)) == ADDRESSES_MAX
    many = [f"10.0.0.{number}" for number in range(20)]
    own = own_addresses((), "0.0.0.0:41", many)
    assert len(own) == ADDRESSES_MAX and own[0] == "10.0.0.0:41" and own[-1] == "127.0.0.1:41"


@pytest.mark.parametrize(
    ("advertised", "listening", "hosts", "expected"),
    [
        (("tracker.example:41",), "0.0.0.0:4100", LAN, ["tracker.example:41"]),
        ((), "10.0.0.1:4100", LAN, ["10.0.0.1:4100"]),
        ((), "127.0.0.1:4100", LAN, ["127.0.0.1:4100"]),
        ((), "0.0.0.0:4100", LAN, ["192.168.1.5:4100", "127.0.0.1:4100"]),
        ((), "[::]:4100", LAN, ["[fd00::5]:4100", "[::1]:4100"]),
        ((), "0.0.0.0:4100", (), ["127.0.0.1:4100"]),
    ],
)
def test_invites_say_where_the_tracker_is(
    advertised: tuple[str, ...], listening: str, hosts: tuple[str, ...], expected: list[str]
) -> None:
    assert list(own_addresses(advertised, listening, hosts)) == expected
