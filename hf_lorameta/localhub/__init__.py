"""A Hugging Face Hub on loopback that real clients can use over HTTP, for the demo and tests.

Example:
    >>> from huggingface_hub import HfApi
    >>> with LocalHub() as hub:
    ...     api = HfApi(endpoint=hub.url, token=hub.add_user("alice"))
    ...     api.create_repo("alice/model").repo_id
    'alice/model'

See README.md in this folder.
"""

from hf_lorameta.localhub.server import LocalHub

__all__ = ["LocalHub"]
