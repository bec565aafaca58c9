"""One libtorrent node on one host of the testbed: what crowd.py runs beside Upswarm, in the same topology.

    python -m bench.rival make FILE TORRENT          make a v1 torrent
    python -m bench.rival run TORRENT FOLDER [--addresses HOST,HOST] [--peers HOST,HOST] [--seed]

``run`` prints one line of JSON ten times a second: bytes it has, and payload bytes it has sent to each peer. Ends when
it is terminated. Settings (and bittorrent.py's): no rate limits, strict end game: what a friend of BitTorrent would
choose for this.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import libtorrent

from bench import bittorrent

PORT = 6881
PIECE_BYTES = 256 * 1024
SETTINGS = bittorrent.SETTINGS | {
    "connection_speed": 200,
    "request_queue_time": 3,
    "alert_mask": 0,
}


def run(torrent: Path, folder: Path, addresses: list[str], peers: list[str], *, seed: bool) -> None:
    """Take part until terminated."""
    interfaces = ",".join(f"{address}:{PORT}" for address in addresses)
    session = libtorrent.session(SETTINGS | {"listen_interfaces": interfaces})
    handle = bittorrent.take_up(session, torrent, folder, seed=seed)
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
        bittorrent.make_torrent(options.file, options.torrent, PIECE_BYTES)
    else:
        peers = [peer for peer in options.peers.split(",") if peer]
        run(options.torrent, options.folder, options.addresses.split(","), peers, seed=options.seed)


if __name__ == "__main__":
    main()
