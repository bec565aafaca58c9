"""The identity folder: what is written, in which order, who may read it, and what its owner is told of faults."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from support.pairs import node
from support.swarm import SwarmCa

from protocol.errors import ConfigError, StorageBroken
from protocol.ids import NodeAddress, Role
from runtime.keyring import (
    AUTHORITY,
    CERTIFICATE,
    KEY,
    NAME,
    REVOCATIONS,
    TRACKER,
    Keyring,
    KeyringKeeper,
    is_joined,
    load_keyring,
    load_or_create_key,
    remove_keyring,
    save_keyring,
)
from runtime.seam import Runtime

FILES = {KEY, CERTIFICATE, AUTHORITY, REVOCATIONS, TRACKER, NAME}


@pytest.fixture
def keyring(swarm_ca: SwarmCa, tmp_path: Path) -> Keyring:
    tracker = NodeAddress(swarm_ca.node("tracker"), Role.TRACKER, ("192.0.2.1:4100", "[2001:db8::1]:4100"))
    return Keyring(tmp_path / "state" / "identity", swarm_ca.credentials("node", Role.STORAGE), tracker)


async def test_what_is_saved_is_loaded(runtime: Runtime, keyring: Keyring, swarm_ca: SwarmCa) -> None:
    assert not await is_joined(runtime, keyring.folder)
    await save_keyring(runtime, keyring)
    assert await is_joined(runtime, keyring.folder)
    loaded = await load_keyring(runtime, keyring.folder)
    assert loaded.tracker == keyring.tracker and loaded.folder == keyring.folder
    assert loaded.credentials.peer == keyring.credentials.peer
    assert loaded.credentials.certificate == keyring.credentials.certificate
    assert loaded.credentials.key.private_bytes_raw() == swarm_ca.key("node").private_bytes_raw()
    assert {path.name for path in keyring.folder.iterdir()} == FILES
    assert (keyring.folder / KEY).stat().st_mode & 0o777 == 0o600
    assert keyring.folder.stat().st_mode & 0o777 == 0o700


async def test_who_has_not_joined_is_told_how(runtime: Runtime, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ConfigError, match="not joined: run upswarm join INVITE"):
            await load_keyring(runtime, folder)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
async def test_a_key_that_others_can_read_is_refused_with_file_and_mode(
    runtime: Runtime, keyring: Keyring, mode: int
) -> None:
    await save_keyring(runtime, keyring)
    (keyring.folder / KEY).chmod(mode)
    with pytest.raises(ConfigError, match=r"key\.pem.*0600"):
        await load_keyring(runtime, keyring.folder)
    with pytest.raises(ConfigError, match=r"key\.pem.*0600"):
        await load_or_create_key(runtime, keyring.folder)


@pytest.mark.parametrize("name", sorted(FILES - {CERTIFICATE, NAME}))
async def test_a_missing_file_is_named(runtime: Runtime, keyring: Keyring, name: str) -> None:
    await save_keyring(runtime, keyring)
    (keyring.folder / name).unlink()
    with pytest.raises(ConfigError, match=name):
        await load_keyring(runtime, keyring.folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (KEY, b"not a key"),
        (CERTIFICATE, b""),
        (CERTIFICATE, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        (AUTHORITY, b"garbage"),
        (REVOCATIONS, b"garbage"),
        (REVOCATIONS, b"x" * 300_000),
        (TRACKER, b"{"),
        (TRACKER, b"[]"),
        (TRACKER, b'{"node": "x", "addresses": []}'),
        (TRACKER, json.dumps({"node": SwarmCa().node("t"), "addresses": ["no port"]}).encode()),
        (TRACKER, json.dumps({"node": SwarmCa().node("t"), "addresses": "192.0.2.1:1"}).encode()),
        (TRACKER, b"[" * 60_000),
        (TRACKER, b"\xff\xfe"),
    ],
)
async def test_a_damaged_file_is_an_error_of_the_operators_and_nothing_else(
    runtime: Runtime, keyring: Keyring, name: str, content: bytes
) -> None:
    await save_keyring(runtime, keyring)
    (keyring.folder / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        await load_keyring(runtime, keyring.folder)
    assert str(keyring.folder) in str(caught.value)


async def test_files_of_two_identities_do_not_make_one(runtime: Runtime, keyring: Keyring, swarm_ca: SwarmCa) -> None:
    await save_keyring(runtime, keyring)
    other = Keyring(keyring.folder.parent / "other", swarm_ca.credentials("other"), keyring.tracker)
    await save_keyring(runtime, other)
    (keyring.folder / CERTIFICATE).write_bytes((other.folder / CERTIFICATE).read_bytes())
    with pytest.raises(ConfigError, match="do not fit each other: the certificate belongs to another key"):
        await load_keyring(runtime, keyring.folder)


async def test_a_save_that_breaks_anywhere_leaves_the_old_identity_or_none(
    runtime: Runtime, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = type(runtime.disk).write_small
    for good_writes in range(len(FILES)):
        count = 0

        def fail_later(disk, path, data, *, mode=0o600, good_writes=good_writes) -> None:
            nonlocal count
            count += 1
            if count > good_writes:
                raise StorageBroken("the disk went away")
            write(disk, path, data, mode=mode)

        with monkeypatch.context() as patch:
            patch.setattr(type(runtime.disk), "write_small", fail_later)
            with pytest.raises(StorageBroken):
                await save_keyring(runtime, keyring)
        assert not await is_joined(runtime, keyring.folder)
    await save_keyring(runtime, keyring)
    await load_keyring(runtime, keyring.folder)


async def test_leaving_removes_everything_and_may_be_repeated(runtime: Runtime, keyring: Keyring) -> None:
    await save_keyring(runtime, keyring)
    (keyring.folder / "mine.txt").write_text("of the user")
    for _ in range(2):
        await remove_keyring(runtime, keyring.folder)
        assert [path.name for path in keyring.folder.iterdir()] == ["mine.txt"]
        assert not await is_joined(runtime, keyring.folder)
    await remove_keyring(runtime, keyring.folder / "absent")


async def test_a_key_is_made_once_and_then_found_again(runtime: Runtime, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "identity"
    first = await load_or_create_key(runtime, folder)
    second = await load_or_create_key(runtime, folder)
    assert first.private_bytes_raw() == second.private_bytes_raw()
    assert (folder / KEY).stat().st_mode & 0o777 == 0o600
    assert not await is_joined(runtime, folder), "a key is no membership"


async def test_the_keeper_writes_what_changed_and_never_an_older_state(
    runtime: Runtime, keyring: Keyring, swarm_ca: SwarmCa
) -> None:
    await save_keyring(runtime, keyring)
    keeper = KeyringKeeper(runtime, keyring)
    before = {name: (keyring.folder / name).stat().st_mtime_ns for name in FILES}
    newer = keyring.credentials.with_revocations(swarm_ca.revocations(2, ["mallory"]))
    newest = newer.with_revocations(swarm_ca.revocations(3, ["mallory", "eve"]))
    elsewhere = NodeAddress(keyring.tracker.node, Role.TRACKER, ("192.0.2.9:1",))
    other = NodeAddress(node("other tracker"), Role.TRACKER, ("192.0.2.10:1", "192.0.2.11:2"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.keep_trackers, (elsewhere, other))
        await keeper.keep_credentials(newer)
        await keeper.keep_credentials(newest)
    loaded = await load_keyring(runtime, keyring.folder)
    assert loaded.credentials.revocations_number == 3 and loaded.trackers == (elsewhere, other)
    unchanged = {name for name in FILES if (keyring.folder / name).stat().st_mtime_ns == before[name]}
    assert unchanged == {KEY, CERTIFICATE, AUTHORITY, NAME}
    renewed = swarm_ca.credentials("node", Role.STORAGE, issued=swarm_ca.now + 60).certificate
    await keeper.keep_credentials(newest.with_certificate(renewed))
    assert (await load_keyring(runtime, keyring.folder)).credentials.certificate == renewed
    assert keeper.keyring.trackers == (elsewhere, other)


async def test_a_node_remembers_what_it_was_called_when_it_joined(runtime: Runtime, keyring: Keyring) -> None:
    await save_keyring(runtime, replace(keyring, name="camera truck"))
    assert (await load_keyring(runtime, keyring.folder)).name == "camera truck"
    await runtime.run_sync(runtime.disk.remove, keyring.folder / "name.txt")
    assert (await load_keyring(runtime, keyring.folder)).name == ""
