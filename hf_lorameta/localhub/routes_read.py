"""Routes that look: who am I, lists of repos, their info, trees, references and history."""

from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from hf_lorameta.localhub import accounts, http_errors, state, views
from hf_lorameta.localhub.history import Commit, Repo
from hf_lorameta.localhub.routing import Call, Route

_EXPANDED_PAGE = 50  # entries of a tree page when the last commit of each is asked for


def whoami(call: Call) -> Response:
    """Answers who the token belongs to."""
    return JSONResponse(accounts.whoami(state.require_user(call.caller)))


def list_repos(call: Call) -> Response:
    """Answers a page of the repos that fit the query."""
    found = [repo for repo in call.hub.repos.values() if repo.type == call.kind]
    infos = []
    for repo in found:
        if call.hub.may_see(repo, call.caller):
            infos.append(views.repo_info(call.hub, repo, repo.head))
    infos = [info for info in infos if _fits(call, info)]
    key = call.query("sort") or "trendingScore"
    infos.sort(key=lambda i: (str(i.get(key) or ""), i["createdAt"]), reverse=True)
    if call.query("direction") == "1":
        infos.reverse()
    start = _number(call.query("cursor"), 0)
    size = max(1, min(_number(call.query("limit"), 1000), call.settings.page_size))
    page = [_listed(call, info) for info in infos[start : start + size]]
    more = start + size < len(infos)
    return JSONResponse(page, headers=call.page_link(cursor=str(start + size)) if more else None)


def _number(text: str, default: int) -> int:
    return int(text) if text.isdigit() else default


def _fits(call: Call, info: dict[str, Any]) -> bool:
    tags = {tag.lower() for tag in info["tags"]}
    wanted = [*call.queries("filter"), *call.queries("library"), *call.queries("tags")]
    author, search, gated = call.query("author"), call.query("search"), call.query("gated")
    return (
        all(tag.lower() in tags for tag in wanted)
        and (not author or (info["author"] or "").lower() == author.lower())
        and (not search or search.lower() in info["id"].lower())
        and (not gated or call.flag("gated") == bool(info["gated"]))
        and call.query("pipeline_tag") in ("", info.get("pipeline_tag"))
    )


def _listed(call: Call, info: dict[str, Any]) -> dict[str, Any]:
    expand = call.queries("expand")
    if expand:
        return views.pick(info, expand)
    full = call.flag("full")
    dropped = {"usedStorage", "baseModels", "safetensors", "config"}
    if call.flag("config"):
        dropped.remove("config")
    if not (full or call.flag("cardData")):
        dropped.add("cardData")
    if not full:
        dropped |= {"siblings", "sha"} if call.kind == "model" else {"siblings"}
    return {name: value for name, value in info.items() if name not in dropped}


def repo_info(call: Call) -> Response:
    """Answers everything about one repo, at a revision."""
    repo = call.hub.visible(call.kind, call.params["repo"], call.caller)
    commit = repo.resolve(call.params.get("rev", "main"))
    info = views.repo_info(call.hub, repo, commit, blobs=call.flag("blobs"))
    expand = call.queries("expand")
    return JSONResponse(views.pick(info, expand) if expand else info)


def auth_check(call: Call) -> Response:
    """Answers 200 if the caller may read the repo's files."""
    call.hub.readable(call.kind, call.params["repo"], call.caller)
    return JSONResponse({})


def auth_check_write(call: Call) -> Response:
    """Answers 200 if the caller may write to the repo."""
    call.hub.writable(call.kind, call.params["repo"], call.caller)
    return JSONResponse({})


def tree(call: Call) -> Response:
    """Answers a page of the files and folders under a path."""
    repo, commit = _repo_at(call)
    under = call.params.get("path", "").strip("/")
    if under and under not in views.folders(commit):
        raise http_errors.entry_missing(under, commit.sha)
    paths = _paths_under(commit, under, call.flag("recursive"))
    expand = call.flag("expand")
    size = call.settings.page_size
    size = min(size, _EXPANDED_PAGE) if expand else size
    start = _number(call.query("cursor"), 0)
    items = _items(repo, commit, paths[start : start + size], expand)
    more = start + size < len(paths)
    headers = call.page_link(cursor=str(start + size)) if more else {}
    return JSONResponse(items, headers={**headers, "X-Repo-Commit": commit.sha})


def paths_info(call: Call) -> Response:
    """Answers the files and folders named in the body; those that are missing are left out."""
    repo, commit = _repo_at(call)
    asked = [path.strip("/") for path in call.form.get("paths", [])]
    known = views.folders(commit) | commit.tree.keys()
    expand = call.form.get("expand", ["false"])[0].lower() in ("true", "1")
    return JSONResponse(_items(repo, commit, [p for p in asked if p in known], expand))


