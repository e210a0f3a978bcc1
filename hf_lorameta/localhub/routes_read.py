"""Routes that only read: whoami, lists of repos, repo info, trees and refs."""

from typing import Any, TypeVar
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import http_errors, views
from hf_lorameta.localhub.history import Commit, Repo
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.routing import Call, Route

T = TypeVar("T")


def whoami(call: Call) -> Response:
    """Return the user that the token belongs to."""
    return JSONResponse(views.whoami(call.user))


def list_repos(call: Call) -> Response:
    """Return a page of the repos that match the query."""
    visible = [
        views.repo_info(call.hub, repo, repo.resolve("main"))
        for repo in call.hub.repos.values()
        if repo.type == call.repo_type and call.can_see(repo)
    ]
    infos = [info for info in visible if _matches_query(call, info)]
    key = call.query("sort")
    infos.sort(key=lambda i: (str(i.get(key) or ""), i["createdAt"]), reverse=True)
    size = max(1, min(call.query_int("limit", 1000), call.hub.page_size))
    page, headers = page_of(call, infos, size)
    return JSONResponse([_list_item(call, info) for info in page], headers=headers)


def page_of(call: Call, items: list[T], size: int) -> tuple[list[T], dict[str, str]]:
    """Return the items from ``cursor`` on, and the Link header to the next page."""
    start = call.query_int("cursor", 0)
    stop = start + size
    if stop >= len(items):
        return items[start:], {}
    url = call.request.url.replace(path=call.request.scope["raw_path"].decode("ascii"))
    return items[start:stop], {"Link": f'<{url.include_query_params(cursor=stop)}>; rel="next"'}


def _matches_query(call: Call, info: dict[str, Any]) -> bool:
    tags = {tag.lower() for tag in info["tags"]}
    author, search = call.query("author"), call.query("search")
    return (
        all(tag.lower() in tags for tag in call.query_list("filter"))
        and (not author or (info["author"] or "").lower() == author.lower())
        and (not search or search.lower() in info["id"].lower())
    )


def _list_item(call: Call, info: dict[str, Any]) -> dict[str, Any]:
    if expand := call.query_list("expand"):
        return views.expand(info, expand)
    omitted: set[str] = set()
    if not call.flag("full"):
        omitted |= {"siblings", "sha"} if call.repo_type == "model" else {"siblings"}
        if not call.flag("cardData"):
            omitted.add("cardData")
    return {name: value for name, value in info.items() if name not in omitted}


def repo_info(call: Call) -> Response:
    """Return the info of a repo at a revision."""
    repo, commit = locate(call)
    info = views.repo_info(call.hub, repo, commit, blobs=call.flag("blobs"))
    expand = call.query_list("expand")
    return JSONResponse(views.expand(info, expand) if expand else info)


def auth_check(call: Call) -> Response:
    """Return 200 if the caller may read the files of the repo, or with ``/write`` change them."""
    if call.params["write"]:
        call.writable_repo()
    else:
        call.readable_repo()
    return JSONResponse({})


def tree(call: Call) -> Response:
    """Return a page of the files and folders in a folder."""
    _, commit = locate(call)
    folder = call.params["path"].strip("/")
    if folder and folder not in views.folders(commit):
        raise http_errors.entry_not_found(folder, commit.sha)
    prefix = f"{folder}/" if folder else ""
    paths = sorted(p for p in (*views.folders(commit), *commit.tree) if p.startswith(prefix))
    if not call.flag("recursive"):
        paths = [path for path in paths if "/" not in path.removeprefix(prefix)]
    page, headers = page_of(call, paths, call.hub.page_size)
    items = [views.tree_item(path, commit.tree.get(path)) for path in page]
    return JSONResponse(items, headers={**headers, "X-Repo-Commit": commit.sha})


def paths_info(call: Call) -> Response:
    """Return the files and folders named in the body, except those that do not exist."""
    _, commit = locate(call)
    known = views.folders(commit) | commit.tree.keys()
    form = parse_qs(call.body.decode("utf-8", "replace"))
    paths = [path.strip("/") for path in form.get("paths", [])]
    items = [views.tree_item(path, commit.tree.get(path)) for path in paths if path in known]
    return JSONResponse(items)


def locate(call: Call) -> tuple[Repo, Commit]:
    """Return the repo and the commit that a path names."""
    repo = call.visible_repo()
    return repo, call.commit_of(repo)


def refs(call: Call) -> Response:
    """Return branches and tags, and pull requests if the query includes them."""
    repo = call.visible_repo()

    def item(name: str, ref: str, sha: str) -> dict[str, str]:
        return {"name": name, "ref": ref, "targetCommit": sha}

    answer: dict[str, Any] = {
        "branches": [item(n, f"refs/heads/{n}", sha) for n, sha in repo.branches.items()],
        "converts": [],
        "tags": [item(n, f"refs/tags/{n}", sha) for n, sha in repo.tags.items()],
    }
    if call.flag("include_prs"):
        pulls = repo.pull_requests.items()
        answer["pullRequests"] = [item(ref.rpartition("/")[2], ref, sha) for ref, sha in pulls]
    return JSONResponse(answer)


def xet_token(call: Call) -> Response:
    """Refuse a token for Xet storage."""
    raise HTTPError(404, "This hub has no Xet storage; set HF_HUB_DISABLE_XET=1 for this upload")


ROUTES = [
    Route("GET", "api/whoami-v2", whoami),
    Route("GET", "api/{kind}", list_repos),
    Route("GET", "api/{kind}/{repo}", repo_info),
    Route("GET", "api/{kind}/{repo}/revision/{rev}", repo_info),
    Route("GET", "api/{kind}/{repo}/auth-check(?P<write>/write)?", auth_check),
    Route("GET", "api/{kind}/{repo}/tree/{rev}/{path*}", tree),
    Route("POST", "api/{kind}/{repo}/paths-info/{rev}", paths_info),
    Route("GET", "api/{kind}/{repo}/refs", refs),
    Route("GET", "api/{kind}/{repo}/xet-(?:read|write)-token/{rev}", xet_token),
]
