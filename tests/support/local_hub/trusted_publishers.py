"""The exchange of a CI job's ID token for a token of one repo (RFC 8693).

See https://huggingface.co/docs/hub/trusted-publishers. The ID tokens here are any text, not JWTs.
"""

import secrets

from starlette.responses import JSONResponse, Response

from tests.support.local_hub.errors import HTTPError
from tests.support.local_hub.routing import Call, Route
from tests.support.local_hub.state import Account, token_digest

NO_ACCOUNT = "this token has no account"
"""The answer to ``whoami``; that of the Hub is not documented, so clients must do without."""
_GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
_SUBJECT = "urn:ietf:params:oauth:token-type:id_token"
_ISSUED = "urn:ietf:params:oauth:token-type:access_token"


def exchange(call: Call) -> Response:
    """Return a token with write access to the repo that was asked for."""
    asked = call.json
    if (asked["grant_type"], asked["subject_token_type"]) != (_GRANT, _SUBJECT):
        raise HTTPError(400, "invalid_request")
    resource, id_token = asked["resource"], asked["subject_token"]
    if call.hub.publishers.get(resource) != token_digest(id_token):
        raise HTTPError(400, "invalid_grant", body={"error_description": "Invalid token"})
    token = f"hf_jwt_{secrets.token_urlsafe(24)}"
    call.hub.add_account(Account("[OIDC]", repo=resource), token)
    answer = {"access_token": token, "token_type": "bearer", "expires_in": 3600}
    return JSONResponse(answer | {"issued_token_type": _ISSUED})


ROUTES = [Route("POST", "oauth/token", exchange)]
