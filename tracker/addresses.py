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
    concrete: list[str] = []
    derived: list[str] = []
    for text in announced:
        host, port = parse_address(text)
        host = _plain(host)
        if port == 0 or _is_multicast(host):
            continue
        if is_wildcard(host):
            ours = _of_family(host, own_hosts) if _is_loopback(observed) else ()
            derived.extend(format_address(one, port) for one in (*ours, observed))
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
    hosts = _of_family(host, own_hosts)[: ADDRESSES_MAX - 1]
    loopback = "127.0.0.1" if _address(host) == ipaddress.IPv4Address(0) else "::1"
    return tuple(format_address(one, port) for one in (*hosts, loopback))


def is_wildcard(host: str) -> bool:
    """Whether a host means every interface."""
    address = _address(host)
    return not host or (address is not None and address.is_unspecified)


def _of_family(wildcard: str, hosts: Sequence[str]) -> list[str]:
    """Return those of ``hosts`` that a listener on ``wildcard`` hears: ``::`` is IPv6 only (trio sets IPV6_V6ONLY)."""
    every, versions = _address(wildcard), {host: _address(host) for host in hosts}
    return [host for host, one in versions.items() if every is None or one is None or one.version == every.version]


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
