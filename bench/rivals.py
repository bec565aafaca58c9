"""The others on the same work: libtorrent, nginx with curl, rclone and aria2, each as real processes on loopback.

Each function starts its server for as long as ``stack`` lasts and returns a contestant, or None when it is not
installed (bench/install-rivals installs all). TLS is 1.3 with a certificate made for the run; the clients check it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from bench.contest import MIB, Contestant, Sample, cpu_seconds

_SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_START_SECONDS_MAX = 20.0


def _tool(name: str) -> str | None:
    return shutil.which(name, path=_SEARCH)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_open(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS_MAX
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"nobody listens on port {port}")
        time.sleep(0.02)


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Return key and certificate of 127.0.0.1, made once a run."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    if not certificate.exists():
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=127.0.0.1"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run(command, check=True, capture_output=True)
    return key, certificate


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _client_run(command: list[str], server: int, source: Path, target: Path) -> Sample:
    """Run one client to its end: what it took, and what both sides used."""
    served = cpu_seconds(server)
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {said.decode('utf-8', 'replace')[-500:]}")
    size = source.stat().st_size
    if target.stat().st_size != size:
        raise RuntimeError(f"{command[0]} left {target.stat().st_size} bytes of {size}")
    target.unlink()
    return Sample(seconds, size / MIB, cpu_seconds(server) - served, usage.ru_utime + usage.ru_stime, size)


class Nginx:
    """A web server on ``source``'s folder, one for all clients of a row."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path, source: Path) -> None:
        key, self.certificate = _certificate(folder)
        self.port = _free_port()
        home = folder / "nginx"
        home.mkdir()
        (home / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {home}/pid; error_log {home}/errors;\n"
            "user root; events { worker_connections 64; }\n"
            f"http {{ access_log off; sendfile on; tcp_nopush on; ssl_protocols TLSv1.3;\n"
            f" client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fast;\n"
            f" uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;\n"
            f" server {{ listen 127.0.0.1:{self.port} ssl; ssl_certificate {self.certificate};\n"
            f"  ssl_certificate_key {key}; root {source.parent}; }} }}\n"
        )
        command = [str(_tool("nginx")), "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "errors")]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(_end, self.process)
        _wait_open(self.port)

    def url(self, source: Path) -> str:
        """Return where ``source`` is."""
        return f"https://127.0.0.1:{self.port}/{source.name}"


def curl(stack: contextlib.ExitStack, folder: Path, source: Path) -> Contestant | None:
    """nginx to curl by HTTPS, into a file: verifies nothing but TLS's records."""
    if _tool("nginx") is None or _tool("curl") is None:
        return None
    nginx = Nginx(stack, folder, source)
    target = folder / "curl.copy"
    command = ["curl", "-sS", "--fail", "--cacert", str(nginx.certificate), "-o", str(target), nginx.url(source)]
    return Contestant(
        "nginx → curl, HTTPS",
        lambda: _client_run(command, nginx.process.pid, source, target),
        verifies="nothing",
        warm_mib=source.stat().st_size // MIB,
    )


def aria2(stack: contextlib.ExitStack, folder: Path, source: Path) -> Contestant | None:
    """nginx to aria2 by HTTPS over four connections; afterwards it compares the whole file's SHA-256."""
    if _tool("nginx") is None or _tool("aria2c") is None:
        return None
    place = folder / "aria2"
    place.mkdir()
    nginx = Nginx(stack, place, source)
    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    command = [
        "aria2c",
        "-q",
        "--no-conf",
        "-x4",
        "-s4",
        "--file-allocation=falloc",
        f"--ca-certificate={nginx.certificate}",
    ]
    command += ["--async-dns=false", "--disable-ipv6", f"--checksum=sha-256={digest}", "-d", str(place), "-o", "copy"]
    command.append(nginx.url(source))
    return Contestant(
        "nginx → aria2, HTTPS, 4 connections",
        lambda: _client_run(command, nginx.process.pid, source, place / "copy"),
        verifies="whole file",
        warm_mib=source.stat().st_size // MIB,
    )


def rclone(stack: contextlib.ExitStack, folder: Path, source: Path) -> Contestant | None:
    """rclone on both sides by HTTPS, four streams; compares sizes only (HTTP has no digests)."""
    tool = _tool("rclone")
    if tool is None:
        return None
    key, certificate = _certificate(folder)
    port = _free_port()
    environment = {**os.environ, "RCLONE_CONFIG": str(folder / "rclone.conf")}
    (folder / "rclone.conf").write_text("")
    served = [tool, "serve", "http", str(source.parent), "--addr", f"127.0.0.1:{port}"]
    served += ["--cert", str(certificate), "--key", str(key), "--min-tls-version", "tls1.3"]
    served += ["--include", source.name]
    process = subprocess.Popen(served, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(_end, process)
    _wait_open(port)
    target = folder / "rclone.copy"
    command = [
        tool,
        "--config",
        str(folder / "rclone.conf"),
        "--ca-cert",
        str(certificate),
        "copyto",
        "--no-check-dest",
    ]
    command += [f"--http-url=https://127.0.0.1:{port}", f":http:{source.name}", str(target)]
    return Contestant(
        "rclone → rclone, HTTPS, 4 streams",
        lambda: _client_run(command, process.pid, source, target),
        verifies="nothing",
        warm_mib=source.stat().st_size // MIB,
    )


def libtorrent(stack: contextlib.ExitStack, folder: Path, source: Path, *, encrypted: bool) -> Contestant | None:
    """libtorrent on both sides, v1, tuned; ``encrypted``: by RC4."""
    if importlib.util.find_spec("libtorrent") is None:
        return None
    place = folder / ("torrent-encrypted" if encrypted else "torrent")
    place.mkdir()
    torrent = place / "file.torrent"
    flags = ["--encrypted"] if encrypted else []
    command = [sys.executable, "-m", "bench.torrent", "seed", str(source), str(torrent), *flags]
    seeder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert seeder.stdin is not None and seeder.stdout is not None
    asked, answers = seeder.stdin, seeder.stdout

    def end() -> None:
        asked.close()
        seeder.wait(20)
        answers.close()

    stack.callback(end)
    port = json.loads(answers.readline())["port"]

    def used() -> float:
        asked.write("\n")
        asked.flush()
        return float(json.loads(answers.readline())["cpu"])

    def run() -> Sample:
        before = used()
        fetching = [sys.executable, "-m", "bench.torrent", "fetch", str(torrent), str(place), str(port), *flags]
        done = subprocess.run(fetching, check=True, capture_output=True, text=True)
        result = json.loads(done.stdout)
        (place / source.name).unlink()
        size = source.stat().st_size
        return Sample(result["seconds"], size / MIB, used() - before, result["cpu"], size)

    name = "libtorrent v1, " + ("encrypted (RC4)" if encrypted else "plain")
    return Contestant(name, run, verifies="every piece", warm_mib=source.stat().st_size // MIB)


def dd(source: Path, target: Path) -> Contestant:
    """``dd conv=fsync``: what the disk takes."""
    command = ["dd", f"if={source}", f"of={target}", "bs=1M", "conv=fsync", "status=none"]

    def run() -> Sample:
        began = time.monotonic()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"dd ended with {process.returncode}")
        target.unlink()
        size = source.stat().st_size
        return Sample(seconds, size / MIB, None, usage.ru_utime + usage.ru_stime, size)

    return Contestant("dd conv=fsync", run, verifies="nothing", warm_mib=source.stat().st_size // MIB)
