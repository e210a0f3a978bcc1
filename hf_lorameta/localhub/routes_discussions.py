"""Routes for discussions and pull requests."""

import difflib

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import views
from hf_lorameta.localhub.history import Commit, Discussion, Repo, differences, now
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.routing import Call, Route

_PAGE_SIZE = 10
_MAX_DIFF_SIZE = 1 << 20  # larger files are compared by their pointers


def list_discussions(call: Call) -> Response:
    """Return a page of discussions, newest first."""
    repo = call.visible_repo()
    matching = [item for item in reversed(repo.discussions) if _matches_query(call, item)]
    start = call.query_int("p", 0) * _PAGE_SIZE
    page = [views.discussion_item(repo, item) for item in matching[start : start + _PAGE_SIZE]]
    return JSONResponse({"discussions": page, "count": len(matching), "start": start})


def _matches_query(call: Call, item: Discussion) -> bool:
    kind, status, author = call.query("type"), call.query("status"), call.query("author")
    return (
        (kind in ("", "all") or (kind == "pull_request") == item.is_pr)
        and (status in ("", "all") or (status == "open") == (item.status in ("open", "draft")))
        and author in ("", item.author)
    )


def details(call: Call) -> Response:
    """Return a discussion with its events; for a pull request also the diff."""
    repo, discussion = _locate(call)
    answer = {**views.discussion_item(repo, discussion), "events": discussion.events}
    if discussion.base:
        merge_commit = discussion.merge_commit
        answer["changes"] = {"base": "refs/heads/main", "mergeCommitId": merge_commit}
        answer["filesWithConflicts"] = [] if merge_commit else repo.conflicts(discussion)
        if call.flag("diff"):
            base, head = repo.commits[discussion.base], repo.resolve(discussion.ref)
            answer["diff"] = _diff(call, base, head)
    return JSONResponse(answer)


def _locate(call: Call) -> tuple[Repo, Discussion]:
    repo = call.visible_repo()
    num = int(call.params["num"])
    if not 1 <= num <= len(repo.discussions):
        raise HTTPError(404, f"Discussion {num} not found")
    return repo, repo.discussions[num - 1]


def _diff(call: Call, before: Commit, after: Commit) -> str:
    lines = []
    for path in sorted(differences(before.tree, after.tree)):
        old, new = _lines(call, before, path), _lines(call, after, path)
        lines.append(f"diff --git a/{path} b/{path}")
        lines += difflib.unified_diff(old, new, f"a/{path}", f"b/{path}", lineterm="")
    return "\n".join(lines)


def _lines(call: Call, commit: Commit, path: str) -> list[str]:
    entry = commit.tree.get(path)
    if entry is None:
        return []
    if entry.lfs or entry.size > _MAX_DIFF_SIZE:
        return entry.blob.lfs_pointer.decode().splitlines()
    return call.hub.blobs.read(entry.sha256).decode("utf-8", "replace").splitlines()


def create(call: Call) -> Response:
    """Open a discussion, or a draft pull request without commits."""
    repo, author = call.visible_repo(), call.writer.user.name
    title, text = str(call.json.get("title", "")), str(call.json.get("description", ""))
    if len(title.strip()) < 3:
        raise HTTPError(400, '"title" length must be at least 3 characters long')
    is_pr = bool(call.json.get("pullRequest"))
    status = "draft" if is_pr else "open"
    new = repo.open_discussion(title, text, author, is_pr=is_pr, status=status)
    url = f"{call.hub.page_url(repo)}/discussions/{new.num}"
    return call.saved(repo, num=new.num, url=url, pullRequest=is_pr)


def comment(call: Call) -> Response:
    """Add a comment."""
    repo, discussion = _locate(call)
    event = discussion.add_comment(call.writer.user.name, str(call.json.get("comment", "")))
    return call.saved(repo, newMessage=event)


def edit_comment(call: Call) -> Response:
    """Replace the text of the caller's own comment."""
    repo, discussion = _locate(call)
    event = next((e for e in discussion.events if e["id"] == call.params["comment"]), None)
    if event is None or event["type"] != "comment":
        raise HTTPError(404, f"Comment {call.params['comment']} not found")
    if event["author"]["name"] != call.writer.user.name:
        raise HTTPError(403, "You are not allowed to edit this comment")
    text = str(call.json.get("content", ""))
    event["data"] |= {"edited": True, "latest": {"raw": text, "updatedAt": now()}}
    return call.saved(repo, updatedComment=event)


def rename(call: Call) -> Response:
    """Change the title of a discussion."""
    repo, discussion, author = _locate_editable(call)
    old, discussion.title = discussion.title, str(call.json.get("title", ""))
    names = {"from": old, "to": discussion.title}
    event = discussion.add_event(author, "title-change", **names)
    return call.saved(repo, newTitle=event)


def set_status(call: Call) -> Response:
    """Open or close a discussion."""
    repo, discussion, author = _locate_editable(call)
    status = str(call.json.get("status", ""))
    if status not in ("open", "closed"):
        raise HTTPError(400, '"status" must be one of [open, closed]')
    if discussion.status == "merged":
        raise HTTPError(400, "The pull request is merged already")
    event = discussion.set_status(author, status)
    return call.saved(repo, newStatus=event)


def _locate_editable(call: Call) -> tuple[Repo, Discussion, str]:
    repo, discussion = _locate(call)
    author = call.writer.user.name
    if not call.writer.owns(repo.namespace) and discussion.author != author:
        raise HTTPError(403, "You are not allowed to change this discussion")
    return repo, discussion, author


def merge(call: Call) -> Response:
    """Merge a pull request into ``main``; 409 if both changed the same file."""
    repo, pr = _locate(call)
    call.writable_repo()
    author = call.writer.user.name
    if not pr.is_pr or pr.status in ("merged", "closed"):
        raise HTTPError(400, "Only an open pull request can be merged")
    conflicts = repo.conflicts(pr)
    if conflicts:
        raise HTTPError(409, f"The pull request conflicts with main: {', '.join(conflicts)}")
    changes = differences(repo.tree_at(pr.base), repo.resolve(pr.ref).tree)
    title = f"{pr.title} (#{pr.num})"
    pr.merge_commit = call.hub.commit(repo, "main", changes, title=title, author=author).sha
    pr.set_status(author, "merged")
    return call.saved(repo, mergeCommitId=pr.merge_commit)


_DISCUSSIONS = "api/{kind}/{repo}/discussions"

ROUTES = [
    Route("GET", _DISCUSSIONS, list_discussions),
    Route("POST", _DISCUSSIONS, create),
    Route("GET", f"{_DISCUSSIONS}/{{num}}", details),
    Route("POST", f"{_DISCUSSIONS}/{{num}}/comment", comment),
    Route("POST", f"{_DISCUSSIONS}/{{num}}/comment/{{comment}}/edit", edit_comment),
    Route("POST", f"{_DISCUSSIONS}/{{num}}/title", rename),
    Route("POST", f"{_DISCUSSIONS}/{{num}}/status", set_status),
    Route("POST", f"{_DISCUSSIONS}/{{num}}/merge", merge),
]
