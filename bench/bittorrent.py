"""What the libtorrent nodes of torrent.py (one fast link) and rival.py (a crowd) have in common: quiet settings, a v1
torrent of one file, and how a node takes it up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import libtorrent

# No DHT, no local discovery, no port mappings, TCP alone; choking off (every peer has a slot).
SETTINGS: dict[str, Any] = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "allow_multiple_connections_per_ip": True,
    "choking_algorithm": 0,
    "unchoke_slots_limit": -1,
}


def make_torrent(file: Path, torrent: Path, piece_bytes: int) -> None:
    """Write a v1 torrent of one file."""
    files = libtorrent.list_files(str(file))
    creator = libtorrent.create_torrent(files, piece_bytes, libtorrent.create_torrent.v1_only)
    libtorrent.set_piece_hashes(creator, str(file.parent))
    torrent.write_bytes(libtorrent.bencode(creator.generate()))


def take_up(session: libtorrent.session, torrent: Path, folder: Path, *, seed: bool) -> libtorrent.torrent_handle:
    """Add a torrent, started at once; with ``seed`` its file is whole in ``folder`` and not looked through again."""
    parameters = libtorrent.add_torrent_params()
    parameters.ti = libtorrent.torrent_info(str(torrent))
    parameters.save_path = str(folder)
    parameters.flags &= ~(libtorrent.torrent_flags.auto_managed | libtorrent.torrent_flags.paused)
    if seed:
        parameters.flags |= libtorrent.torrent_flags.seed_mode
    return session.add_torrent(parameters)