def _repo_at(call: Call) -> tuple[Repo, Commit]:
    repo = call.hub.visible(call.kind, call.params["repo"], call.caller)
    return repo, repo.resolve(call.params.get("rev", "main"))


def _paths_under(commit: Commit, under: str, recursive: bool) -> list[str]:
    prefix = f"{under}/" if under else ""
    everything = [p for p in (*views.folders(commit), *commit.tree) if p.startswith(prefix)]
    if recursive:
        return sorted(everything)
    return sorted(path for path in everything if "/" not in path[len(prefix) :])


def _items(repo: Repo, commit: Commit, paths: list[str], expand: bool) -> list[dict[str, Any]]:
    touched = repo.last_touched(commit) if expand else {}
    items = []
    for path in paths:
        last = touched.get(path)
        if expand and last is None:  # a folder: the newest commit of the files in it
            inside = [c for p, c in touched.items() if p.startswith(f"{path}/")]
            last = max(inside, key=lambda c: c.date)
        items.append(views.tree_item(path, commit.tree.get(path), last))
    return items


def refs(call: Call) -> Response:
    """Answers branches, tags and pull requests."""
    repo = call.hub.visible(call.kind, call.params["repo"], call.caller)

    def shown(name: str, ref: str, sha: str) -> dict[str, str]:
        return {"name": name, "ref": ref, "targetCommit": sha}

    answer: dict[str, Any] = {
        "branches": [shown(n, f"refs/heads/{n}", sha) for n, sha in repo.branches.items()],
        "converts": [],
        "tags": [shown(n, f"refs/tags/{n}", sha) for n, (sha, _) in repo.tags.items()],
    }
    if call.flag("include_prs"):
        pulls = [name for name in repo.refs if name.startswith("refs/pr/")]
        answer["pullRequests"] = [shown(n.rpartition("/")[2], n, repo.refs[n]) for n in pulls]
    return JSONResponse(answer)


def commits(call: Call) -> Response:
    """Answers a page of a revision's history, newest first."""
    repo, commit = _repo_at(call)
    history = list(repo.log(commit))
    page = _number(call.query("p"), 0)
    size = min(_number(call.query("limit"), 50), 1000)
    shown = history[page * size : (page + 1) * size]
    formatted = "formatted" in call.queries("expand")
    headers = {"X-Total-Count": str(len(history))}
    if (page + 1) * size < len(history):
        headers.update(call.page_link(p=str(page + 1)))
    return JSONResponse([views.commit_item(c, formatted) for c in shown], headers=headers)


def telemetry(call: Call) -> Response:
    """Takes telemetry and keeps nothing of it."""
    return Response(status_code=204)


def harnesses(call: Call) -> Response:
    """Answers an empty registry of agents: the client need not look for any."""
    return JSONResponse({"standardEnvVars": [], "harnesses": {}})


def no_xet(call: Call) -> Response:
    """Refuses a token for Xet storage, in words that lead on."""
    words = "This hub has no Xet storage; set HF_HUB_DISABLE_XET=1 for this upload"
    raise http_errors.Refusal(404, words)


def no_viewer(call: Call) -> Response:
    """Answers as the dataset viewer does for a dataset it has not looked at."""
    raise http_errors.Refusal(
        404, "The dataset viewer is not part of this hub.", "ResponseNotFound"
    )


def home(call: Call) -> Response:
    """Answers what this is."""
    return PlainTextResponse("A Hugging Face Hub on loopback (hf_lorameta.localhub)\n")


ROUTES = [
    Route("GET", "api/whoami-v2", whoami),
    Route("GET", "api/agent-harnesses", harnesses),
    Route("GET", "api/telemetry/{path*}", telemetry),
    Route("POST", "api/telemetry/{path*}", telemetry),
    Route("GET", "api/{kind}", list_repos),
    Route("GET", "api/{kind}/{repo}", repo_info),
    Route("GET", "api/{kind}/{repo}/revision/{rev}", repo_info),
    Route("GET", "api/{kind}/{repo}/auth-check", auth_check),
    Route("GET", "api/{kind}/{repo}/auth-check/write", auth_check_write),
    Route("GET", "api/{kind}/{repo}/tree/{rev}/{path*}", tree),
    Route("POST", "api/{kind}/{repo}/paths-info/{rev}", paths_info),
    Route("GET", "api/{kind}/{repo}/refs", refs),
    Route("GET", "api/{kind}/{repo}/commits/{rev}", commits),
    Route("GET", "api/{kind}/{repo}/xet-read-token/{rev}", no_xet),
    Route("GET", "api/{kind}/{repo}/xet-write-token/{rev}", no_xet),
    Route("GET", "parquet", no_viewer),
    Route("GET", "info", no_viewer),
    Route("GET", "", home),
]
