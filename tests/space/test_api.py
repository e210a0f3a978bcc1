"""The Space for programs: gradio_client, several users at once, load, MCP."""

import json
import os
import re
import urllib.request
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta.demo.run import DATA_FOLDER
from tests.conftest import Account, Shell, Web
from tests.running_space import missing

if why := missing("gradio", "gradio_client"):
    pytest.skip(why, allow_module_level=True)

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

TRAIN = (DATA_FOLDER / "train.jsonl").read_bytes()
OUTGOING = re.compile(r"Traceback|/tmp/|site-packages|hf_[A-Za-z0-9]{8,}|--[a-z]")


def notes(count: int, first: int = 0) -> bytes:
    """Some lines of the guest book."""
    return b"".join(TRAIN.splitlines(keepends=True)[first : first + count])


def unpacked(archive: str) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def call(web: Web, tmp_path: Path) -> Callable[..., Any]:
    """One call to an endpoint, with a token or none."""

    def ask(endpoint: str, *, token: str | None = None, **arguments: Any) -> Any:
        client = Client(
            web.space.url, oauth_token=token, verbose=False, download_files=str(tmp_path / "got")
        )
        return client.predict(api_name=endpoint, **arguments)

    return ask


@pytest.fixture
def refused(call: Callable[..., Any]) -> Callable[..., str]:
    """What the Space says when it refuses; it must be a sentence without secrets."""

    def ask(endpoint: str, *, token: str | None = None, **arguments: Any) -> str:
        with pytest.raises(AppError) as caught:
            call(endpoint, token=token, **arguments)
        told = str(caught.value)
        assert not OUTGOING.search(told), told
        assert not token or token not in told
        return told

    return ask


# --- the endpoints ------------------------------------------------------------------------------


def test_three_endpoints_and_each_documented(web: Web) -> None:
    told = Client(web.space.url, verbose=False).view_api(return_format="dict", print_info=False)
    assert isinstance(told, dict)
    named = told["named_endpoints"]
    assert set(named) == {"/plan", "/generate", "/push"}
    for endpoint in named.values():
        assert endpoint["description"]
        assert endpoint["oauth_token"] == "optional"
        names = [p["parameter_name"] for p in endpoint["parameters"]]
        assert names[:2] == ["dataset", "file"]
        assert all(p["parameter_has_default"] for p in endpoint["parameters"][1:])


def test_plan_is_the_command_lines(call: Callable[..., Any], cli: Shell, user: Account) -> None:
    repo = user.dataset("book", {"train.jsonl": TRAIN})
    told = call("/plan", dataset=repo, metric="kl", top_k=5)
    assert told == cli("plan", "-d", repo, "--metric", "kl", "--top-k", 5, "--json").json


def test_generate_is_the_command_lines_byte_for_byte(
    call: Callable[..., Any], cli: Shell, web: Web, user: Account, tmp_path: Path
) -> None:
    repo = user.dataset("book", {"train.jsonl": TRAIN})
    archive, told = call("/generate", dataset=repo)
    cli("generate", "-d", repo, "-o", tmp_path / "cli")
    assert unpacked(archive) == read(tmp_path / "cli")
    assert told["plan"]["dataset"]["id"] == repo
    assert web.space.settled() == []


