"""A Hugging Face Hub played on loopback, over real HTTP, for the real clients.

    with LocalHub() as hub:
        token = hub.add_user("alice")
        api = HfApi(endpoint=hub.url, token=token)
        ...

or, in a terminal, ``python -m hf_lorameta.localhub --port 8123`` and ``HF_ENDPOINT`` set to it.
It needs no network, listens on 127.0.0.1 only and holds no secrets but the tokens' digests.
"""

from hf_lorameta.localhub.faults import Fault, RequestRecord
from hf_lorameta.localhub.http_errors import LocalHubError
from hf_lorameta.localhub.server import LocalHub, RepoView

__all__ = ["Fault", "LocalHub", "LocalHubError", "RepoView", "RequestRecord"]
