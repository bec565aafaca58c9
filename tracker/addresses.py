"""Where nodes may be dialled, made of what they announce and what we observe. Pure; only a handshake proves an address.

A node that listens on every interface announces ``0.0.0.0:port`` and does not know how others see it. We do: as the
host its link comes from. When that is loopback, node and tracker share a machine, and others reach the node where they
reach this machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from protocol.ids import format_address, parse_address
from protocol.limits import ADDRESSES_MAX


def reachable_addresses(announced: Iterable[str], remote: str, own_hosts: Sequence[str]) -> tuple[str, ...]:
    """Return where a node may be dialled, likeliest first.

    ``announced``: what it says of itself; ``remote``: ``host:port`` its link comes from; ``own_hosts``: this machine's
    addresses. Addresses that nobody can dial (port 0, multicast) are left out.
    """
    observed = _plain(parse_address(remote)[0])
    observed_hosts = (*own_hosts, observed) if _is_loopback(observed) else (observed,)
    concrete: list[str] = []
    derived: list[str] = []
    for text in announced:
        host, port = parse_address(text)
        host = _plain(host)
        if port == 0 or _is_multicast(host):
            continue
        if is_wildcard(host):
            derived.extend(format_address(own, port) for own in observed_hosts)
            continue
        concrete.append(format_address(host, port))
        # Behind a NAT that forwards its port, or with an address that only its own network knows. A loopback address
        # is announced on purpose: nothing listens on the others.
        if not _is_loopback(host) and not _is_loopback(observed):
            derived.append(format_address(observed, port))
    return tuple(dict.fromkeys(concrete + derived))[:ADDRESSES_MAX]


def own_addresses(advertised: Sequence[str], listening: str, own_hosts: Sequence[str]) -> tuple[str, ...]:
    """Return where this tracker may be dialled: what the operator says, else where it listens, else this machine's
    addresses, and loopback when it has none."""
    if advertised:
        return tuple(advertised)[:ADDRESSES_MAX]
    host, port = parse_address(listening)
    if not is_wildcard(host):
        return (listening,)
    return tuple(format_address(own, port) for own in (*own_hosts, "127.0.0.1"))[-ADDRESSES_MAX:]


def is_wildcard(host: str) -> bool:
    """Whether a host means every interface."""
    address = _address(host)
    return not host or (address is not None and address.is_unspecified)


def _plain(host: str) -> str:
    """Return an IPv4 address that an IPv6 socket shows as ``::ffff:a.b.c.d`` in its own form."""
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return host


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _is_multicast(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_multicast


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
