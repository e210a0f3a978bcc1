"""The body of a commit request, one JSON object a line, read without holding a file in memory.

A file's bytes arrive as base64 inside its line. :class:`CommitBody` is fed the body chunk by
chunk; it passes each file's ``content`` straight on into a blob and keeps the rest of the line.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable
from typing import Any

from hf_lorameta.localhub.blobs import Blob, BlobWriter
from hf_lorameta.localhub.http_errors import Refusal

# the quote before `content` is not itself escaped: this is a key, not text inside a string
_CONTENT = re.compile(rb'(?<!\\)"content"\s*:\s*"')
_LONGEST_LINE = 1 << 20  # of what is not file content


class CommitBody:
    """Parses a commit body.

    Args:
        new_writer: called for each file, returns where its bytes go.

    Attributes:
        items: the (key, value) of each line; a file's value has ``blob`` instead of ``content``.
    """

    def __init__(self, new_writer: Callable[[], BlobWriter]) -> None:
        self.items: list[tuple[str, dict[str, Any]]] = []
        self._new_writer = new_writer
        self._rest = b""  # of the present line, without file content
        self._pending = b""  # base64 not yet decoded (fewer than 4 characters)
        self._writer: BlobWriter | None = None
        self._blob: Blob | None = None

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes of the body.

        Raises:
            Refusal: 400, the body is not what a commit looks like.
        """
        while chunk:
            chunk = self._content(chunk) if self._writer else self._line(chunk)

    def finish(self) -> list[tuple[str, dict[str, Any]]]:
        """Ends the body and returns :attr:`items`.

        Raises:
            Refusal: 400, the body ends in the middle of a file or of JSON.
        """
        if self._writer is not None:
            self.abandon()
            raise Refusal(400, "The commit body ends in the middle of a file")
        if self._rest.strip():
            self._end_line()
        return self.items

    def abandon(self) -> None:
        """Throws away a half-received file."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None

    def _line(self, chunk: bytes) -> bytes:
        line, newline, after = chunk.partition(b"\n")
        held = len(self._rest)
        self._rest += line
        found = _CONTENT.search(self._rest) if self._blob is None else None
        if found and self._is_file_line(found.start()):
            self._writer = self._new_writer()
            consumed = found.end() - held  # of `line`
            self._rest = self._rest[: found.end()]
            return chunk[consumed:]
        if len(self._rest) > _LONGEST_LINE:
            raise Refusal(400, "A line of the commit body is too long")
        if newline:
            self._end_line()
        return after

    def _is_file_line(self, end: int) -> bool:
        return b'"file"' in self._rest[:end]

    def _content(self, chunk: bytes) -> bytes:
        text, quote, after = chunk.partition(b'"')
        text = self._pending + text
        whole = len(text) if quote else len(text) // 4 * 4
        self._pending = text[whole:]
        assert self._writer is not None
        try:
            self._writer.write(base64.b64decode(text[:whole], validate=True))
        except binascii.Error as error:
            self.abandon()
            raise Refusal(400, f"File content is not valid base64: {error}") from error
        if quote:
            self._blob, self._writer, self._pending = self._writer.finish(), None, b""
            return quote + after
        return b""

    def _end_line(self) -> None:
        line, self._rest = self._rest, b""
        blob, self._blob = self._blob, None
        if not line.strip():
            return
        try:
            item = json.loads(line)
            key, value = item["key"], item["value"]
        except (ValueError, KeyError, TypeError) as error:
            raise Refusal(400, "A line of the commit body is not {key, value} JSON") from error
        if not isinstance(value, dict):
            raise Refusal(400, f"The value of {key!r} is not an object")
        if key == "file":
            if value.get("encoding") != "base64" or blob is None:
                raise Refusal(400, "File content must be sent with encoding base64")
            value = {**value, "blob": blob}
        self.items.append((key, value))


def decoded(text: str) -> bytes:
    """Returns the bytes of base64 text; empty if it is not base64."""
    try:
        return base64.b64decode(text)
    except binascii.Error:
        return b""
