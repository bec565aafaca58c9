"""This machine's addresses, as others may dial them."""

from __future__ import annotations

import ipaddress
from types import SimpleNamespace

import ifaddr
import pytest

from runtime.hosts import HOSTS_MAX, own_hosts


def adapter(name: str, *ips: object) -> SimpleNamespace:
    return SimpleNamespace(name=name, ips=[SimpleNamespace(ip=ip) for ip in ips])


def test_what_others_cannot_dial_is_left_out_and_bridges_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = [
        adapter("lo", "127.0.0.1", ("::1", 0, 0)),
        adapter("docker0", "172.17.0.1"),
        adapter("eth0", "192.168.1.5", ("fe80::1", 0, 2), ("fd00::5", 0, 0)),
        adapter("wlan0", "10.0.0.7", "169.254.3.3", "192.168.1.5"),
    ]
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: adapters)
    assert own_hosts() == ("192.168.1.5", "10.0.0.7", "172.17.0.1", "fd00::5")
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: [adapter("eth0", *(f"10.0.0.{n}" for n in range(50)))])
    assert len(own_hosts()) == HOSTS_MAX


def test_this_machine_can_be_asked() -> None:
    assert not any(ipaddress.ip_address(host).is_loopback for host in own_hosts())
