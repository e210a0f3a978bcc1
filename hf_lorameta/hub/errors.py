"""Map the exceptions of huggingface_hub to hf_lorameta errors.

Exceptions are distinguished by type, status and the server's message. Our errors never keep one of
them as the cause, since they can hold tokens, headers or rows.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import ceil

import httpx2
from huggingface_hub import errors as hf

from hf_lorameta import errors
from hf_lorameta.environment import hub_url
from hf_lorameta.hub.retry import TRANSIENT_STATUSES, described, requested_wait
from hf_lorameta.network import distrusted, proxy_advice, without_tls

_REPO_INFO = re.compile("/api/(models|datasets|spaces)/[^/]+/[^/]+")
_READERS = ("huggingface_hub.", "dateutil.", "json.", "hf_lorameta.hub.repo")
"""Modules, or beginnings of their names, that take answers apart."""
_OTHER_FORM = (AttributeError, IndexError, KeyError, TypeError, ValueError)
_RERUN_HINT = "run the same command again; finished work is kept"


class ForbiddenError(errors.AuthError):
    """The token is valid, but it or its account lacks the permission."""

    code = "token.no-permission"


class NoRevisionError(errors.NotFoundError):
    """The repo exists, but not the requested revision of it."""

    code = "repo.no-revision"


class UnsupportedError(errors.HubError):
    """The server does not offer what was requested, such as pull requests."""

    code = "hub.unsupported"


class UnexpectedAnswerError(errors.HubError):
    """An answer that cannot be the Hub's, such as a proxy's; what was sent may have arrived."""

    code = "hub.unexpected-answer"


def unexpected_answer(what: str, problem: str) -> UnexpectedAnswerError:
    """Return the error for an answer that cannot be the Hub's."""
    return UnexpectedAnswerError(
        f"{what}: {hub_url()} does not answer like the Hub ({problem})",
        code="hub.unexpected-answer",
        hint="check HF_ENDPOINT and the proxy settings",
    )


# --- huggingface_hub ----------------------------------------------------------------------------


@contextmanager
def translated(what: str, revision: str | None = None) -> Iterator[None]:
    """Raise the exceptions of `huggingface_hub` as errors of this package, see `translate`.

    A web page in place of an answer, such as a proxy's, is also raised as one.
    """
    try:
        yield
    except Exception as error:
        problem = misread(error)
        ours = unexpected_answer(what, problem) if problem else translate(what, error, revision)
        if ours is None and _of_transfer(error):
            ours = translate(what, error.__cause__, revision) if error.__cause__ else None
            ours = ours or lost(what, " ".join(str(error).split())[:200])
        if ours is None:
            raise
        raise ours from None


def misread(error: BaseException) -> str:
    """Say why an answer cannot be the Hub's, if that is why it could not be read; else nothing.

    Example:
        >>> misread(RecursionError()), misread(KeyError("of ours"))
        ('the answer is nested too deeply', '')
    """
    match error:
        case hf.HfUriError():
            return "the answer names another server"
        case json.JSONDecodeError() | UnicodeDecodeError():
            return "the answer is not JSON"
        case RecursionError():
            return "the answer is nested too deeply"
        case httpx2.DecodingError():
            return str(error) or "the answer cannot be decoded"
        case httpx2.TooManyRedirects():
            return "its redirects lead in a circle"
    if type(error) in _OTHER_FORM and _while_reading(error):
        return "the answer is JSON of another form"
    return ""


def _while_reading(error: BaseException) -> bool:
    """Whether an exception is of code that takes answers apart, not of ours that asks."""
    trace, name = error.__traceback__, ""
    while trace:
        name, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
    return name.startswith(_READERS)


def _of_transfer(error: Exception) -> bool:
    """Whether an exception says that files could not be transferred, as of `hf_xet`."""
    return type(error) is RuntimeError or (isinstance(error, OSError) and not error.errno)


