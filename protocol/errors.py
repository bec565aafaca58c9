"""Every error Upswarm raises on purpose; each class answers one question: whose turn is it now?

Foreign exceptions (``OSError``, ``ssl.SSLError``, a database's) are turned into these at the file that called them,
with ``raise ... from``. The exit code of the command line follows from the class (``exit_code``), nowhere else.
"""

from __future__ import annotations


class UpswarmError(Exception):
    """Base of all; never raised itself."""

    exit_code = 1


class LocalProtocolError(UpswarmError):
    """Ours: we tried to say what may not be said. A bug; let the task fall, with its traceback."""


class RemoteProtocolError(UpswarmError):
    """Theirs: they said what may not be said. Drop the link, count it, tell them why if we still can."""


class LinkLost(UpswarmError):
    """Nobody's: the net went away, or a deadline passed. Another peer, later."""

    exit_code = 5


class NotTrusted(UpswarmError):
    """Theirs: the other side did not prove to be whom we may talk to. Not one application byte was exchanged."""

    exit_code = 6


class StorageError(UpswarmError):
    """The store's; see the subclasses."""


class ChunkMissing(StorageError):
    """The store does not hold that chunk (any more)."""

    exit_code = 4


class StorageFull(StorageError):
    """No room. Nothing acknowledged was lost; it goes on when there is room again."""

    exit_code = 9


class StorageUnavailable(StorageError):
    """The store cannot answer now.

    ``retry_after_seconds``: when asking again makes sense.
    """

    exit_code = 5

    def __init__(self, reason: str, retry_after_seconds: float = 5.0) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class StorageBroken(StorageError):
    """A write or an fsync failed. What the disk holds is unknown: the process must end, and start from what is durable.

    Never retried: after a failed fsync the kernel may mark the lost pages clean, and a second fsync would lie.
    """


class IntegrityError(UpswarmError):
    """Bytes are not what their digest says."""

    exit_code = 8


class SizeRefuted(IntegrityError):
    """Whoever says that a tag's file has this size cannot show its last chunk, and somebody says otherwise.

    ``claims``: the other sizes that were heard of, in bytes, each from a node of its own.
    """

    def __init__(self, reason: str, claims: tuple[int, ...]) -> None:
        super().__init__(reason)
        self.claims = claims


class ConfigError(UpswarmError):
    """The operator's: says file, key, and what would be right."""

    exit_code = 2


class CommandError(UpswarmError):
    """The caller's: travels back over the control socket as code and sentence.

    ``exit_code`` is the command line's exit code (docs/commands.md), ``code`` a stable word for programs.
    """

    def __init__(self, code: str, sentence: str, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.exit_code = exit_code


class NotFound(CommandError):
    """Nobody in reach knows that tag or name."""

    def __init__(self, sentence: str) -> None:
        super().__init__("not-found", sentence, 4)
