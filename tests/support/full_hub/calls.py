"""Access rules of the Hub beyond private repos: read tokens, gated repos and pull requests."""

from dataclasses import dataclass

from hf_lorameta.localhub.errors import HTTPError
from hf_lorameta.localhub.routing import Call
from tests.support.full_hub.errors import gated_repo
from tests.support.full_hub.state import Account, FullRepo, FullState


@dataclass
class FullCall(Call):
    """A request to a `FullHub`."""

    hub: FullState

    @property
    def user(self) -> Account:
        """The sender, who must not be anonymous."""
        user = super().user
        assert isinstance(user, Account)
        return user

    @property
    def writer(self) -> Account:
        """The sender, who must have a write token."""
        if self.user.role != "write":
            message = "Forbidden: you must use a write token to upload to a repository."
            raise HTTPError(403, message)
        return self.user

    def visible_repo(self) -> FullRepo:
        """Return the repo in the path, which must be visible to the caller."""
        repo = super().visible_repo()
        assert isinstance(repo, FullRepo)
        return repo

    def readable_repo(self) -> FullRepo:
        """Return the repo in the path, to which access must be granted if it is gated."""
        repo = self.visible_repo()
        granted = self.caller is not None and self.caller.name in repo.granted
        if repo.gated and not granted and not self.owns(repo):
            raise gated_repo(repo.id, repo.type, anonymous=self.caller is None)
        return repo

    def writable_repo(self) -> FullRepo:
        """Return the repo in the path, to which the caller must be allowed to write.

        Everybody may open a pull request, and the user who opened one may commit to it.
        """
        repo = self.visible_repo()
        proposed = repo.proposers.get(self.params.get("rev", "")) == self.writer.name
        if not self.writer.owns(repo.namespace) and not self._opens_pull_request and not proposed:
            message = "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request"
            raise HTTPError(403, message)
        return repo

    @property
    def _opens_pull_request(self) -> bool:
        path = self.request.url.path
        if path.endswith(".git/info/lfs/objects/batch"):
            return "ref" not in self.json
        return self.flag("create_pr") and ("/commit/" in path or "/preupload/" in path)

    def query_int(self, name: str, default: int) -> int:
        """Return a query parameter as a number; `default` if it is missing or not a number."""
        text = self.query(name)
        return int(text) if text.isdigit() else default

    def query_list(self, name: str) -> list[str]:
        """Return all values of a query parameter named `name` or ``name[]``."""
        params = self.request.query_params
        return [*params.getlist(name), *params.getlist(f"{name}[]")]
