"""Routes for the history of a repo and of its files, pointers of Git LFS, and ignored files."""

import fnmatch
import json
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import routes_read, routes_write
from hf_lorameta.localhub.history import Commit, Repo
from hf_lorameta.localhub.routes_files import headers_of, locate, serve
from hf_lorameta.localhub.routing import Call, Route
from hf_lorameta.localhub.uploads import lfs_pointer
from tests.support.full_hub.trees import differences

_PAGE_SIZE = 50


def commits(call: Call) -> Response:
    """Return a page of the history of a revision, newest first."""
    repo, commit = routes_read.locate(call)
    formatted = "formatted" in call.query_list("expand")
    page, headers = routes_read.page_of(call, list(repo.log(commit)), _PAGE_SIZE)
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


def tree(call: Call) -> Response:
    """Return a folder; with ``expand``, also the last commit of each file."""
    answer = routes_read.tree(call)
    return _expanded(call, answer) if call.flag("expand") else answer


def paths_info(call: Call) -> Response:
    """Return the named files; with ``expand``, also the last commit of each."""
    answer = routes_read.paths_info(call)
    form = parse_qs(call.body.decode("utf-8", "replace"))
    return _expanded(call, answer) if form.get("expand") == ["true"] else answer


def _expanded(call: Call, answer: Response) -> Response:
    repo, commit = routes_read.locate(call)
    last_commits = _last_commits(repo, commit)
    items = json.loads(bytes(answer.body))
    for item in items:
        last = last_commits.get(item["path"])
        if last is None:  # a folder: the newest commit of its files
            inside = [c for p, c in last_commits.items() if p.startswith(f"{item['path']}/")]
            last = max(inside, key=lambda c: c.date)
        item["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.date}
    headers = {k: v for k, v in answer.headers.items() if k in ("link", "x-repo-commit")}
    return JSONResponse(items, headers=headers)


def _last_commits(repo: Repo, commit: Commit) -> dict[str, Commit]:
    """Return the last commit that changed each path of `commit`."""
    last: dict[str, Commit] = {}
    for ancestor in repo.log(commit):
        for path in differences(repo.tree_at(ancestor.parent), ancestor.tree):
            if path in commit.tree:
                last.setdefault(path, ancestor)
    return last


def raw(call: Call) -> Response:
    """Return a file as stored in git: for a file in Git LFS, its pointer file."""
    commit, path, entry = locate(call)
    headers = headers_of(path, entry.oid, commit.sha)
    if entry.lfs:
        return Response(lfs_pointer(entry.sha256, entry.size), headers=headers)
    return serve(call, entry.sha256, headers)


def preupload(call: Call) -> Response:
    """Return for each file how to upload it, and whether ``.gitignore`` excludes it."""
    answer = json.loads(bytes(routes_write.preupload(call).body))
    stored = call.hub.text(call.commit_of(call.visible_repo()).tree, ".gitignore")
    rules = call.json.get("gitIgnore", stored) or ""
    for file in answer["files"]:
        file["shouldIgnore"] = is_ignored(file["path"], rules)
    return JSONResponse(answer)


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


def telemetry(call: Call) -> Response:
    """Accept telemetry and discard it."""
    return Response(status_code=204)


def agent_harnesses(call: Call) -> Response:
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
