"""A private repo is verified before anything is uploaded."""

from pathlib import Path

import pytest

from hf_lorameta import Hub
from hf_lorameta.errors import ConflictError
from tests.conftest import Account, Shell


def test_nothing_is_uploaded_to_a_repo_that_was_made_public_meanwhile(
    cli: Shell, user: Account, tmp_path: Path
) -> None:
    hub = Hub(user.token)
    hub._client.api.endpoint = cli.hub.url
    repo = f"{user.name}/opened"
    hub._client.api.create_repo(repo, private=True)
    seen = hub.resolve(repo, "model")
    hub._client.api.update_repo_settings(repo, private=False)
    (tmp_path / "file.txt").write_text("secret")
    with pytest.raises(ConflictError, match="is public by now, although private was requested"):
        hub.publish(tmp_path, repo, message="m", private=True, parent=seen)
    assert "file.txt" not in cli.hub.files(repo)
