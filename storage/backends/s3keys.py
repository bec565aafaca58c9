"""What objects are called in the bucket: a template of the operator's, filled in with a file's tag and its name. Pure.

    objects/{tag}                          by content alone
    files/{name}/{tag}                     files/films/cut.mp4/<tag>: a folder for each name, all its versions in it
    files/{folder}{stem}.{tag}{suffix}     files/films/cut.<tag>.mp4: beside each other; players know what it is

The tag is part of every key, so that two versions of a name are two objects, and which is whose can be read from a list
of keys alone. All keys are in a folder of their own, so that a prefix within ours can be another node's. A name is a
stranger's: of it only what every store and tool takes as it is goes into a key, the rest is written as "_"; the name
itself goes with the object as metadata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from urllib.parse import quote

from protocol.ids import Tag

BY_CONTENT = "objects/{tag}"
FIELDS = ("tag", "name", "folder", "stem", "suffix")
# S3 takes 1024; the prefix is bounded by itself (storage/config.py).
KEY_BYTES_MAX = 400
NAME_BYTES_MAX = 240
# S3 takes 2 KB of all metadata together.
METADATA_BYTES_MAX = 1024
_UNSAFE = re.compile(r"[^A-Za-z0-9!_.*'()/-]")
_TAG = re.compile(r"[0-9a-f]{64}-[1-9][0-9]{0,3}")
# A tag next to what could be taken for a part of it; a folder ends with a slash, and a suffix begins with a dot.
_CLOSE = re.compile(r"[0-9a-f](\{folder\})?\{tag\}|(?<!\{folder)\}\{tag\}|\{tag\}[0-9]|\{tag\}\{(?!suffix)")
_LITERAL = re.compile(r"[A-Za-z0-9!_.*'()/-]*")


class KeyTemplate:
    """A template that was checked.

    Raises:
        ValueError: it is none; says what would be right.
    """

    def __init__(self, text: str) -> None:
        right = f"right would be {BY_CONTENT!r} or 'files/{{name}}/{{tag}}'"
        try:
            parts = list(Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"{text[:80]!r}: {error}; {right}") from error
        fields = [field for _, field, _, _ in parts if field is not None]
        plain = all(not spec and not conversion for _, field, spec, conversion in parts if field is not None)
        if fields.count("tag") != 1 or not plain or any(field not in FIELDS for field in fields):
            known = ", ".join(f"{{{field}}}" for field in FIELDS)
            raise ValueError(f"{text[:80]!r}: {{tag}} once, and of the others what you like ({known}); {right}")
        literals = [literal for literal, _, _, _ in parts]
        if not all(_LITERAL.fullmatch(literal) for literal in literals) or len(text) > 100:
            raise ValueError(f"{text[:80]!r}: only A-Z, a-z, 0-9 and !_.*'()/- beside the fields; {right}")
        if re.match(r"[A-Za-z0-9_-]+/", text) is None:
            raise ValueError(f"{text[:80]!r}: a folder must come first; {right}")
        self.text = text
        self.folder = text[: text.index("/") + 1]
        # Where a tag stands next to letters or digits of its own, it could not be read back.
        if _CLOSE.search(text):
            raise ValueError(f"{text[:80]!r}: {{tag}} must be apart from its neighbours by a sign such as '/' or '.'")

    def key_of(self, tag: Tag, name: str) -> str:
        """Return the key of a file, below the prefix."""
        safe = safe_name(name)
        folder, _, last = safe.rpartition("/")
        stem, dot, suffix = last.rpartition(".")
        if not stem:
            stem, dot, suffix = last, "", ""
        # A suffix is told apart from the tag before it by its dot.
        parts = {
            "tag": str(tag),
            "name": safe or "unnamed",
            "folder": f"{folder}/" if folder else "",
            "stem": stem or "unnamed",
            "suffix": f"{dot}{suffix}",
        }
        return self.text.format_map(parts)

    def tag_of(self, key: str) -> Tag | None:
        """Return whose key this is; None when it is none of ours."""
        tags = _TAG.findall(key)
        # A name may look like a tag, too; ours is where the template has it.
        for text in {tags[0], tags[-1]} if tags else ():
            tag = Tag.parse(text)
            if self._fits(key, text):
                return tag
        return None

    def _fits(self, key: str, tag: str) -> bool:
        before, _, after = self.text.partition("{tag}")
        anything = {field: "\0" for field in FIELDS}
        wild = re.escape(f"{before.format_map(anything)}\1{after.format_map(anything)}")
        pattern = wild.replace(re.escape("\0"), ".*").replace(re.escape("\1"), re.escape(tag))
        return len(key) <= KEY_BYTES_MAX + 100 and re.fullmatch(pattern, key) is not None


def safe_name(name: str) -> str:
    """Return what of a name goes into a key: no empty, "." or ".." parts, nothing that must be escaped anywhere."""
    parts = [_UNSAFE.sub("_", part) for part in name.split("/")]
    safe = "/".join(part for part in parts if part.strip("."))
    return safe[-NAME_BYTES_MAX:].lstrip("/")


def metadata_of(tag: Tag, name: str) -> Mapping[str, str]:
    """Return the headers that tell tag and name with the object; the name is percent-encoded UTF-8, cut when long."""
    text = quote(name, safe="/")[:METADATA_BYTES_MAX]
    if "%" in text[-2:]:
        text = text[: text.rindex("%")]  # not within an escape
    return {"x-amz-meta-upswarm-tag": str(tag), "x-amz-meta-upswarm-name": text}
