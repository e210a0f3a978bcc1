"""Routes that only read: whoami, lists of repos, repo info and trees."""

import hashlib
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import cards, http_errors
from hf_lorameta.localhub.history import Commit, Entry, Repo
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.routing import Call, Route
from hf_lorameta.localhub.state import Caller, HubState
from hf_lorameta.localhub.uploads import lfs_pointer

T = TypeVar("T")


def whoami(call: Call) -> Response:
    """Return the user that the token belongs to."""
    return JSONResponse(_user(call.user))


def list_repos(call: Call) -> Response:
    """Return a page of the repos that match the query."""
    visible = [
        _info(call.hub, repo, repo.resolve("main"))
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
        return _expand(info, expand)
    omitted: set[str] = set()
    if not call.flag("full"):
        omitted |= {"siblings", "sha"} if call.repo_type == "model" else {"siblings"}
        if not call.flag("cardData"):
            omitted.add("cardData")
    return {name: value for name, value in info.items() if name not in omitted}


def repo_info(call: Call) -> Response:
    """Return the info of a repo at a revision."""
    repo, commit = locate(call)
    info = _info(call.hub, repo, commit, blobs=call.flag("blobs"))
    expand = call.query_list("expand")
    return JSONResponse(_expand(info, expand) if expand else info)


def tree(call: Call) -> Response:
    """Return a page of the files and folders in a folder."""
    _, commit = locate(call)
    folder = call.params["path"].strip("/")
    if folder and folder not in _folders(commit):
        raise http_errors.entry_not_found(folder, commit.sha)
    prefix = f"{folder}/" if folder else ""
    paths = sorted(p for p in (*_folders(commit), *commit.tree) if p.startswith(prefix))
    if not call.flag("recursive"):
        paths = [path for path in paths if "/" not in path.removeprefix(prefix)]
    page, headers = page_of(call, paths, call.hub.page_size)
    items = [_tree_item(path, commit.tree.get(path)) for path in page]
    return JSONResponse(items, headers={**headers, "X-Repo-Commit": commit.sha})


def paths_info(call: Call) -> Response:
    """Return the files and folders named in the body, except those that do not exist."""
    _, commit = locate(call)
    known = _folders(commit) | commit.tree.keys()
    form = parse_qs(call.body.decode("utf-8", "replace"))
    paths = [path.strip("/") for path in form.get("paths", [])]
    items = [_tree_item(path, commit.tree.get(path)) for path in paths if path in known]
    return JSONResponse(items)


def locate(call: Call) -> tuple[Repo, Commit]:
    """Return the repo and the commit that a path names."""
    repo = call.visible_repo()
    return repo, call.commit_of(repo)


def xet_token(call: Call) -> Response:
    """Refuse a token for Xet storage."""
    raise HTTPError(404, "This hub has no Xet storage; set HF_HUB_DISABLE_XET=1 for this upload")


# ---- JSON in the format of the Hub's API


def _object_id(text: str) -> str:
    """Return 24 hex digits derived from `text`, in the format of the Hub's database ids."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _user(caller: Caller) -> dict[str, Any]:
    """Return the body of ``/api/whoami-v2``."""
    user = caller.user
    token = {"displayName": "localhub", "role": caller.role, "createdAt": user.created}
    return {
        **_account(user.name, "user", user.email),
        "emailVerified": True,
        "isPro": user.pro,
        "orgs": [_account(name, "org", None) | {"roleInOrg": "write"} for name in user.orgs],
        "auth": {"type": "access_token", "accessToken": token},
    }


def _account(name: str, kind: str, email: str | None) -> dict[str, Any]:
    return {
        "type": kind,
        "id": _object_id(name),
        "name": name,
        "fullname": name,
        "email": email,
        "avatarUrl": "",
    }


def _info(hub: HubState, repo: Repo, commit: Commit, *, blobs: bool = False) -> dict[str, Any]:
    """Return all fields of a repo's info at a commit; with `blobs`, sizes and digests of files."""
    card = cards.metadata(hub.text(commit.tree, "README.md") or "")
    info: dict[str, Any] = {
        "_id": _object_id(f"{repo.type} {repo.id}"),
        "id": repo.id,
        "author": repo.namespace or None,
        "sha": commit.sha,
        "lastModified": commit.date,
        "createdAt": repo.created,
        "private": repo.private,
        "gated": repo.gated,
        "downloads": 0,
        "likes": 0,
        "tags": cards.tags(card, repo.type, commit.tree.keys()),
        "siblings": [_sibling(path, entry, blobs) for path, entry in sorted(commit.tree.items())],
        "cardData": card,
        "usedStorage": sum(entry.size for entry in commit.tree.values()),
    }
    if repo.type == "model":
        library, task = cards.library_name(card, commit.tree.keys()), card.get("pipeline_tag")
        fields = {"modelId": repo.id, "library_name": library, "pipeline_tag": task}
        info |= {name: value for name, value in fields.items() if value is not None}
    elif repo.type == "space":
        info["sdk"] = card.get("sdk", repo.sdk)
    return info


def _expand(info: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return the ids and the fields requested with ``expand``."""
    return {k: info[k] for k in ("_id", "id", "modelId", *names) if k in info}


def _sibling(path: str, entry: Entry, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    return {"rfilename": path, "size": entry.size, "blobId": entry.oid, **_lfs(entry, "sha256")}


def _lfs(entry: Entry, digest_name: str) -> dict[str, Any]:
    if not entry.lfs:
        return {}
    pointer_size = len(lfs_pointer(entry.sha256, entry.size))
    fields = {digest_name: entry.sha256, "size": entry.size, "pointerSize": pointer_size}
    return {"lfs": fields}


def _tree_item(path: str, entry: Entry | None) -> dict[str, Any]:
    """Return a file, or a folder if `entry` is None."""
    if entry is None:
        oid = hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
        return {"type": "directory", "oid": oid, "size": 0, "path": path}
    item = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    return item | _lfs(entry, "oid")


def _folders(commit: Commit) -> set[str]:
    """Return the paths of all folders of a commit."""
    parents = (PurePosixPath(path).parents for path in commit.tree)
    return {str(parent) for chain in parents for parent in chain} - {"."}


ROUTES = [
    Route("GET", "api/whoami-v2", whoami),
    Route("GET", "api/{kind}", list_repos),
    Route("GET", "api/{kind}/{repo}", repo_info),
    Route("GET", "api/{kind}/{repo}/revision/{rev}", repo_info),
    Route("GET", "api/{kind}/{repo}/tree/{rev}/{path*}", tree),
    Route("POST", "api/{kind}/{repo}/paths-info/{rev}", paths_info),
    Route("GET", "api/{kind}/{repo}/xet-(?:read|write)-token/{rev}", xet_token),
]
