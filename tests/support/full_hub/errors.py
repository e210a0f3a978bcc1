"""The exception of `FullHub`'s Python methods, and responses that only it sends."""

from hf_lorameta.localhub.errors import HTTPError


class LocalHubError(Exception):
    """A method of the loopback Hub was called with invalid arguments."""


def gated_repo(repo_id: str, repo_type: str, anonymous: bool) -> HTTPError:
    """Return the response for a gated repo to which the caller has no access."""
    message = f"Access to {repo_type} {repo_id} is restricted"
    if anonymous:
        message += ". You must have access to it and be authenticated to access it. Please log in."
    else:
        message += " and you are not in the authorized list."
        message += f" Visit https://huggingface.co/{repo_id} to ask for access."
    return HTTPError(401 if anonymous else 403, message, "GatedRepo")
