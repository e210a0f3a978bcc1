"""A private repo is verified before anything is uploaded."""

from pathlib import Path
from typing import Any

import pytest

from hf_lorameta import ConflictError, Hub
from tests.conftest import Account, Shell


def test_nothing_is_uploaded_to_a_public_repo_if_private_was_requested(
    cli: Shell, user: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(user.token)
    hub._api.endpoint = cli.hub.url
    create = hub._api.create_repo

    def ignore_private(*args: Any, private: bool | None = None, **options: Any) -> Any:
        return create(*args, **options)

    (tmp_path / "file.txt").write_text("secret")
    publish: dict[str, Any] = {
        "message": "m",
        "private": True,
        "parent": None,
        "only": ["file.txt"],
    }
    monkeypatch.setattr(hub._api, "create_repo", ignore_private)
    with pytest.raises(ConflictError, match="created public"):
        hub.publish(tmp_path, f"{user.name}/leak", **publish)
    assert "file.txt" not in cli.hub.files(f"{user.name}/leak")
    monkeypatch.setattr(hub._api, "create_repo", create)
    hub.publish(tmp_path, f"{user.name}/kept", **publish)
    assert cli.hub.read(f"{user.name}/kept", "file.txt") == b"secret"


def test_nothing_is_uploaded_to_a_repo_that_was_made_public_meanwhile(
    cli: Shell, user: Account, tmp_path: Path
) -> None:
    hub = Hub(user.token)
    hub._api.endpoint = cli.hub.url
    repo = f"{user.name}/opened"
    hub._api.create_repo(repo, private=True)
    seen = hub.resolve(repo, "model")
    hub._api.update_repo_settings(repo, private=False)
    (tmp_path / "file.txt").write_text("secret")
    with pytest.raises(ConflictError, match="is public by now, although private was requested"):
        hub.publish(tmp_path, repo, message="m", private=True, parent=seen)
    assert "file.txt" not in cli.hub.files(repo)
