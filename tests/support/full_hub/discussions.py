"""Discussions and pull requests: what the loopback Hub's refs and commits do not hold."""

import difflib
import json
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import http_errors, routes_write
from hf_lorameta.localhub.history import Commit, now
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.routing import Route
from tests.support.full_hub import operations
from tests.support.full_hub.calls import FullCall
from tests.support.full_hub.lfs_rules import LfsEntry, lfs_pointer
from tests.support.full_hub.state import FullRepo
from tests.support.full_hub.trees import differences

_PAGE_SIZE = 10
_MAX_DIFF_SIZE = 1 << 20  # larger files are compared by their pointers


@dataclass
class Discussion:
    """A discussion, or a pull request if it has a `base`."""

    num: int
    title: str
    author: str
    status: str
    base: str | None = None  # the commit that a pull request started from
    created: str = field(default_factory=now)
    events: list[dict[str, Any]] = field(default_factory=list)  # in the format of the API
    merge_commit: str | None = None

    @property
    def ref(self) -> str:
        """The git reference of a pull request, ``refs/pr/N``."""
        return f"refs/pr/{self.num}"

    def add_event(self, author: str, kind: str, **data: object) -> dict[str, Any]:
        """Append an event and return it in the format of the API."""
        event = {
            "id": f"{self.num:012x}{len(self.events):012x}",
            "type": kind,
            "author": {"name": author, "type": "user"},
            "createdAt": now(),
            "data": data,
        }
        self.events.append(event)
        return event

    def add_comment(self, author: str, text: str) -> dict[str, Any]:
        """Append a comment and return its event."""
        latest = {"raw": text, "updatedAt": now()}
        return self.add_event(author, "comment", edited=False, hidden=False, latest=latest)

    def set_status(self, author: str, status: str) -> dict[str, Any]:
        """Change the status and return the event."""
        self.status = status
        return self.add_event(author, "status-change", status=status)

    def item(self, repo: FullRepo) -> dict[str, Any]:
        """Return the discussion as listed."""
        return {
            "num": self.num,
            "title": self.title,
            "author": {"name": self.author, "type": "user"},
            "createdAt": self.created,
            "status": self.status,
            "isPullRequest": self.base is not None,
            "pinned": False,
            "numComments": len(self.events),
            "repo": {"name": repo.id, "type": repo.type},
        }


