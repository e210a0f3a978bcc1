"""Single HTTP requests to the Hub, without retries.

`huggingface_hub` raises `KeyError` where an answer lacks a field. What this package needs of an
answer is little, so it reads the JSON itself and also works with servers that have a part of the
API.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal
from urllib.parse import quote

import huggingface_hub as hfh
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # lazy re-export

from hf_lorameta._version import __version__
from hf_lorameta.errors import HubError
from hf_lorameta.hub.errors import not_json
from hf_lorameta.hub.repo import Token

_TIMEOUT_SECONDS = 30.0
_LIBRARY: dict[str, Any] = {"library_name": "hf_lorameta", "library_version": __version__}


class _Api(hfh.HfApi):
    """`huggingface_hub`'s client, for servers that cannot validate a card as well."""

    def _validate_yaml(
        self, content: str, *, repo_type: str | None = None, token: bool | str | None = None
    ) -> None:
        """Ask the Hub whether it accepts the metadata of a ``README.md``, before the upload.

        Raises:
            HubError: it does not.
        """
        response = hfh.get_session().post(
            f"{self.endpoint}/api/validate-yaml",
            json={"content": content, "repoType": repo_type or "model"},
            headers=self._build_hf_headers(token=token),
        )
        with suppress(ValueError):
            answer = response.json()
            errors = objects(answer.get("errors")) if isinstance(answer, dict) else []
            if response.status_code == 400 and errors:
                message = errors[0].get("message", errors[0])
                raise HubError(f"the Hub refuses the metadata of README.md: {message}")


class HttpClient:
    """Requests with one token. Statuses of errors raise what `huggingface_hub` raises.

    Attributes:
        api: the client of `huggingface_hub`, for calls that have no other way.
    """

    def __init__(self, token: Token, timeout: float = _TIMEOUT_SECONDS) -> None:
        self.token = token
        self.timeout = timeout
        self.api = _Api(token=token, **_LIBRARY)

    def headers(
        self, extra: dict[str, str] | None = None, *, anonymous: bool = False
    ) -> dict[str, str]:
        """Return the headers of a request, with the token unless it is `anonymous`."""
        token = False if anonymous else self.token
        headers: dict[str, str] = build_hf_headers(token=token, headers=extra, **_LIBRARY)
        return headers

    def send(
        self,
        method: Literal["GET", "POST"],
        url: str,
        *,
        headers: dict[str, str] | None = None,
        anonymous: bool = False,
        **options: Any,
    ) -> Any:
        """Send a request and return the response; a relative `url` is one of the API."""
        response = hfh.get_session().request(
            method,
            f"{self.api.endpoint}/api/{url}" if "://" not in url else url,
            headers=self.headers(headers, anonymous=anonymous),
            timeout=self.timeout,
            **options,
        )
        hfh.hf_raise_for_status(response)
        return response

    def json(self, method: Literal["GET", "POST"], url: str, **options: Any) -> Any:
        """Send a request and return the JSON of the answer.

        Raises:
            NotJsonError: the answer is not JSON.
        """
        return _json(url, self.send(method, url, **options))

    def page(self, url: str, **params: Any) -> tuple[list[dict[str, Any]], str | None]:
        """Return the items of one page of a listing, and the URL of the next page, if any."""
        response = self.send("GET", url, params=params or None)  # none: the URL may hold its query
        link = response.links.get("next", {}).get("url")
        return objects(_json(url, response)), str(response.url.join(link)) if link else None

    def pages(self, url: str, **params: Any) -> Iterator[dict[str, Any]]:
        """Yield the items of a listing, which may have several pages."""
        following: str | None = url
        while following:
            items, following = self.page(following, **params)
            params = {}
            yield from items

    def file_url(self, repo_id: str, repo_type: str, path: str, revision: str) -> str:
        """Return the URL that a file is downloaded from."""
        return hfh.hf_hub_url(
            repo_id, path, repo_type=repo_type, revision=revision, endpoint=self.api.endpoint
        )


def _json(url: str, response: Any) -> Any:
    try:
        return response.json()
    except ValueError:
        raise not_json(url) from None


def api_path(repo_id: str, repo_type: str, *parts: str) -> str:
    """Return the path of a repo in the API.

    Example:
        >>> api_path("ann/data", "dataset", "revision", "refs/pr/1")
        'datasets/ann/data/revision/refs%2Fpr%2F1'
    """
    return "/".join([f"{repo_type}s/{repo_id}", *(quote(part, safe="") for part in parts)])


def objects(answer: Any) -> list[dict[str, Any]]:
    """Return the JSON objects in an answer that should be a list of them."""
    return [item for item in answer if isinstance(item, dict)] if isinstance(answer, list) else []
