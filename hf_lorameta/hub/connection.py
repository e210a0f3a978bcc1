"""A connection to the Hub: the client of `huggingface_hub` with a token.

The client lists, downloads, uploads and commits. Ranges of a file, which it cannot read, are
fetched with plain requests.
"""

from dataclasses import dataclass, field
from typing import Any

import httpx2
import huggingface_hub as hfh
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # lazy re-export

from hf_lorameta._version import __version__
from hf_lorameta.hub.repo import Token
from hf_lorameta.hub.retry import CONNECT_SECONDS, use_client

_LIBRARY: dict[str, Any] = {"library_name": "hf_lorameta", "library_version": __version__}


@dataclass(frozen=True)
class Connection:
    """Settings of requests to the Hub: token and timeout.

    Attributes:
        token: None for the saved one, False for none.
        timeout: seconds to wait for an answer about a repo, or for a part of a file; the variable
            ``HF_HUB_DOWNLOAD_TIMEOUT`` can raise it.
    """

    token: Token = field(default=None, repr=False)
    timeout: float = max(30.0, constants.HF_HUB_DOWNLOAD_TIMEOUT)

    def __post_init__(self) -> None:
        use_client()

    @property
    def api(self) -> hfh.HfApi:
        """The client of `huggingface_hub`."""
        return hfh.HfApi(token=self.token, **_LIBRARY)

    @property
    def timeouts(self) -> Any:
        """The timeouts of a request, for the client of `huggingface_hub` and its session."""
        return httpx2.Timeout(self.timeout, connect=CONNECT_SECONDS)

    def headers(self, more: dict[str, str]) -> dict[str, str]:
        """Return the headers of a request that the client of `huggingface_hub` does not send."""
        return dict(build_hf_headers(token=self.token, headers=more, **_LIBRARY))
