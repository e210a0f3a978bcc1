"""A Hugging Face Hub on loopback that real clients use over HTTP.

Example:
    >>> from huggingface_hub import HfApi
    >>> with LocalHub() as hub:
    ...     api = HfApi(endpoint=hub.url, token=hub.add_user("alice"))
    ...     api.create_repo("alice/model").repo_id
    'alice/model'

See README.md in this folder.
"""

from tests.support.local_hub.errors import LocalHubError
from tests.support.local_hub.server import LocalHub

__all__ = ["LocalHub", "LocalHubError"]
