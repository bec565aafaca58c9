"""The keys for an object store: from the settings (that is, the environment) or from a file; never shown, never logged.

The file is what AWS's own tools read, the first section of it: ``aws_access_key_id``, ``aws_secret_access_key`` and
perhaps ``aws_session_token``. Nobody but its owner may touch it (0600). In systemd's credential folder the modes say
less, because systemd guards the folder itself; files there are taken as they are.
"""

from __future__ import annotations

import configparser
from pathlib import Path

from protocol.errors import ConfigError
from runtime.seam import Runtime
from storage.backends.sigv4 import S3Keys

SYSTEMD_CREDENTIALS = Path("/run/credentials")


async def keys_of_file(runtime: Runtime, path: Path) -> S3Keys:
    """Return the keys in ``path``.

    Raises:
        ConfigError: it cannot be read, others may read it, or it has no keys; never with anything of its content.
    """

    def read() -> bytes:
        if path.is_relative_to(SYSTEMD_CREDENTIALS):
            return runtime.disk.read_small(path, 1 << 16)
        return runtime.disk.read_secret(path)

    try:
        data = await runtime.run_sync(read)
    except OSError as error:
        raise ConfigError(f"[storage] s3_credentials: {path}: cannot be read ({error.strerror or error})") from error
    parser = configparser.ConfigParser(interpolation=None)
    wrong = ConfigError(
        f"[storage] s3_credentials: {path}: not as expected; right would be a line [default], and below it"
        " aws_access_key_id = ... and aws_secret_access_key = ..."
    )
    try:
        parser.read_string(data.decode("utf-8"))
    except (configparser.Error, UnicodeDecodeError):
        # Their sentences quote the line, which may be the secret.
        raise wrong from None
    for name in parser.sections()[:1]:
        section = parser[name]
        keys = S3Keys(
            section.get("aws_access_key_id", "").strip(),
            section.get("aws_secret_access_key", "").strip(),
            section.get("aws_session_token", "").strip(),
        )
        if keys.access_key and keys.secret_key:
            return keys
    raise wrong
