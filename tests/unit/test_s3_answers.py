"""What an object store says is a stranger's text: no document type of any encoding is read."""

from __future__ import annotations

import pytest

from protocol.errors import StorageUnavailable
from storage.backends.s3answers import is_error, page_of, text_of

# Ten entities of ten each: 3 GB of text if somebody expanded them.
BOMB = (
    "<!DOCTYPE Error ["
    + '<!ENTITY a0 "laugh">'
    + "".join(f'<!ENTITY a{level} "{f"&a{level - 1};" * 10}">' for level in range(1, 10))
    + "]><Error><Code>Odd</Code><Message>&a9;</Message></Error>"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("declared", ["", '<?xml version="1.0" encoding="UTF-16"?>'])
def test_a_document_type_is_not_read_in_any_encoding(encoding: str, declared: str) -> None:
    body = (declared + BOMB).encode(encoding)
    assert not is_error(body) and text_of(body, "Message") == ""
    with pytest.raises(StorageUnavailable, match="none of S3"):
        page_of(body, "list", "Contents", {})


def test_an_error_is_read_with_what_it_says_of_itself() -> None:
    body = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code><Message>später</Message></Error>'
    assert is_error(body.encode()) and text_of(body.encode(), "Message") == "später"
    assert is_error("\ufeff".encode() + body.encode()), "a mark at the beginning is only a mark"
