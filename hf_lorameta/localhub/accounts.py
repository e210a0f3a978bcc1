"""Users and their tokens."""

import hashlib
import secrets
from dataclasses import dataclass, field

from hf_lorameta.localhub.http_errors import HTTPError, LocalHubError

ROLES = ("read", "write")


@dataclass
class User:
    """A user account; it may also write to the repos of its organizations."""

    name: str
    email: str
    orgs: tuple[str, ...]
    created: str
    pro: bool = False  # has a paid plan


@dataclass(frozen=True)
class Caller:
    """The sender of a request: a user, and the role of the token, ``read`` or ``write``."""

    user: User
    role: str

    def owns(self, namespace: str) -> bool:
        """Return whether `namespace` is the user or one of the user's organizations."""
        return namespace == self.user.name or namespace in self.user.orgs


@dataclass
class Accounts:
    """All users and tokens. Only the SHA-256 of a token is stored."""

    users: dict[str, User] = field(default_factory=dict)
    tokens: dict[str, tuple[str, str]] = field(default_factory=dict)  # digest -> (name, role)

    def add(self, user: User, token: str | None, role: str) -> str:
        """Add a user, or another token of an existing user, and return the token."""
        if role not in ROLES:
            raise LocalHubError(f"a token's role is one of {ROLES}, got {role!r}")
        token = token or f"hf_{secrets.token_urlsafe(24)}"
        if _digest(token) in self.tokens:
            raise LocalHubError(f"the token given for {user.name} is already in use")
        existing = self.users.get(user.name)
        if existing is not None:
            user.orgs = tuple(dict.fromkeys((*existing.orgs, *user.orgs)))
        self.users[user.name] = user
        self.tokens[_digest(token)] = (user.name, role)
        return token

    def revoke(self, token: str) -> None:
        """Remove a token."""
        if self.tokens.pop(_digest(token), None) is None:
            raise LocalHubError("unknown token: it was never issued or is already revoked")

    def caller(self, authorization: str | None) -> Caller | None:
        """Return the caller that an ``Authorization`` header identifies; None without a header."""
        if not authorization:
            return None
        scheme, _, token = authorization.partition(" ")
        match = self.tokens.get(_digest(token.strip())) if scheme.lower() == "bearer" else None
        if match is None:
            raise HTTPError(401, "Invalid credentials in Authorization header")
        name, role = match
        return Caller(self.users[name], role)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
