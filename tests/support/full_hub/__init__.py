"""The loopback Hub with more of the Hub's API: what only clients' own tests and ours need."""

from typing import Any

from hf_lorameta.localhub import LocalHub
from tests.support.full_hub import details, whole_repos
from tests.support.full_hub.discussions import Discussions
from tests.support.full_hub.jobs import Jobs
from tests.support.full_hub.moves import Moves


class FullHub(LocalHub):
    """A `LocalHub` with discussions, pull requests, moved repos, jobs and a few smaller things."""

    def __init__(self, **settings: Any) -> None:
        self.jobs = Jobs()
        routes = [
            *self.jobs.routes,
            *Moves().routes,
            *Discussions().routes,
            *whole_repos.ROUTES,
            *details.ROUTES,
        ]
        super().__init__(**settings, routes=routes)