def translate(
    what: str, error: BaseException, revision: str | None = None
) -> errors.LoraMetaError | None:
    """Return this package's error for an exception of `huggingface_hub`; None if it has none.

    `what` (a repo id or an action) and the requested `revision` appear in the message.
    """
    match error:
        case hf.GatedRepoError():
            kind = re.search("/(datasets|spaces)/", str(error.response.request.url))
            return gated_error(what, f"{kind[1]}/{what}" if kind else what)
        case hf.RevisionNotFoundError():
            return NoRevisionError(
                f"{what} has no revision {revision or 'main'}",
                code="repo.no-revision",
                hint="see its branches and tags on the Hub",
            )
        case hf.LocalEntryNotFoundError():
            return lost(what, "the file is not in the cache")
        case hf.RemoteEntryNotFoundError():
            return errors.NotFoundError(
                f"{what} lacks an expected file: {_server_message(error)}", code="repo.no-file"
            )
        case hf.RepositoryNotFoundError() if not _is_invalid_token(error):
            return _not_found(what)
        case hf.LocalTokenNotFoundError():
            return errors.AuthError(
                f"{what} needs a Hub token, but none is saved",
                code="token.none",
                hint="hf auth login",
            )
        case hf.OIDCError():
            return errors.AuthError(
                f"{what}: HF_OIDC_RESOURCE is set, but this is no CI job with an identity",
                code="token.no-identity",
                hint=["give it id-token: write", "set HF_OIDC_ID_TOKEN", "unset HF_OIDC_RESOURCE"],
            )
        case hf.OfflineModeIsEnabled():
            return errors.ConnectionLostError(
                f"{what} was not requested: HF_HUB_OFFLINE is set",
                code="hub.offline",
                hint="unset HF_HUB_OFFLINE",
            )
        case ConnectionError(__cause__=hf.HfHubHTTPError() | httpx2.HTTPError() as cause):
            return translate(what, cause, revision)  # `datasets` says less
        case hf.HFValidationError():
            return errors.UsageError(
                f"{what} is not a valid repo id: {str(error)[:200]}",
                code="repo.invalid-id",
                hint="name a repo: user/name",
            )
        case hf.FileMetadataError():
            return unexpected_answer(what, "no file metadata")
        case hf.HfHubHTTPError():
            return _http_error(what, error)
        case httpx2.HTTPError() if reason := distrusted(error):
            return _untrusted(what, getattr(error, "_request", None), reason)
        case httpx2.HTTPError() if without_tls(error):
            return _plain(what, getattr(error, "_request", None))
        case httpx2.HTTPError():
            reason = str(error) if type(error) is httpx2.TransportError else type(error).__name__
            return lost(what, reason, getattr(error, "_request", None))
    return None


def gated_error(what: str, page: str) -> errors.GatedError:
    """Return the error for a gated repo, to which access is requested on its page."""
    return errors.GatedError(
        f"{what} is gated, and this account has no access",
        code="repo.gated",
        hint=f"request access on {hub_url(page)}, then run the command again",
    )


def _not_found(what: str) -> errors.NotFoundError:
    return errors.NotFoundError(
        f"{what} was not found on the Hub: it does not exist, or it is private",
        code="repo.not-found",
        hint="check the name or path, or log in with `hf auth login`",
    )


def _is_invalid_token(error: hf.HfHubHTTPError) -> bool:
    message = _server_message(error).lower()
    return error.response.status_code == 401 and ("credential" in message or "token" in message)


def lost(
    what: str, reason: str, request: httpx2.Request | None = None
) -> errors.ConnectionLostError:
    """Return the error for a request without an answer."""
    asked = f"{_server(request)} to {described(request)}" if request else hub_url()
    advice = proxy_advice(str(request.url) if request else hub_url())
    return errors.ConnectionLostError(
        f"{what}: no answer from {asked} ({reason})",
        code="hub.no-answer",
        hint=f"{advice or 'check the connection'} and {_RERUN_HINT}",
    )


def _server(request: httpx2.Request) -> str:
    """Return the server of a request, which may be a storage that the Hub named."""
    return str(request.url.copy_with(userinfo=b"", raw_path=b"/")).removesuffix("/")


def _untrusted(what: str, request: httpx2.Request | None, reason: str) -> errors.HubError:
    server = _server(request) if request else hub_url()
    return errors.HubError(
        f"{what}: the certificate of {server} is not trusted ({reason})",
        code="hub.untrusted-certificate",
        hint="set SSL_CERT_FILE to a file with the certificate, or with that of who issued it",
    )


def _plain(what: str, request: httpx2.Request | None) -> errors.HubError:
    server = _server(request) if request else hub_url()
    return errors.HubError(
        f"{what}: what answers at {server} does not speak TLS",
        code="hub.no-tls",
        hint=[f"set HF_ENDPOINT to http{server.removeprefix('https')}", "name another port there"],
    )