class Discussions:
    """The discussions of all repos, and their routes."""

    def __init__(self) -> None:
        # by the repo's time of creation, which no two repos share and a move does not change
        self._of_repos: dict[str, dict[int, Discussion]] = {}
        path = "api/{kind}/{repo}/discussions"
        self.routes = [
            Route("POST", "api/{kind}/{repo}/commit/{rev}", self.commit),
            Route("GET", path, self.list_all),
            Route("POST", path, self.create),
            Route("GET", f"{path}/{{num}}", self.details),
            Route("POST", f"{path}/{{num}}/comment", self.comment),
            Route("POST", f"{path}/{{num}}/comment/{{comment}}/edit", self.edit_comment),
            Route("POST", f"{path}/{{num}}/title", self.rename),
            Route("POST", f"{path}/{{num}}/status", self.set_status),
            Route("POST", f"{path}/{{num}}/merge", self.merge),
        ]

    def _of(self, repo: FullRepo) -> dict[int, Discussion]:
        return self._of_repos.setdefault(repo.created, {})

    def _locate(self, call: FullCall) -> tuple[FullRepo, Discussion]:
        repo, num = call.visible_repo(), int(call.params["num"])
        if num not in self._of(repo):
            raise HTTPError(404, f"Discussion {num} not found")
        return repo, self._of(repo)[num]

    def commit(self, call: FullCall) -> Response:
        """Commit, and note it in its pull request, which it may open."""
        repo = call.writable_repo()
        opens, author = call.flag("create_pr"), call.writer.name
        if opens:
            self._open_ref(call, repo)
        ref = call.params["rev"]
        try:
            answer = routes_write.commit(call, operations.ALL)
        except Exception:  # a refused commit opens no pull request
            if opens:
                repo.withdraw_pull_request(ref)
            raise
        new = json.loads(bytes(answer.body))
        commit = repo.commits[new["commitOid"]]
        if opens:
            pr = Discussion(repo.discussions, commit.title, author, "open", commit.parent)
            pr.add_comment(author, commit.message)
            self._of(repo)[pr.num] = pr
            new["pullRequestUrl"] = f"{call.hub.page_url(repo)}/discussions/{pr.num}"
        for pr in self._of(repo).values():
            if pr.base and pr.ref == ref:
                pr.add_event(author, "commit", subject=commit.title, oid=commit.sha)
        return JSONResponse(new)

    def _open_ref(self, call: FullCall, repo: FullRepo) -> None:
        """Let the call commit to a new pull request, from the parent that it states or a branch."""
        branch, header = call.params["rev"], json.loads(call.body.partition(b"\n")[0])["value"]
        if branch not in repo.branches:
            raise http_errors.revision_not_found(branch)
        base = repo.resolve(header.get("parentCommit") or branch)
        call.params["rev"] = repo.open_pull_request(base, call.writer.name)

    def list_all(self, call: FullCall) -> Response:
        """Return a page of discussions, newest first."""
        repo = call.visible_repo()
        newest_first = reversed(self._of(repo).values())
        matching = [item for item in newest_first if _matches_query(call, item)]
        start = call.query_int("p", 0) * _PAGE_SIZE
        page = [item.item(repo) for item in matching[start : start + _PAGE_SIZE]]
        return JSONResponse({"discussions": page, "count": len(matching), "start": start})

    def details(self, call: FullCall) -> Response:
        """Return a discussion with its events; for a pull request also the diff."""
        repo, discussion = self._locate(call)
        answer = {**discussion.item(repo), "events": discussion.events}
        if discussion.base:
            merge_commit = discussion.merge_commit
            answer["changes"] = {"base": "refs/heads/main", "mergeCommitId": merge_commit}
            answer["filesWithConflicts"] = [] if merge_commit else _conflicts(repo, discussion)
            if call.flag("diff"):
                base, head = repo.commits[discussion.base], repo.resolve(discussion.ref)
                answer["diff"] = _diff(call, base, head)
        return JSONResponse(answer)

    def create(self, call: FullCall) -> Response:
        """Open a discussion, or a draft pull request without commits."""
        repo, author = call.visible_repo(), call.writer.name
        title, text = str(call.json.get("title", "")), str(call.json.get("description", ""))
        if len(title.strip()) < 3:
            raise HTTPError(400, '"title" length must be at least 3 characters long')
        is_pr = bool(call.json.get("pullRequest"))
        if is_pr:
            repo.open_pull_request(repo.resolve("main"), author)
        else:
            repo.discussions += 1
        status, base = ("draft", repo.sha) if is_pr else ("open", None)
        new = Discussion(repo.discussions, title, author, status, base)
        new.add_comment(author, text)
        self._of(repo)[new.num] = new
        url = f"{call.hub.page_url(repo)}/discussions/{new.num}"
        return JSONResponse({"num": new.num, "url": url, "pullRequest": is_pr})

    def comment(self, call: FullCall) -> Response:
        """Add a comment."""
        _, discussion = self._locate(call)
        event = discussion.add_comment(call.writer.name, str(call.json.get("comment", "")))
        return JSONResponse({"newMessage": event})

    def edit_comment(self, call: FullCall) -> Response:
        """Replace the text of the caller's own comment."""
        _, discussion = self._locate(call)
        event = next((e for e in discussion.events if e["id"] == call.params["comment"]), None)
        if event is None or event["type"] != "comment":
            raise HTTPError(404, f"Comment {call.params['comment']} not found")
        if event["author"]["name"] != call.writer.name:
            raise HTTPError(403, "You are not allowed to edit this comment")
        text = str(call.json.get("content", ""))
        event["data"] |= {"edited": True, "latest": {"raw": text, "updatedAt": now()}}
        return JSONResponse({"updatedComment": event})

    def rename(self, call: FullCall) -> Response:
        """Change the title of a discussion."""
        discussion, author = self._locate_editable(call)
        old, discussion.title = discussion.title, str(call.json.get("title", ""))
        names = {"from": old, "to": discussion.title}
        return JSONResponse({"newTitle": discussion.add_event(author, "title-change", **names)})

    def set_status(self, call: FullCall) -> Response:
        """Open or close a discussion."""
        discussion, author = self._locate_editable(call)
        status = str(call.json.get("status", ""))
        if status not in ("open", "closed"):
            raise HTTPError(400, '"status" must be one of [open, closed]')
        if discussion.status == "merged":
            raise HTTPError(400, "The pull request is merged already")
        return JSONResponse({"newStatus": discussion.set_status(author, status)})

    def _locate_editable(self, call: FullCall) -> tuple[Discussion, str]:
        repo, discussion = self._locate(call)
        author = call.writer.name
        if not call.writer.owns(repo.namespace) and discussion.author != author:
            raise HTTPError(403, "You are not allowed to change this discussion")
        return discussion, author

    def merge(self, call: FullCall) -> Response:
        """Merge a pull request into ``main``; 409 if both changed the same file."""
        repo, pr = self._locate(call)
        call.writable_repo()
        author = call.writer.name
        if pr.base is None or pr.status in ("merged", "closed"):
            raise HTTPError(400, "Only an open pull request can be merged")
        conflicts = _conflicts(repo, pr)
        if conflicts:
            raise HTTPError(409, f"The pull request conflicts with main: {', '.join(conflicts)}")
        changes = differences(repo.tree_at(pr.base), repo.resolve(pr.ref).tree)
        title = f"{pr.title} (#{pr.num})"
        pr.merge_commit = call.hub.commit(repo, "main", changes, title=title, author=author).sha
        pr.set_status(author, "merged")
        return JSONResponse({"mergeCommitId": pr.merge_commit})


