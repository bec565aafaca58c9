"""One libtorrent node on the loopback interface, as a rival of the link benches: tuned for one fast transfer.

    python -m bench.torrent seed FILE TORRENT [--encrypted]       makes TORRENT, prints its port, seeds until stdin ends
    python -m bench.torrent fetch TORRENT FOLDER PORT [--encrypted]

``fetch`` prints seconds from the first dial to the verified file, and what the process used of a core for it. Pieces of
1 MiB, v1; encrypted is BitTorrent's RC4, which hides and proves nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import libtorrent

from bench import bittorrent

PIECE_BYTES = 1024 * 1024
SETTINGS = bittorrent.SETTINGS | {
    # What libtorrent's own tuning page says for one fast link: deep queues, large buffers, threads for both cores.
    "request_queue_time": 10,
    "max_out_request_queue": 4000,
    "max_allowed_in_request_queue": 8000,
    "send_buffer_low_watermark": 1024 * 1024,
    "send_buffer_watermark": 16 * 1024 * 1024,
    "send_buffer_watermark_factor": 150,
    "max_queued_disk_bytes": 64 * 1024 * 1024,
    "aio_threads": 4,
    "hashing_threads": 2,
    "alert_mask": libtorrent.alert.category_t.status_notification | libtorrent.alert.category_t.error_notification,
}


def _session(*, encrypted: bool) -> libtorrent.session:
    policy = 0 if encrypted else 2  # forced, disabled
    crypt = {
        "in_enc_policy": policy,
        "out_enc_policy": policy,
        "allowed_enc_level": 2 if encrypted else 3,  # RC4 for all bytes
        "prefer_rc4": encrypted,
    }
    return libtorrent.session(SETTINGS | crypt | {"listen_interfaces": "127.0.0.1:0"})


def seed(file: Path, torrent: Path, *, encrypted: bool) -> None:
    """Seed until stdin ends; each line on stdin is answered with the seconds of a core used so far."""
    bittorrent.make_torrent(file, torrent, PIECE_BYTES)
    session = _session(encrypted=encrypted)
    bittorrent.take_up(session, torrent, file.parent, seed=True)
    while not session.is_listening() or not session.listen_port():
        time.sleep(0.01)
    print(json.dumps({"port": session.listen_port()}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"cpu": _cpu()}), flush=True)


def fetch(torrent: Path, folder: Path, port: int, *, encrypted: bool) -> None:
    """Fetch once and say how it went."""
    session = _session(encrypted=encrypted)
    handle = bittorrent.take_up(session, torrent, folder, seed=False)
    while handle.status().state == libtorrent.torrent_status.checking_resume_data:
        time.sleep(0.005)
    began, used = time.monotonic(), _cpu()
    handle.connect_peer(("127.0.0.1", port))
    while not handle.status().is_seeding:
        session.wait_for_alert(20)
        for alert in session.pop_alerts():
            if isinstance(alert, libtorrent.torrent_error_alert):
                sys.exit(str(alert))
    seconds = time.monotonic() - began
    print(json.dumps({"seconds": seconds, "cpu": _cpu() - used}), flush=True)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    seeding = verbs.add_parser("seed")
    seeding.add_argument("file", type=Path)
    seeding.add_argument("torrent", type=Path)
    fetching = verbs.add_parser("fetch")
    fetching.add_argument("torrent", type=Path)
    fetching.add_argument("folder", type=Path)
    fetching.add_argument("port", type=int)
    for one in (seeding, fetching):
        one.add_argument("--encrypted", action="store_true")
    options = parser.parse_args()
    if options.verb == "seed":
        seed(options.file, options.torrent, encrypted=options.encrypted)
    else:
        fetch(options.torrent, options.folder, options.port, encrypted=options.encrypted)


if __name__ == "__main__":
    main()
