"""A real S3 server: SeaweedFS as one process on loopback, with a folder and ports of its own. It checks checksums.

Started and stopped by tests, as often as they like; it keeps its data in between. Dies with the test process.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from storage.backends.s3client import S3Settings
from storage.backends.sigv4 import S3Keys
from support.processes import die_with_parent

KEYS = S3Keys("AKIDTEST", "a key for tests that nobody may print")
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0


class Seaweed:
    """``start`` and ``stop`` it; ``close`` in the end."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="weed-", dir="/tmp"))
        names = ("master", "volume", "filer", "s3")
        ports = _free_ports(2 * len(names))
        self._ports = dict(zip([*names, *(f"{name}.grpc" for name in names)], ports, strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        identity = {
            "name": "test",
            "credentials": [{"accessKey": KEYS.access_key, "secretKey": KEYS.secret_key}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (self.folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
        (self.folder / "data").mkdir()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3']}"

    def settings(self, bucket: str, prefix: str = "node/") -> S3Settings:
        return S3Settings(
            endpoint=self.endpoint, bucket=bucket, prefix=prefix, region="us-east-1", addressing="path", keys=KEYS
        )

    def boto(self) -> Any:
        """Amazon's own client."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=KEYS.access_key,
            aws_secret_access_key=KEYS.secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 3}),
        )

    def make_bucket(self, name: str) -> str:
        client = self.boto()
        client.create_bucket(Bucket=name)
        client.close()
        return name

    def start(self) -> Seaweed:
        """Start it and wait until it answers S3 requests."""
        assert self._process is None
        ports = [
            f"-{name.replace('.grpc', '')}.port{'.grpc' if '.grpc' in name else ''}={port}"
            for name, port in self._ports.items()
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("weed")),
                    "-logtostderr=true",
                    "server",
                    f"-dir={self.folder / 'data'}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    *ports,
                    "-s3",
                    f"-s3.config={self.folder / 'identities.json'}",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    # Small volumes: it reserves none of them in advance, but counts with them.
                    "-master.volumeSizeLimitMB=256",
                    "-master.telemetry=false",
                    "-volume.max=64",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "GOMEMLIMIT": "500MiB", "GOMAXPROCS": "2"},
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < deadline, self.log_tail()
            time.sleep(0.1)
        return self

    def stop(self) -> None:
        """SIGTERM, then SIGKILL: it may take its time."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Kill it and remove its folder."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for port in self._ports.values():
            for kind in ("master", "volume", "filer", "s3"):
                for name in (kind, f"{kind}-grpc"):
                    Path(f"/tmp/seaweedfs-{name}-{port}.sock").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_tail(self) -> str:
        return "\n".join((self.folder / "log").read_text("utf-8", "replace").splitlines()[-20:])

    def _answers(self) -> bool:
        """Whether a listing of buckets is answered: the port opens before there is anything behind it."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", self._ports["s3"], timeout=5)
            try:
                connection.request("GET", "/")
                if connection.getresponse().status != 403:
                    return False
            finally:
                connection.close()
            return self._has_volumes()
        return False

    def _has_volumes(self) -> bool:
        """Whether the master knows its volume server: before that every upload is refused."""
        connection = http.client.HTTPConnection("127.0.0.1", self._ports["master"], timeout=5)
        try:
            connection.request("GET", "/dir/status")
            topology = json.loads(connection.getresponse().read())["Topology"]
            return bool(topology["Max"])
        finally:
            connection.close()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@contextlib.contextmanager
def running_seaweed() -> Iterator[Seaweed]:
    """A server while the block lasts."""
    server = Seaweed()
    try:
        yield server.start()
    finally:
        server.close()