def test_an_uploaded_file_is_the_command_lines(
    call: Callable[..., Any], cli: Shell, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("q,a\nHow was it?,very kind\nAnd the room?,too cold\n")
    columns = "input=q,output=a"
    archive, _ = call("/generate", dataset="", file=handle_file(path), columns=columns)
    cli("generate", "-d", path, "--columns", columns, "-o", tmp_path / "cli")
    assert unpacked(archive) == read(tmp_path / "cli")


def test_push_makes_the_repo_the_command_line_would(
    call: Callable[..., Any], cli: Shell, web: Web, user: Account
) -> None:
    repo = user.dataset("book", {"train.jsonl": notes(40)})
    target = f"{user.name}/mine"
    made = call("/push", token=user.token, dataset=repo, repo_id=target)
    assert made["url"] == f"{cli.hub.url}/{target}"
    assert made["private"] is False
    ours = {name: cli.hub.read(target, name) for name in cli.hub.files(target)}
    other = f"{user.name}/mine-too"
    cli("push", "-d", repo, "--repo-id", other, token=user.token)
    theirs = {name: cli.hub.read(other, name) for name in ours}
    ours["README.md"] = ours["README.md"].replace(b"mine", b"mine-too")
    assert ours == theirs | {".gitattributes": ours.get(".gitattributes")} or ours == theirs
    assert web.space.settled() == []


def test_a_private_dataset_makes_a_private_repo_named_after_it(
    call: Callable[..., Any], refused: Callable[..., str], cli: Shell, user: Account
) -> None:
    repo = user.dataset("secret", {"train.jsonl": notes(30)}, private=True)
    made = call("/push", token=user.token, dataset=repo)
    assert made["private"] is True
    view = cli.hub.repo(made["repo_id"])
    assert view is not None
    assert view.private
    assert b"secret" not in cli.hub.read(made["repo_id"], "recipe.json")
    told = refused("/push", token=user.token, dataset=repo, visibility="public")
    assert "would give its name away" in told


# --- http_errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../../etc/passwd", "file:///etc/passwd", "a/b/c", "plain", "space/app.py/x",
        "https://example.com/x/y", "user/rows.csv", "user/../x", "a\nb/c", "", "-x/y",
        "u/" + "a" * 99,
    ],
)  # fmt: skip
def test_only_hub_ids_are_ids(refused: Callable[..., str], cli: Shell, name: str) -> None:
    cli.hub.clear_requests()
    told = refused("/plan", dataset=name)
    assert re.search("not a dataset id|upload it instead|No dataset was named", told)
    assert not [r for r in cli.hub.requests if "datasets" in r.path]


def test_refusals_say_what_to_do(
    refused: Callable[..., str], user: Account, enrol: Callable[[], Account]
) -> None:
    repo = user.dataset("book", {"train.jsonl": notes(30)})
    secret = user.dataset("secret", {"train.jsonl": notes(30)}, private=True)
    odd = user.dataset("odd", {"train.jsonl": b'{"left": "a", "right": "b"}\n'})
    stranger = enrol()
    assert "was not found" in refused("/plan", dataset=secret)
    assert "was not found" in refused("/plan", dataset=secret, token=stranger.token)
    assert "all columns: left, right" in refused("/plan", dataset=odd)
    assert "rank" in refused("/plan", dataset=repo, rank=100_000)
    assert "Publishing needs an account" in refused("/push", dataset=repo)
    assert "Sign in again" in refused("/push", dataset=repo, token="hf_wrong")
    theirs = f"{user.name}/x"
    told = refused("/push", dataset=repo, token=stranger.token, repo_id=theirs)
    assert "may not" in told


def test_an_existing_adapter_is_replaced_only_when_asked(
    call: Callable[..., Any], refused: Callable[..., str], cli: Shell, user: Account
) -> None:
    repo = user.dataset("book", {"train.jsonl": notes(30)})
    target = f"{user.name}/kept"
    call("/push", token=user.token, dataset=repo, repo_id=target)
    before = cli.hub.repo(target)
    assert "already holds" in refused("/push", token=user.token, dataset=repo, repo_id=target)
    assert cli.hub.repo(target) == before
    call("/push", token=user.token, dataset=repo, repo_id=target, top_k=2, overwrite=True)
    assert cli.hub.repo(target) != before


def test_the_machines_own_token_is_nobody_elses(
    refused: Callable[..., str], web: Web, cli: Shell
) -> None:
    """Signed out, and with another's token, the owner's private data stays out of reach."""
    secret = web.owner.dataset("own-secret", {"train.jsonl": notes(30)}, private=True)
    assert "was not found" in refused("/plan", dataset=secret)
    assert web.owner.token not in web.space.log.read_text()


