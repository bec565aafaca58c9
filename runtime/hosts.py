"""The addresses of this machine, as others on its networks may dial them. Hints: only a handshake proves an address."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

import ifaddr

from protocol.ids import parse_address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# What an answer can carry anyway (protocol/limits.py), and more than anybody tries.
HOSTS_MAX = 8


def own_hosts() -> tuple[str, ...]:
    """Return this machine's addresses without loopback and link-local ones; IPv4 first, physical interfaces before
    bridges and tunnels. Empty on a machine without a network."""
    found: list[tuple[bool, bool, int, str]] = []
    for adapter in ifaddr.get_adapters():
        for place in adapter.ips:
            text = place.ip if isinstance(place.ip, str) else place.ip[0]
            address = ipaddress.ip_address(text)
            if not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified):
                found.append((address.version == 6, _is_virtual(adapter.name), len(found), str(address)))
    return tuple(dict.fromkeys(text for *_, text in sorted(found)))[:HOSTS_MAX]


def own_networks() -> tuple[Network, ...]:
    """Return the networks that this machine is on: who has an address there is reached without a router."""
    found: dict[Network, None] = {}
    for adapter in ifaddr.get_adapters():
        for place in adapter.ips:
            text = place.ip if isinstance(place.ip, str) else place.ip[0]
            found[ipaddress.ip_network(f"{text}/{place.network_prefix}", strict=False)] = None
    return tuple(found)


def on_networks(addresses: Iterable[str], networks: Sequence[Network]) -> tuple[str, ...]:
    """Return those of ``addresses`` (host:port) that lie on one of ``networks``; host names lie on none."""
    near = []
    for text in addresses:
        try:
            host = ipaddress.ip_address(parse_address(text)[0].partition("%")[0])
        except ValueError:
            continue
        if any(host in network for network in networks):
            near.append(text)
    return tuple(near)


def on_lan(address: str, networks: Sequence[Network]) -> bool:
    """Whether ``address`` (host:port) is reached without our line: on one of ``networks``, with a private address. This
    very machine is no LAN."""
    near = on_networks((address,), [network for network in networks if not network.is_loopback])
    return any(ipaddress.ip_address(parse_address(one)[0].partition("%")[0]).is_private for one in near)


def _is_virtual(interface: str) -> bool:
    # Addresses of container and virtual machine bridges are the same on many machines: likely somebody else's there.
    return interface.startswith(("docker", "br-", "virbr", "veth", "vmnet", "vboxnet", "lxc", "cni", "podman", "utun"))
