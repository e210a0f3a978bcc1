"""Routes for the history of a repo and of its files, pointers of Git LFS, and ignored files."""

import base64
import fnmatch
import json
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import routes_read
from hf_lorameta.localhub.history import Commit, git_oid
from hf_lorameta.localhub.routes_files import headers_of, locate, serve
from hf_lorameta.localhub.routing import Route
from tests.support.full_hub.calls import FullCall
from tests.support.full_hub.lfs_rules import LfsEntry, add_lfs, is_lfs, lfs_pointer
from tests.support.full_hub.listing import page_of
from tests.support.full_hub.state import FullRepo
from tests.support.full_hub.trees import differences

_PAGE_SIZE = 50
LFS_ORIGIN = "localhub-classic"
"""In the User-Agent of clients without Xet, which `FullHub.env` sets."""


def commits(call: FullCall) -> Response:
    """Return a page of the history of a revision, newest first."""
    repo = call.visible_repo()
    formatted = "formatted" in call.query_list("expand")
    page, headers = page_of(call, list(repo.log(call.commit_of(repo))), _PAGE_SIZE)
    return JSONResponse([_commit_item(c, formatted) for c in page], headers=headers)


def _commit_item(commit: Commit, formatted: bool) -> dict[str, Any]:
    item: dict[str, Any] = {
        "id": commit.sha,
        "title": commit.title,
        "message": commit.message,
        "authors": [{"user": commit.author, "avatar": ""}],
        "date": commit.date,
    }
    if formatted:
        item["formatted"] = {"title": commit.title, "message": commit.message}
    return item


def tree(call: FullCall) -> Response:
    """Return a page of a folder; with ``expand``, also the last commit of each file."""
    answer = routes_read.tree(call)
    items, headers = page_of(call, json.loads(bytes(answer.body)), call.hub.page_size)
    headers["X-Repo-Commit"] = answer.headers["X-Repo-Commit"]
    add_lfs(items, call.commit_of(call.visible_repo()).tree, "oid")
    return JSONResponse(_expanded(call, items) if call.flag("expand") else items, headers=headers)


def paths_info(call: FullCall) -> Response:
    """Return the named files; with ``expand``, also the last commit of each."""
    items = json.loads(bytes(routes_read.paths_info(call).body))
    add_lfs(items, call.commit_of(call.visible_repo()).tree, "oid")
    form = parse_qs(call.body.decode("utf-8", "replace"))
    return JSONResponse(_expanded(call, items) if form.get("expand") == ["true"] else items)


def _expanded(call: FullCall, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    repo = call.visible_repo()
    last_commits = _last_commits(repo, call.commit_of(repo))
    for item in items:
        last = last_commits.get(item["path"])
        if last is None:  # a folder: the newest commit of its files
            inside = [c for p, c in last_commits.items() if p.startswith(f"{item['path']}/")]
            last = max(inside, key=lambda c: c.date)
        item["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.date}
    return items


def _last_commits(repo: FullRepo, commit: Commit) -> dict[str, Commit]:
    """Return the last commit that changed each path of `commit`."""
    last: dict[str, Commit] = {}
    for ancestor in repo.log(commit):
        for path in differences(repo.tree_at(ancestor.parent), ancestor.tree):
            if path in commit.tree:
                last.setdefault(path, ancestor)
    return last


def raw(call: FullCall) -> Response:
    """Return a file as stored in git: for a file in Git LFS, its pointer file."""
    commit, entry = locate(call)
    headers = headers_of(entry.oid, commit.sha)
    if isinstance(entry, LfsEntry):
        return Response(lfs_pointer(entry.sha256, entry.size), headers=headers)
    return serve(call, entry.sha256, headers)


def preupload(call: FullCall) -> Response:
    """Return for each file how to upload it, its current id, and whether it is ignored."""
    head = call.commit_of(call.writable_repo())
    attributes = call.hub.text(head.tree, ".gitattributes") or ""
    rules = call.json.get("gitIgnore", call.hub.text(head.tree, ".gitignore")) or ""
    # a client with hf_xet would upload to Xet storage, without a fallback to Git LFS
    allow_lfs = call.hub.always_lfs or LFS_ORIGIN in call.request.headers.get("user-agent", "")
    files = []
    for file in call.json.get("files", []):
        path, sample = str(file["path"]), base64.b64decode(file.get("sample", ""))
        lfs = allow_lfs and is_lfs(path, int(file["size"]), sample, attributes)
        mode = "lfs" if lfs else "regular"
        item = {"path": path, "uploadMode": mode, "shouldIgnore": is_ignored(path, rules)}
        if entry := head.tree.get(path):  # the git id of the file, even if the tree has a pointer
            item["oid"] = entry.sha256 if lfs else git_oid(call.hub.blobs[entry.sha256])
        files.append(item)
    return JSONResponse({"files": files, "commitOid": head.sha})


def is_ignored(path: str, rules: str) -> bool:
    r"""Return whether the rules of a ``.gitignore`` exclude `path`.

    Example:
        >>> is_ignored("logs/run.txt", "logs/\n"), is_ignored("a.tmp", "*.tmp\n!a.tmp")
        (True, False)
    """
    ignored = False
    for line in rules.splitlines():
        rule = line.strip()
        if rule and not rule.startswith("#") and _rule_matches(path, rule.removeprefix("!")):
            ignored = not rule.startswith("!")
    return ignored


def _rule_matches(path: str, rule: str) -> bool:
    folder_only, anchored = rule.endswith("/"), "/" in rule.rstrip("/")
    pattern = rule.strip("/")
    parts = path.split("/")
    for end in range(1, len(parts) if folder_only else len(parts) + 1):
        candidate = "/".join(parts[:end]) if anchored else parts[end - 1]
        if fnmatch.fnmatchcase(candidate, pattern):
            return True
    return False


def telemetry(call: FullCall) -> Response:
    """Accept telemetry and discard it."""
    return Response(status_code=204)


def agent_harnesses(call: FullCall) -> Response:
    """Return an empty registry of agent harnesses."""
    return JSONResponse({"standardEnvVars": [], "harnesses": {}})


ROUTES = [
    Route("GET", "api/{kind}/{repo}/commits/{rev}", commits),
    Route("GET", "api/{kind}/{repo}/tree/{rev}/{path*}", tree),
    Route("POST", "api/{kind}/{repo}/paths-info/{rev}", paths_info),
    Route("GET", "{kind?}/{repo}/raw/{rev}/{path*}", raw),
    Route("POST", "api/{kind}/{repo}/preupload/{rev}", preupload),
    Route("GET", "api/telemetry/{path*}", telemetry),
    Route("GET", "api/agent-harnesses", agent_harnesses),
]