# --- many at once -------------------------------------------------------------------------------


def test_two_users_at_once_never_meet(
    call: Callable[..., Any], cli: Shell, enrol: Callable[[], Account]
) -> None:
    people = [enrol(), enrol()]
    sets = [
        who.dataset("diary", {"train.jsonl": notes(40, 40 * i)}, private=True)
        for i, who in enumerate(people)
    ]

    def work(i: int) -> tuple[dict[str, Any], dict[str, Any]]:
        token = people[i].token
        planned = call("/plan", token=token, dataset=sets[i])
        return planned, call("/push", token=token, dataset=sets[i])

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(work, range(2)))
    for i, (planned, made) in enumerate(results):
        assert planned["dataset"]["id"] == sets[i]
        assert made["repo_id"].startswith(f"{people[i].name}/")
        coefficients = json.loads(cli.hub.read(made["repo_id"], "coefficients.json"))
        assert coefficients == planned["neighbors"]
    assert results[0][0]["neighbors"] != results[1][0]["neighbors"]


@pytest.mark.slow
def test_twenty_plans_and_four_generations_at_once(
    call: Callable[..., Any], cli: Shell, web: Web, user: Account, tmp_path: Path
) -> None:
    repos = [user.dataset(f"d{i}", {"train.jsonl": notes(45, 45 * i)}) for i in range(4)]
    before = web.space.memory()
    with ThreadPoolExecutor(24) as pool:
        plans = [pool.submit(call, "/plan", dataset=repos[i % 4]) for i in range(20)]
        made = [pool.submit(call, "/generate", dataset=repo) for repo in repos]
        planned = [future.result() for future in plans]
        archives = [future.result()[0] for future in made]
    assert web.space.memory() - before < 700e6
    for i, repo in enumerate(repos):
        cli("generate", "-d", repo, "-o", tmp_path / f"cli{i}")
        assert unpacked(archives[i]) == read(tmp_path / f"cli{i}")
        alike = [p for p in planned if p["dataset"]["id"] == repo]
        assert len(alike) == 5
        assert all(p == alike[0] for p in alike)
    assert web.space.settled() == []


# --- models as callers --------------------------------------------------------------------------


@pytest.mark.skipif(bool(missing("mcp")), reason=missing("mcp"))
def test_the_one_tool_for_models_changes_nothing(web: Web) -> None:
    def ask(method: str, **params: Any) -> dict[str, Any]:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        request = urllib.request.Request(
            f"{web.space.url}/gradio_api/mcp/",
            json.dumps(body).encode(),
            {"Content-Type": "application/json",
             "Accept": "application/json, text/event-stream"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read().decode()
        line = next(line for line in text.splitlines() if line.startswith("data: "))
        return dict(json.loads(line.removeprefix("data: "))["result"])

    tools = ask("tools/list")["tools"]
    assert [tool["name"] for tool in tools] == ["plan"]
    assert "changes nothing" in tools[0]["description"]
    refused = ask("tools/call", name="push", arguments={"dataset": "a/b"})
    assert refused["isError"]
    assert "Unknown tool" in refused["content"][0]["text"]


def test_nothing_is_told_to_anybody(web: Web) -> None:
    """No analytics, and a policy that forbids the page to ask others."""
    with urllib.request.urlopen(web.space.url, timeout=30) as answer:
        policy = answer.headers["Content-Security-Policy"]
        page = answer.read().decode()
    assert "default-src 'self'" in policy
    assert not re.findall(r"(?:src|href)=\"?(https?://[^\">\s]+)", page)
    environment = Path(f"/proc/{web.space.process.pid}/environ").read_bytes()
    assert b"GRADIO_ANALYTICS_ENABLED" not in environment, "the app itself has to turn them off"
    assert os.environ.get("GRADIO_ANALYTICS_ENABLED") is None
