"""One libtorrent node on one host of the testbed: what crowd.py runs beside Upswarm, in the same topology.

    python -m bench.rival make FILE TORRENT          make a v1 torrent
    python -m bench.rival run TORRENT FOLDER --address HOST --peers HOST,HOST [--seed]

``run`` prints one line of JSON ten times a second: bytes it has, and payload bytes it has sent to each peer. Ends when
it is terminated. Settings: no rate limits, no DHT, no local discovery, choking off (every peer has a slot), strict
end game: what a friend of BitTorrent would choose for this.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import libtorrent

PORT = 6881
PIECE_BYTES = 256 * 1024
SETTINGS = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "choking_algorithm": 0,
    "unchoke_slots_limit": -1,
    "allow_multiple_connections_per_ip": True,
    "connection_speed": 200,
    "request_queue_time": 3,
    "alert_mask": 0,
}


def make(file: Path, torrent: Path) -> None:
    """Write a torrent of one file."""
    storage = libtorrent.file_storage()
    libtorrent.add_files(storage, str(file))
    creator = libtorrent.create_torrent(storage, PIECE_BYTES, libtorrent.create_torrent.v1_only)
    libtorrent.set_piece_hashes(creator, str(file.parent))
    torrent.write_bytes(libtorrent.bencode(creator.generate()))


def run(torrent: Path, folder: Path, addresses: list[str], peers: list[str], *, seed: bool) -> None:
    """Take part until terminated."""
    interfaces = ",".join(f"{address}:{PORT}" for address in addresses)
    session = libtorrent.session(SETTINGS | {"listen_interfaces": interfaces})
    parameters = libtorrent.add_torrent_params()
    parameters.ti = libtorrent.torrent_info(str(torrent))
    parameters.save_path = str(folder)
    parameters.flags &= ~(libtorrent.torrent_flags.auto_managed | libtorrent.torrent_flags.paused)
    if seed:
        parameters.flags |= libtorrent.torrent_flags.seed_mode
    handle = session.add_torrent(parameters)
    for peer in peers:
        handle.connect_peer((peer, PORT))
    sent: dict[str, int] = {}
    while True:
        status = handle.status()
        for peer in handle.get_peer_info():
            sent[peer.ip[0]] = max(sent.get(peer.ip[0], 0), peer.total_upload)
        line = {
            "done": status.total_wanted_done,
            "whole": status.is_seeding,
            "sent": sent,
            "wasted": status.total_redundant_bytes + status.total_failed_bytes,
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("make")
    making.add_argument("file", type=Path)
    making.add_argument("torrent", type=Path)
    running = verbs.add_parser("run")
    running.add_argument("torrent", type=Path)
    running.add_argument("folder", type=Path)
    running.add_argument("--addresses", default="0.0.0.0")
    running.add_argument("--peers", default="")
    running.add_argument("--seed", action="store_true")
    options = parser.parse_args()
    if options.verb == "make":
        make(options.file, options.torrent)
    else:
        peers = [peer for peer in options.peers.split(",") if peer]
        run(options.torrent, options.folder, options.addresses.split(","), peers, seed=options.seed)


if __name__ == "__main__":
    main()
