"""Users, their tokens and what they may do."""

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any

from hf_lorameta.localhub import http_errors

ROLES = ("read", "write")


@dataclass
class User:
    """A person with an account.

    Attributes:
        name: the namespace of the user's own repos.
        email: shown by whoami.
        orgs: names of organizations whose repos the user may write.
        created: ISO date.
    """

    name: str
    email: str
    orgs: tuple[str, ...] = ()
    created: str = ""


@dataclass(frozen=True)
class Caller:
    """Who is asking: a user with a token of a role.

    Attributes:
        user: the account.
        role: ``read`` or ``export``.
    """

    user: User
    role: str

    def owns(self, namespace: str) -> bool:
        """Says whether `namespace` is the user's or one of the user's organizations'."""
        return namespace == self.user.name or namespace in self.user.orgs


@dataclass
class Accounts:
    """All users and tokens. Of a token only the sha256 is kept."""

    users: dict[str, User] = field(default_factory=dict)
    tokens: dict[str, tuple[str, str]] = field(default_factory=dict)  # digest -> (name, role)

    def add(self, user: User, token: str | None, role: str) -> str:
        """Adds a user, or a further token for one, and returns the token.

        Raises:
            LocalHubError: the role is unknown or the token is in use.
        """
        if role not in ROLES:
            raise http_errors.LocalHubError(f"a token's role is one of {ROLES}, got {role!r}")
        token = token or f"hf_{secrets.token_urlsafe(24)}"
        if _digest(token) in self.tokens:
            raise http_errors.LocalHubError(f"the token given for {user.name} is already in use")
        known = self.users.get(user.name)
        if known is not None:
            user.orgs = tuple(dict.fromkeys((*known.orgs, *user.orgs)))
        self.users[user.name] = user
        self.tokens[_digest(token)] = (user.name, role)
        return token

    def revoke(self, token: str) -> None:
        """Makes a token worthless.

        Raises:
            LocalHubError: nobody has such a token.
        """
        if self.tokens.pop(_digest(token), None) is None:
            raise http_errors.LocalHubError(
                "nobody has this token: it was never given or is revoked"
            )

    def caller(self, authorization: str | None) -> Caller | None:
        """Returns who stands behind an ``Authorization`` header; None for no header.

        Raises:
            Refusal: 401, the header's token is not (or no longer) anyone's.
        """
        if not authorization:
            return None
        scheme, _, token = authorization.partition(" ")
        found = self.tokens.get(_digest(token.strip())) if scheme.lower() == "bearer" else None
        if found is None:
            raise http_errors.bad_credentials()
        return Caller(self.users[found[0]], found[1])

    def dump(self) -> dict[str, Any]:
        """Returns everything as plain JSON values."""
        users = {u.name: [u.email, list(u.orgs), u.created] for u in self.users.values()}
        return {"users": users, "tokens": {k: list(v) for k, v in self.tokens.items()}}

    @classmethod
    def load(cls, data: dict[str, Any]) -> "Accounts":
        """Returns the accounts that :meth:`dump` wrote."""
        users = {
            name: User(name, email, tuple(orgs), created)
            for name, (email, orgs, created) in data["users"].items()
        }
        return cls(users, {key: (name, role) for key, (name, role) in data["tokens"].items()})


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def whoami(caller: Caller) -> dict[str, Any]:
    """Returns the body of ``/api/whoami-v2``."""
    user = caller.user
    return {
        "type": "user",
        "id": hashlib.sha256(user.name.encode()).hexdigest()[:24],
        "name": user.name,
        "fullname": user.name,
        "email": user.email,
        "emailVerified": True,
        "canPay": False,
        "isPro": False,
        "periodEnd": None,
        "avatarUrl": "",
        "orgs": [_org(name) for name in user.orgs],
        "auth": {
            "type": "access_token",
            "accessToken": {
                "displayName": "localhub",
                "role": caller.role,
                "createdAt": user.created,
            },
        },
    }


def _org(name: str) -> dict[str, Any]:
    return {
        "type": "org",
        "id": hashlib.sha256(name.encode()).hexdigest()[:24],
        "name": name,
        "fullname": name,
        "email": None,
        "canPay": False,
        "periodEnd": None,
        "avatarUrl": "",
        "roleInOrg": "write",
    }
