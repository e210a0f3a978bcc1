"""The library `datasets`, as its readers are used here: without a cache, logs and retries."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import IO, Any, TypeAlias

from hf_lorameta.hub.repo import Token
from hf_lorameta.network import uncompressed

_AHEAD = 1 << 18
"""Bytes that are downloaded beyond what is read of a file's start."""
SETTINGS = {
    "HF_UPDATE_DOWNLOAD_COUNTS": False,
    "STREAMING_OPEN_MAX_RETRIES": 1,  # the number of attempts
    "STREAMING_OPEN_RETRY_INTERVAL": 0,  # slept after the last attempt, too
    "STREAMING_READ_MAX_RETRIES": 1,
    "STREAMING_READ_RETRY_INTERVAL": 0,
    "STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL": 0,
    "STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL": 0,
}
"""Settings of `datasets`.

Its requests are retried by our client; the further retries that `datasets` adds around those, up to
20 min per read, are switched off for the whole process.
"""
NO_CACHE = "memory://"
"""The cache of `datasets`, which stores no rows here: in a folder it would make lock files."""
Guard: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Makes a context that translates the errors of reading rows."""


def prepared_datasets() -> Any:
    """Return the library `datasets`, safe for threads, without bars, logs, retries or use counts.

    Its error logs may quote rows.

    To count uses, it sends a name to Amazon S3, for up to 3 s, or 5 s if no name can be resolved.
    It splits URLs at ``::``, which an IPv6 address of the Hub may have: it gets another form of it.
    Its bars share a lock. If there is none, tqdm makes one for a call and deletes it afterwards,
    which fails if another thread has done so; a lock that exists before the call stays.
    """
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.utils.tqdm.get_lock()
    for name, value in SETTINGS.items():
        setattr(datasets.config, name, value)
    if "::" in datasets.config.HF_ENDPOINT:
        datasets.config.HF_ENDPOINT = uncompressed(datasets.config.HF_ENDPOINT)
        arguments: Any = datasets.utils.hub.hf_dataset_url.keywords
        arguments["endpoint"] = datasets.config.HF_ENDPOINT
    return datasets


def kind_of(builder: Any) -> str:
    """Return the format that a `datasets.DatasetBuilder` reads, such as ``json``."""
    return str(builder.__module__).rpartition(".")[2]


def unpacked(
    path: str, token: Token = None, *, start: bool = False
) -> AbstractContextManager[IO[bytes]]:
    """Open a local file, or one on the Hub, decompressed if its name states a compression.

    Args:
        path: or URL.
        token: for the Hub.
        start: whether only the start will be read; else 5 MiB more than is read are downloaded.
    """
    import fsspec

    options = {"hf": {"token": token}} if "://" in path else {}
    opened: Any = fsspec.open(path, "rb", compression="infer", **options)
    if start and options:
        more = {"block_size": _AHEAD, "compression": opened.compression}
        opened = opened.fs.open(opened.path, "rb", **more)
    file: AbstractContextManager[IO[bytes]] = opened
    return file
