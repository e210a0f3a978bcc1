"""The loopback Hub with more of the Hub's API: what only clients' own tests and ours need."""

from typing import Any

from hf_lorameta.localhub import LocalHub
from hf_lorameta.localhub.state import token_digest
from tests.support.full_hub import card_rules, details, whole_repos
from tests.support.full_hub import settings as repo_settings
from tests.support.full_hub.discussions import Discussions
from tests.support.full_hub.jobs import Jobs
from tests.support.full_hub.moves import Moves


class FullHub(LocalHub):
    """A `LocalHub` that validates cards, with settings, discussions, moved repos, jobs and more."""

    def __init__(self, **settings: Any) -> None:
        self.jobs = Jobs()
        routes = [
            *self.jobs.routes,
            *Moves().routes,
            *Discussions().routes,
            *whole_repos.ROUTES,
            *card_rules.ROUTES,
            *repo_settings.ROUTES,
            *details.ROUTES,
        ]
        super().__init__(**settings, routes=routes, check_card=card_rules.validate)

    def revoke(self, token: str) -> None:
        """Revoke a token: requests with it get 401."""
        with self._hub.lock:
            del self._hub.tokens[token_digest(token)]

    def grant_access(self, repo_id: str, user: str, repo_type: str = "model") -> None:
        """Give a user access to a gated repo."""
        with self._access():
            self._repo(repo_id, repo_type).granted.add(user)
