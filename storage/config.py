"""Settings of the storage node: one frozen dataclass, read once (runtime/config.py), defaults beside their reasons."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from protocol.errors import ConfigError
from protocol.ids import parse_address
from protocol.limits import WORD_BYTES_MAX
from runtime.config import NO_SECRET, Secret
from runtime.places import Places
from storage.backends.s3keys import BY_CONTENT, KeyTemplate
from storage.keeping.quotas import Quotas

LISTEN_DEFAULT = "0.0.0.0:4200"

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# What every store takes in a key as it is. A prefix is a folder, or nothing.
_PREFIX = re.compile(r"((?!\.\.?/)[A-Za-z0-9._-]{1,64}/){0,8}")
_REGION = re.compile(r"[a-z0-9-]{1,32}")
S3_PARTS_AT_ONCE_MAX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """``data`` None: the folder ``data`` below the program's state. ``advertise``: where others reach us, if not where
    we listen (behind a port forwarding, say)."""

    places: Places
    listen: str = LISTEN_DEFAULT
    advertise: tuple[str, ...] = ()
    data: Path | None = None
    name: str = ""  # for people; the machine's when empty
    log_level: str = "info"
    mdns: bool = True
    # Left free whatever comes: a full disk would stop the ledger and the machine around us.
    reserve_bytes: int = 1 << 30
    # None: what we send is not capped. A storage node is there to serve.
    up_bytes_per_second: float | None = None
    # So many small files may be on their way from one node at a time; a folder of files is put a few at a time.
    node_jobs_max: int = 256
    # What was durable of a cancelled upload waits so long for a later put of the same file.
    rest_seconds: float = 24 * 3600.0
    # An open job that nobody was connected for in so long is cancelled; its uploader may come back from a long weekend.
    idle_seconds: float = 7 * 24 * 3600.0

    # How long a name leads to its file, if its put does not say; None: until it is removed.
    expires_seconds: float | None = None
    # What no name leads to any more (an earlier version) or ever did is kept so long; None: until it is removed.
    unnamed_seconds: float | None = None
    # So much may one node have stored here; and all names that begin alike, as "renders/=500GiB".
    quota_node_bytes: int | None = None
    quota_prefixes: tuple[str, ...] = ()
    # Everything stored is read again within 25 to 35 days, at most so fast; None: only when asked. 20 MB/s are 43 TB.
    scrub_bytes_per_second: float | None = 20e6

    # Where files come to rest: a folder of ours, or a bucket of an S3-compatible store.
    backend: Literal["directory", "s3"] = "directory"
    s3_endpoint: str = ""  # AWS in s3_region when empty
    s3_bucket: str = ""
    s3_prefix: str = "upswarm/"  # one for each storage node
    s3_key: str = BY_CONTENT  # what objects are called below the prefix
    s3_region: str = "us-east-1"  # what stores without regions expect, too
    # auto: the bucket is part of the host name at AWS and of the path elsewhere.
    s3_addressing: Literal["auto", "path", "virtual"] = "auto"
    s3_credentials: Path | None = None  # a file as AWS's tools read it
    s3_access_key: str = ""
    s3_secret_key: Secret = NO_SECRET
    s3_session_token: Secret = NO_SECRET
    # Of one file; four fill a gigabit line at usual distances.
    s3_parts_at_once: int = 4
    # checksum: believe the SHA-256 that the store shows. read: some stores show what they were told; read it all back.
    s3_verify: Literal["checksum", "read"] = "checksum"

    # Who remembers: a file of ours, or a PostgreSQL that several storage nodes share, each with the same bucket.
    ledger: str = "sqlite"
    ledger_password: Secret = NO_SECRET
    ledger_password_file: Path | None = None  # 0600, or a systemd credential
    # A node that was not heard of for so long loses its open jobs to the others; by the database's clock.
    lease_seconds: float = 30.0

    # Let helpers put large files into the bucket by themselves; only words about it pass through this node.
    direct: bool = False

    # Where what is stored can be read by HTTP; None: nowhere.
    http: str | None = None
    http_token: Path | None = None  # a file (0600); None: "http-token" below the program's state, made when needed
    # Whether tus clients may upload there, too. Whoever could only read until now could then write.
    http_uploads: bool = False
    # An upload by tus that nobody went on with for so long is removed.
    http_upload_seconds: float = 24 * 3600.0

    def __post_init__(self) -> None:
        if self.http is not None:
            try:
                parse_address(self.http)
            except ValueError as error:
                raise ConfigError(f"[storage] http: {error}") from error
        for address in (self.listen, *self.advertise):
            try:
                parse_address(address)
            except ValueError as error:
                raise ConfigError(f"[storage] listen or advertise: {error}") from error
        for key, value in (("node_jobs_max", self.node_jobs_max - 1), ("reserve_bytes", self.reserve_bytes)):
            if value < 0:
                raise ConfigError(f"[storage] {key}: too small; the default would be right for most")
        try:
            _ = self.quotas
        except ValueError as error:
            raise ConfigError(f"[storage] quota_prefixes: {error}") from error
        if len(self.name.encode("utf-8")) > WORD_BYTES_MAX:
            raise ConfigError(f"[storage] name: at most {WORD_BYTES_MAX} bytes")
        if self.backend == "s3":
            self._check_s3()
        elif self.direct or self.shared:
            which = "direct" if self.direct else "ledger"
            raise ConfigError(f'[storage] {which}: needs the objects in a bucket; set backend = "s3" too')
        self._check_ledger()

    def _check_ledger(self) -> None:
        if self.ledger != "sqlite":
            # Not repeated: who writes a password into it shall not find it in the log.
            parts = urlsplit(self.ledger)
            if parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/"):
                raise ConfigError(
                    '[storage] ledger: right would be "sqlite", or "postgresql://upswarm@db.example.org/upswarm"'
                )
            if parts.password is not None or "password=" in parts.query:
                raise ConfigError(
                    "[storage] ledger: with a password in it; put it into a file (0600) that ledger_password_file"
                    " names, or into UPSWARM_STORAGE_LEDGER_PASSWORD"
                )
        if self.ledger_password_file is not None and self.ledger_password:
            raise ConfigError("[storage] ledger_password and ledger_password_file: give the one or the other")
        if not 2 <= self.lease_seconds <= 3600:
            raise ConfigError("[storage] lease_seconds: 2 to 3600 are possible; 30 would be right for most")

    @property
    def shared(self) -> bool:
        """Whether other storage nodes have the same ledger."""
        return self.ledger != "sqlite"

    def _check_s3(self) -> None:
        if self.s3_endpoint and not _is_endpoint(self.s3_endpoint):
            # Not repeated: who writes a password into it shall not find it in the log.
            raise ConfigError(
                "[storage] s3_endpoint: not the address of a store; right would be https://s3.example.org or"
                " http://127.0.0.1:8333, without a path"
            )
        for key, value, pattern, right in (
            ("s3_bucket", self.s3_bucket, _BUCKET, "the name of a bucket: 3 to 63 of a-z, 0-9, '.' and '-'"),
            ("s3_prefix", self.s3_prefix, _PREFIX, "'' or a folder such as 'upswarm/node-1/', with '/' at its end"),
            ("s3_region", self.s3_region, _REGION, "a region such as 'eu-central-1'"),
        ):
            if not pattern.fullmatch(value):
                raise ConfigError(f"[storage] {key}: {value[:200]!r}; right would be {right}")
        try:
            KeyTemplate(self.s3_key)
        except ValueError as error:
            raise ConfigError(f"[storage] s3_key: {error}") from error
        if not 1 <= self.s3_parts_at_once <= S3_PARTS_AT_ONCE_MAX:
            raise ConfigError(f"[storage] s3_parts_at_once: 1 to {S3_PARTS_AT_ONCE_MAX} are possible")
        inline = bool(self.s3_access_key), bool(self.s3_secret_key)
        if self.s3_credentials is not None and any(inline):
            raise ConfigError("[storage] s3_credentials and s3_access_key, s3_secret_key: give the one or the others")
        if self.s3_credentials is None and not all(inline):
            raise ConfigError(
                "[storage] s3_credentials: name a file with the keys (0600), or set UPSWARM_STORAGE_S3_ACCESS_KEY and"
                " UPSWARM_STORAGE_S3_SECRET_KEY in the environment"
            )

    @property
    def quotas(self) -> Quotas:
        """How much may be stored, by whom and under which names."""
        return Quotas.of_settings(self.quota_node_bytes, self.quota_prefixes)

    @property
    def http_token_file(self) -> Path:
        """Where the token of the HTTP door is."""
        return self.http_token if self.http_token is not None else self.places.state / "http-token"

    @property
    def data_folder(self) -> Path:
        """Where everything is kept: ledger.db, objects/, spool/, lock."""
        return self.data if self.data is not None else self.places.state / "data"


def _is_endpoint(text: str) -> bool:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or parts.path not in ("", "/") or parts.query or parts.fragment:
        return False
    host = parts.netloc
    default = f"{host}:443" if re.search(r":[0-9]+$", host) is None else host
    try:
        parse_address(default)
    except ValueError:
        return False
    return True