def damaged(file: str, *, always: bool) -> errors.HubError:
    """Return the error for a file that each download damaged, `always` in the same way."""
    differs = f"its checksum differs from the one that {hub_url()} states"
    if not always:
        message = f"{file} was damaged in transfer: {differs}"
        return errors.ConnectionLostError(message, code="hub.damaged-in-transfer", hint=_RERUN_HINT)
    return errors.HubError(
        f"{file} was damaged before it was sent: {differs}, twice in the same way",
        code="hub.damaged-file",
        hint=[errors.Option("revision", change="name another"), "tell who runs the server"],
    )


def _server_message(error: hf.HfHubHTTPError) -> str:
    message = error.server_message
    if not message and error.response.headers.get("Content-Type", "").startswith(
        "application/json"
    ):
        # other servers say `detail` for `error`
        with suppress(RecursionError, TypeError, ValueError):
            message = str(dict(error.response.json()).get("detail") or "")
    return (message or "")[:300]


def _unauthorized(what: str, error: hf.HfHubHTTPError) -> errors.HubError:
    """Distinguish a rejected token from a missing or private repo: the Hub answers 401 to both."""
    request = error.response.request
    sent = request.headers.get("authorization", "")
    is_info = request.method == "GET" and _REPO_INFO.search(request.url.path)
    if not sent or (is_info and not _is_invalid_token(error)):
        return _not_found(what)
    # the saved token is not used while HF_TOKEN is set
    from_variable = sent == f"Bearer {os.environ.get('HF_TOKEN', '').strip()}"
    return errors.AuthError(
        f"{what}: the Hub does not accept this token",
        code="token.refused",
        hint="replace or unset HF_TOKEN" if from_variable else "hf auth login",
    )


def _untrusted_job() -> errors.AuthError:
    """Return the error for a CI job whose identity the Hub does not exchange for a token."""
    resource = os.environ.get("HF_OIDC_RESOURCE", "")
    return errors.AuthError(
        f"the Hub does not accept this job as a trusted publisher of {resource}",
        code="token.publisher-refused",
        hint=f"compare its claims with those under {hub_url(f'{resource}/settings')}",
    )


def _http_error(what: str, error: hf.HfHubHTTPError) -> errors.HubError:
    status, message = error.response.status_code, _server_message(error)
    requested = f"({error.response.request.url.path})"
    if requested.endswith("/oauth/token)") and status == 400:
        return _untrusted_job()
    if status == 401:
        return _unauthorized(what, error)
    if status == 403:
        return _forbidden(what, error)
    if status in (404, 410):  # other servers may not send the Hub's code for what is missing
        return _not_found(f"{what} {requested}")
    if status in (409, 412):
        return errors.ConflictError(
            f"{what} changed in the meantime ({message or status})",
            code="repo.changed",
            hint="run the same command again to start from its current state",
        )
    if status in TRANSIENT_STATUSES:
        if wait := requested_wait(error.response):
            return errors.ConnectionLostError(
                f"{what}: {hub_url()} requests a pause of {wait:.0f} s (rate limit or overload)",
                code="hub.pause",
                hint=f"run the same command again in {ceil(wait / 60)} min; finished work is kept",
            )
        return lost(what, f"HTTP {status}", error.response.request)
    kind = UnsupportedError if status == 501 else errors.HubError
    server = _server(error.response.request)
    code = "hub.unsupported" if status == 501 else "hub.refused"
    return kind(f"{what}: HTTP {status} from {server}: {message or 'no reason given'}", code=code)


def _forbidden(what: str, error: hf.HfHubHTTPError) -> errors.HubError:
    """Distinguish who lacks a permission from a network that does not let a request through."""
    request, headers = error.response.request, error.response.headers
    kind = headers.get("Content-Type", "").partition(";")[0]
    if "html" in kind and "X-Request-Id" not in headers:
        return errors.HubError(
            f"{what}: a web page with HTTP 403 came instead of an answer from {_server(request)} "
            f"to {described(request)}, as firewalls send it",
            code="network.blocked",
            hint=proxy_advice(str(request.url))
            or f"ask who runs this network to allow {hub_url()}",
        )
    right = "read" if request.method in ("GET", "HEAD") else "write"
    advice = [f"use a token with {right} access to it"]
    message = _server_message(error) or "forbidden"
    return ForbiddenError(
        f"{what}: this account or token lacks the permission ({message})",
        code="token.no-permission",
        hint=advice if right == "read" else [*advice, "name a repo of your own"],
    )
