"""Routes for discussions and pull requests."""

import difflib
from typing import Any

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import blobs, http_errors, state, views
from hf_lorameta.localhub.history import Commit, Discussion, Repo, differences, now
from hf_lorameta.localhub.routing import Call, Route

_PAGE = 10
_LONGEST_DIFF = 1 << 20  # bytes of a file that is compared line by line
_STATUSES = ("open", "closed")


def list_discussions(call: Call) -> Response:
    """Answers a page of discussions, newest first."""
    repo = call.hub.visible(call.kind, call.params["repo"], call.caller)
    found = [talk for talk in reversed(repo.discussions) if _fits(call, talk)]
    start = int(call.query("p") or 0) * _PAGE
    shown = [views.discussion_item(repo, talk) for talk in found[start : start + _PAGE]]
    return JSONResponse({"discussions": shown, "count": len(found), "start": start})


def _fits(call: Call, talk: Discussion) -> bool:
    kind, status, author = call.query("type"), call.query("status"), call.query("author")
    return (
        (kind in ("", "all") or (kind == "pull_request") == talk.is_pr)
        and (status in ("", "all") or (status == "open") == (talk.status in ("open", "draft")))
        and author in ("", talk.author)
    )


def details(call: Call) -> Response:
    """Answers one discussion with its events; of a pull request also the diff."""
    repo, talk = _talk(call)
    answer = {**views.discussion_item(repo, talk), "events": talk.events}
    if talk.is_pr:
        changes: dict[str, Any] = {"base": "refs/heads/main"}
        if talk.merge_commit:
            changes["mergeCommitId"] = talk.merge_commit
        answer["changes"] = changes
        merged = talk.status == "merged"
        answer["filesWithConflicts"] = [] if merged else repo.conflicts(talk)
        if call.flag("diff") and talk.base:
            answer["diff"] = _diff(call, repo.commits[talk.base], repo.resolve(talk.ref))
    return JSONResponse(answer)


def _talk(call: Call) -> tuple[Repo, Discussion]:
    repo = call.hub.visible(call.kind, call.params["repo"], call.caller)
    number = call.params["num"]
    return repo, repo.discussion(int(number) if number.isdigit() else 0)


def _diff(call: Call, before: Commit, after: Commit) -> str:
    parts = []
    for path in sorted(differences(before.tree, after.tree)):
        old, new = _lines(call, before, path), _lines(call, after, path)
        lines = difflib.unified_diff(old, new, f"a/{path}", f"b/{path}", lineterm="")
        parts.append("\n".join([f"diff --git a/{path} b/{path}", *lines]))
    return "\n".join(parts)


def _lines(call: Call, commit: Commit, path: str) -> list[str]:
    entry = commit.tree.get(path)
    if entry is None:
        return []
    if entry.lfs or entry.size > _LONGEST_DIFF:
        return blobs.pointer_text(blobs.Blob(entry.sha256, entry.size)).decode().splitlines()
    return blobs.read(call.hub.blobs, entry.sha256).decode("utf-8", "replace").splitlines()


def create(call: Call) -> Response:
    """Opens a discussion, or a draft pull request without commits."""
    repo = call.hub.visible(call.kind, call.params["repo"], call.caller)
    author = state.require_writer(call.caller).user.name
    title, text = str(call.json.get("title", "")), str(call.json.get("description", ""))
    if len(title.strip()) < 3:
        raise http_errors.Refusal(400, '"title" length must be at least 3 characters long')
    if call.json.get("pullRequest"):
        talk = call.hub.open_pr(repo, title, text, author, "draft")
    else:
        with call.hub.lock:
            talk = Discussion(len(repo.discussions) + 1, title, author, now(), False, "open")
            talk.events.append(state.comment_event(talk, author, text))
            repo.discussions.append(talk)
            call.hub.save(repo)
    page = f"{call.links.base}/{state.page_path(repo)}/discussions/{talk.num}"
    return JSONResponse({"num": talk.num, "url": page, "pullRequest": talk.is_pr})


def comment(call: Call) -> Response:
    """Adds a comment."""
    repo, talk = _talk(call)
    author = state.require_writer(call.caller).user.name
    with call.hub.lock:
        made = state.comment_event(talk, author, str(call.json.get("comment", "")))
        talk.events.append(made)
        call.hub.save(repo)
    return JSONResponse({"newMessage": made})


def rename(call: Call) -> Response:
    """Gives a discussion another title."""
    repo, talk, caller = _own_talk(call)
    with call.hub.lock:
        data: dict[str, object] = {"from": talk.title, "to": str(call.json.get("title", ""))}
        made = state.event(talk, caller, "title-change", data)
        talk.title = str(data["to"])
        talk.events.append(made)
        call.hub.save(repo)
    return JSONResponse({"newTitle": made})


def set_status(call: Call) -> Response:
    """Opens or closes a discussion."""
    repo, talk, caller = _own_talk(call)
    status = str(call.json.get("status", ""))
    if status not in _STATUSES:
        raise http_errors.Refusal(400, f'"status" must be one of [{", ".join(_STATUSES)}]')
    if talk.status == "merged":
        raise http_errors.Refusal(400, "The pull request is merged already")
    with call.hub.lock:
        made = _change_status(talk, caller, status)
        call.hub.save(repo)
    return JSONResponse({"newStatus": made})


def _change_status(talk: Discussion, caller: str, status: str) -> dict[str, object]:
    talk.status = status
    made = state.event(talk, caller, "status-change", {"status": status})
    talk.events.append(made)
    return made


def _own_talk(call: Call) -> tuple[Repo, Discussion, str]:
    repo, talk = _talk(call)
    caller = state.require_writer(call.caller)
    if not caller.owns(repo.namespace) and talk.author != caller.user.name:
        raise http_errors.Refusal(403, "You are not allowed to change this discussion")
    return repo, talk, caller.user.name


def merge(call: Call) -> Response:
    """Merges a pull request into ``main``; 409 if both changed the same file."""
    repo, talk = _talk(call)
    call.hub.writable(call.kind, call.params["repo"], call.caller)
    author = state.require_writer(call.caller).user.name
    if not talk.is_pr or talk.status in ("merged", "closed"):
        raise http_errors.Refusal(400, "Only an open pull request can be merged")
    with call.hub.lock:
        conflicts = repo.conflicts(talk)
        if conflicts:
            words = f"The pull request conflicts with main: {', '.join(conflicts)}"
            raise http_errors.Refusal(409, words)
        base = repo.commits[talk.base].tree if talk.base else {}
        changes = differences(base, repo.resolve(talk.ref).tree)
        title = f"{talk.title} (#{talk.num})"
        made = call.hub.commit(repo, "main", changes, title=title, author=author)
        talk.merge_commit = made.sha
        _change_status(talk, author, "merged")
        call.hub.save(repo)
    return JSONResponse({"mergeCommitId": made.sha})


_TALK = "api/{kind}/{repo}/discussions"

ROUTES = [
    Route("GET", _TALK, list_discussions),
    Route("POST", _TALK, create),
    Route("GET", f"{_TALK}/{{num}}", details),
    Route("POST", f"{_TALK}/{{num}}/comment", comment),
    Route("POST", f"{_TALK}/{{num}}/title", rename),
    Route("POST", f"{_TALK}/{{num}}/status", set_status),
    Route("POST", f"{_TALK}/{{num}}/merge", merge),
]
