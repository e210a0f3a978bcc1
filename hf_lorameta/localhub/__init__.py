"""A Hugging Face Hub on loopback that real clients can use over HTTP, for the demo and tests.

Example:
    >>> from huggingface_hub import HfApi
    >>> with LocalHub() as hub:
    ...     api = HfApi(endpoint=hub.url, token=hub.add_user("alice"))
    ...     api.create_repo("alice/model").repo_id
    'alice/model'

See README.md in this folder.
"""

import importlib.util
import sys

for _module in ("starlette", "uvicorn"):
    if importlib.util.find_spec(_module) is None:
        _install = f"{sys.executable} -m pip install 'hf-lorameta[demo]'"
        raise ModuleNotFoundError(f"{_module} is not installed: {_install}", name=_module)

from hf_lorameta.localhub.server import LocalHub  # noqa: E402

__all__ = ["LocalHub"]
