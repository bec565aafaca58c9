"""A thousand connections that say a byte a second hold up nobody who works.

They come from as many addresses, so that no cap for one address helps, and whoever is cut off comes back at once.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from support.commands import die_with_parent
from support.crew import Crew, put
from support.files import MIB
from support.processes import Swarm, wait_until

pytestmark = [pytest.mark.timing, pytest.mark.slow, pytest.mark.timeout(300)]

CONNECTIONS = 1000
SIZE_BYTES = 96 * MIB
UPLINK = "200mbit"
RATE_KEPT_MIN = 0.9
# Half a handshake is about 80 KiB, most of it OpenSSL's, and links.py lets 1024 strangers in at a time.
MEMORY_BYTES_MAX = CONNECTIONS * 96 * 1024
# Says the first flight of a TLS handshake, a byte a second, over every connection that it has or can have.
SLOW = """
import selectors, socket, ssl, sys, time
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
out = ssl.MemoryBIO()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.set_alpn_protocols(["upswarm/1"])
tls = context.wrap_bio(ssl.MemoryBIO(), out)
try:
    tls.do_handshake()
except ssl.SSLWantReadError:
    pass
hello = out.read()
slots = {}
made = cut = 0
next_line = time.monotonic()
def dial(number):
    global made
    connection = socket.socket()
    connection.bind((f"127.1.{number // 250}.{1 + number % 250}", 0))
    connection.setblocking(False)
    connection.connect_ex((host, port))
    slots[number] = [connection, 0]
    made += 1
for number in range(count):
    dial(number)
while True:
    began = time.monotonic()
    for number in range(count):
        connection, said = slots[number]
        try:
            connection.send(hello[said : said + 1] or b"x")
            slots[number][1] = said + 1
            if connection.recv(1) == b"":
                raise ConnectionResetError
        except BlockingIOError:
            pass
        except OSError:
            cut += 1
            connection.close()
            dial(number)
        # A hundredth of them each ten milliseconds, not all at once.
        if number % 10 == 9:
            time.sleep(max(0.0, began + (number + 1) / count - time.monotonic()))
    print(made, cut, flush=True)
"""


@contextmanager
def slow_strangers(address: str) -> Iterator[subprocess.Popen[str]]:
    """A thousand of them, while the block lasts."""
    host, _, port = address.rpartition(":")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, host, port, str(CONNECTIONS)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def rate_of_put(crew: Crew, number: int) -> float:
    """Put a file of its own and return its bytes per second."""
    file = crew.file(f"file-{number}.bin", SIZE_BYTES, number)
    began = time.monotonic()
    assert put(crew.daemons[0], file)["state"] == "stored"
    return SIZE_BYTES / (time.monotonic() - began)


def test_a_thousand_slow_connections_cost_no_more_than_a_tenth(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1, up_bytes_per_second=UPLINK)
    rate_of_put(crew, 0)
    alone = [rate_of_put(crew, 1), rate_of_put(crew, 2)]
    before = crew.storage.resident_bytes()
    with slow_strangers(crew.storage.address) as strangers:
        storage = psutil.Process(crew.storage.pid)
        wait_until(lambda: len(storage.net_connections("tcp")) >= CONNECTIONS * 0.95, "they are all there")
        beside = [rate_of_put(crew, 3), rate_of_put(crew, 4)]
        grown = crew.storage.resident_bytes() - before
        assert strangers.stdout is not None and strangers.poll() is None
        # Those of the first second have been cut off by now, and came back.
        crew.storage.wait_logged("stranger refused", more_than=CONNECTIONS // 2)
    print(f"alone {max(alone) / 1e6:.1f} MB/s, beside {max(beside) / 1e6:.1f} MB/s, {grown / MIB:.0f} MiB more")
    assert max(beside) >= RATE_KEPT_MIN * max(alone), (alone, beside)
    assert grown <= MEMORY_BYTES_MAX
    # All are gone when they are: nothing of them is kept.
    wait_until(lambda: len(storage.net_connections("tcp")) < 50, "their sockets are closed", 40)
