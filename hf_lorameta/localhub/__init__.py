"""A Hugging Face Hub on loopback that real clients can use over HTTP, for tests and the demo.

Example:
    >>> from huggingface_hub import HfApi
    >>> with LocalHub() as hub:
    ...     api = HfApi(endpoint=hub.url, token=hub.add_user("alice"))
    ...     api.create_repo("alice/model").repo_id
    'alice/model'

Command line: ``python -m hf_lorameta.localhub``. See README.md in this folder.
"""

import importlib.util
import sys

for _module in ("starlette", "uvicorn"):
    if importlib.util.find_spec(_module) is None:
        _message = (
            f"{_module} is not installed: {sys.executable} -m pip install 'hf-lorameta[demo]'"
        )
        if sys.argv[:1] == ["-m"]:  # `python -m` imports this package before __main__ can catch
            raise SystemExit(f"error: {_message}")
        raise ModuleNotFoundError(_message, name=_module)

from hf_lorameta.localhub.http_errors import LocalHubError  # noqa: E402
from hf_lorameta.localhub.server import LocalHub  # noqa: E402

__all__ = ["LocalHub", "LocalHubError"]
