"""Read a dataset from local copies of its files, where a server lacks what `datasets` needs.

`datasets` lists a repo with ``tree``, all of whose fields it needs, takes a folder for missing
only if the error has the Hub's code, and asks for the headers of each file.
"""

import logging
import re
from itertools import islice
from pathlib import Path

import httpx2
from huggingface_hub import errors as hf

from hf_lorameta.errors import EmptyDatasetError
from hf_lorameta.hub.download import download
from hf_lorameta.hub.errors import NotJsonError
from hf_lorameta.hub.http_client import HttpClient, api_path
from hf_lorameta.hub.repo import PinnedRepo

_CARD = "README.md"  # may state configurations and splits
DATA_FILE = re.compile(r".*\.(csv|tsv|json|jsonl|ndjson|parquet|arrow|txt|zip)(\.(gz|bz2|xz|zst))?")
_TRIED = 100
"""Files whose fields are looked at."""
logger = logging.getLogger(__name__)


def can_stream(client: HttpClient, repo: PinnedRepo) -> bool:
    """Return whether a server has what `datasets` needs; True if it does not answer."""
    tree = api_path(repo.repo_id, repo.repo_type, "tree", repo.sha)
    try:
        info = client.json("GET", api_path(repo.repo_id, repo.repo_type, "revision", repo.sha))
        items = list(islice(client.pages(tree, recursive=True), _TRIED))
        for path in repo.files[:1]:
            url = client.file_url(repo.repo_id, repo.repo_type, path, repo.sha)
            head = client.api.get_hf_file_metadata(url=url)
            if not (head.etag and head.commit_hash):
                return False
        client.send("GET", f"{tree}/no-such-folder")
    except hf.RemoteEntryNotFoundError:  # as the Hub says it
        large = [item["lfs"] for item in items if item.get("lfs")]
        return (
            {"id", "sha"} <= set(info)
            and all({"type", "path", "size", "oid"} <= set(item) for item in items)
            and all({"size", "oid", "pointerSize"} <= set(lfs) for lfs in large)
        )
    except (hf.HfHubHTTPError, NotJsonError):
        return False
    except httpx2.HTTPError:
        return True
    return False


def mirror(client: HttpClient, repo: PinnedRepo) -> Path:
    """Download the data files and the card of a dataset repo; return their folder.

    Raises:
        EmptyDatasetError: it has none of these files.
        HubError: a file cannot be downloaded.
    """
    paths = [path for path in repo.files if path == _CARD or DATA_FILE.fullmatch(path.lower())]
    logger.warning(
        "%s: this server cannot be streamed from, downloading %d files", repo.repo_id, len(paths)
    )
    copies = {path: download(client, repo, path, None) for path in paths}
    for path, copy in copies.items():
        return copy.parents[path.count("/")]
    raise EmptyDatasetError(f"{repo.repo_id} has no data files")
