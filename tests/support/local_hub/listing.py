"""Routes for the account, for lists of repos and for their info with tags."""

import hashlib
from typing import Any, TypeVar

from starlette.responses import JSONResponse, Response

from tests.support.local_hub import cards
from tests.support.local_hub.errors import HTTPError
from tests.support.local_hub.lfs_rules import Entry, add_lfs
from tests.support.local_hub.routing import Call, Route
from tests.support.local_hub.state import Commit, Repo
from tests.support.local_hub.trusted_publishers import NO_ACCOUNT

T = TypeVar("T")


def whoami(call: Call) -> Response:
    """Return the user that the token belongs to."""
    user = call.user
    if user.repo:
        raise HTTPError(403, NO_ACCOUNT)
    token = {"displayName": "local hub", "role": user.role, "createdAt": user.created}
    account = {
        **_account(user.name, "user", f"{user.name}@localhub.invalid"),
        "emailVerified": True,
        "isPro": user.pro,
        "orgs": [_account(name, "org", None) | {"roleInOrg": "write"} for name in user.orgs],
        "auth": {"type": "access_token", "accessToken": token},
    }
    return JSONResponse(account)


def _account(name: str, kind: str, email: str | None) -> dict[str, Any]:
    return {
        "type": kind,
        "id": _object_id(name),
        "name": name,
        "fullname": name,
        "email": email,
        "avatarUrl": "",
    }


def list_repos(call: Call) -> Response:
    """Return a page of the repos that match the query."""
    visible = [
        _info(call, repo, repo.resolve("main"))
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
    repo = call.visible_repo()
    info, expand = _info(call, repo, call.commit_of(repo)), call.query_list("expand")
    return JSONResponse(_expand(info, expand) if expand else info)


def _info(call: Call, repo: Repo, commit: Commit) -> dict[str, Any]:
    """Return a repo's info at a commit; with the flag ``blobs``, sizes and digests of files."""
    blobs, paths = call.flag("blobs"), commit.tree.keys()
    card = cards.card_metadata(call.hub.text(commit.tree, "README.md") or "")
    siblings = [_sibling(path, entry, blobs) for path, entry in sorted(commit.tree.items())]
    if blobs:
        add_lfs(siblings, commit.tree, "sha256")
    info = {
        "_id": _object_id(f"{repo.type} {repo.id}"),
        "id": repo.id,
        "author": repo.namespace or None,
        "sha": commit.sha,
        "lastModified": commit.date,
        "createdAt": repo.created,
        "private": repo.private,
        "siblings": siblings,
        "cardData": card,
        "gated": repo.gated,
        "downloads": 0,
        "likes": 0,
        "tags": cards.tags(card, repo.type, paths),
        "usedStorage": sum(entry.size for entry in commit.tree.values()),
    }
    if repo.type == "model":
        library, task = cards.library_name(card, paths), card.get("pipeline_tag")
        fields = {"modelId": repo.id, "library_name": library, "pipeline_tag": task}
        info |= {name: value for name, value in fields.items() if value is not None}
    elif repo.type == "space":
        info["sdk"] = card.get("sdk", repo.sdk)
    return info


def _object_id(text: str) -> str:
    """Return 24 hex digits derived from `text`, in the format of the Hub's database ids."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _sibling(path: str, entry: Entry, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    return {"rfilename": path, "size": entry.size, "blobId": entry.oid}


def _expand(info: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return the ids and the fields requested with ``expand``."""
    return {k: info[k] for k in ("_id", "id", "modelId", *names) if k in info}


ROUTES = [
    Route("GET", "api/whoami-v2", whoami),
    Route("GET", "api/{kind}", list_repos),
    Route("GET", "api/{kind}/{repo}", repo_info),
    Route("GET", "api/{kind}/{repo}/revision/{rev}", repo_info),
]
