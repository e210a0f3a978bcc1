"""Parser of the NDJSON body of a commit request: one operation per line."""

import base64
import binascii
import json
from collections.abc import AsyncIterator
from typing import Any

from hf_lorameta.localhub.blobs import Blob, BlobStore
from hf_lorameta.localhub.http_errors import HTTPError

Operation = tuple[str, dict[str, Any]]


async def read_operations(body: AsyncIterator[bytes], store: BlobStore) -> list[Operation]:
    """Return the (key, value) of each line. Memory use is bounded by the longest line.

    File contents are added to `store`: a ``file`` has a ``blob`` instead of its ``content``.
    """
    operations: list[Operation] = []
    line = bytearray()
    async for chunk in body:
        head, *rest = chunk.split(b"\n")
        line += head
        for start in rest:
            operations += _parse(line, store)
            line = bytearray(start)
    return operations + _parse(line, store)


def _parse(line: bytearray, store: BlobStore) -> list[Operation]:
    if not line.strip():
        return []
    try:
        item = json.loads(line)
        key, value = item["key"], item["value"]
    except (ValueError, KeyError, TypeError) as error:
        raise HTTPError(400, "A line of the commit body is not {key, value} JSON") from error
    if not isinstance(value, dict):
        raise HTTPError(400, f"The value of {key!r} is not an object")
    if key == "file":
        value["blob"] = _store_content(value, store)
    return [(key, value)]


def _store_content(value: dict[str, Any], store: BlobStore) -> Blob:
    content = value.pop("content", None)
    if value.get("encoding") != "base64" or not isinstance(content, str):
        raise HTTPError(400, "File content must be sent with encoding base64")
    try:
        return store.add(base64.b64decode(content, validate=True))
    except binascii.Error as error:
        raise HTTPError(400, f"File content is not valid base64: {error}") from error