def _matches_query(call: FullCall, item: Discussion) -> bool:
    kind, status, author = call.query("type"), call.query("status"), call.query("author")
    return (
        (kind in ("", "all") or (kind == "pull_request") == (item.base is not None))
        and (status in ("", "all") or (status == "open") == (item.status in ("open", "draft")))
        and author in ("", item.author)
    )


def _conflicts(repo: FullRepo, pr: Discussion) -> list[str]:
    """Return the paths that a pull request and ``main`` changed differently."""
    base = repo.tree_at(pr.base)
    theirs = differences(base, repo.tree_at(repo.refs[pr.ref]))
    ours = differences(base, repo.tree_at(repo.sha))
    return sorted(p for p in theirs.keys() & ours.keys() if theirs[p] != ours[p])


def _diff(call: FullCall, before: Commit, after: Commit) -> str:
    lines = []
    for path in sorted(differences(before.tree, after.tree)):
        old, new = _lines(call, before, path), _lines(call, after, path)
        lines.append(f"diff --git a/{path} b/{path}")
        lines += difflib.unified_diff(old, new, f"a/{path}", f"b/{path}", lineterm="")
    return "\n".join(lines)


def _lines(call: FullCall, commit: Commit, path: str) -> list[str]:
    entry = commit.tree.get(path)
    if entry is None:
        return []
    if isinstance(entry, LfsEntry) or entry.size > _MAX_DIFF_SIZE:
        return lfs_pointer(entry.sha256, entry.size).decode().splitlines()
    return call.hub.blobs[entry.sha256].decode("utf-8", "replace").splitlines()
