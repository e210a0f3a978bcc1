"""Operations of commits that only this Hub has: copies, deletions and pointers of Git LFS."""

from typing import Any

from hf_lorameta.localhub import http_errors
from hf_lorameta.localhub.history import Changes
from hf_lorameta.localhub.routes_write import OPERATIONS, Operation
from tests.support.full_hub.calls import FullCall
from tests.support.full_hub.lfs import commit_pointer
from tests.support.full_hub.state import FullRepo


def _copy_file(call: FullCall, repo: FullRepo, path: str, value: dict[str, Any]) -> Changes:
    source = repo.resolve(str(value.get("srcRevision") or call.commit_of(repo).sha))
    source_path = str(value.get("srcPath", ""))
    if source_path not in source.tree:
        raise http_errors.entry_not_found(source_path, source.sha)
    return {path: source.tree[source_path]}


def _delete_file(call: FullCall, repo: FullRepo, path: str, value: dict[str, Any]) -> Changes:
    # the Hub deletes a folder although it is named like a file
    return {path: None} if path in call.commit_of(repo).tree else _deleted(call, repo, path, "file")


def _delete_folder(call: FullCall, repo: FullRepo, path: str, value: dict[str, Any]) -> Changes:
    return _deleted(call, repo, path, "folder")


def _deleted(call: FullCall, repo: FullRepo, path: str, kind: str) -> Changes:
    head = call.commit_of(repo)
    inside = [p for p in head.tree if p.startswith(f"{path.rstrip('/')}/")]
    if not inside:
        message = f"A {kind} with this name doesn't exist: {path}"
        raise http_errors.entry_not_found(path, head.sha, message)
    return dict.fromkeys(inside)


ALL: dict[str, Operation] = {
    **OPERATIONS,
    "lfsFile": commit_pointer,
    "copyFile": _copy_file,
    "deletedFile": _delete_file,
    "deletedFolder": _delete_folder,
}
