"""The Space's endpoints: gradio_client, several users at once, load, MCP."""

import http.client
import json
import os
import re
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hf_lorameta.data.prompt import as_option
from hf_lorameta.demo.run import DATA_FOLDER
from tests.conftest import Account, Shell, Web, touched
from tests.support.caller import Caller
from tests.support.mcp import mcp
from tests.support.running_space import missing

if why := missing("gradio", "gradio_client"):
    pytest.skip(why, allow_module_level=True)

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

TRAIN = (DATA_FOLDER / "train.jsonl").read_bytes()
INTERNAL = re.compile(r"Traceback|/tmp/|site-packages|hf_[A-Za-z0-9]{8,}|--[a-z]")


def notes(count: int, first: int = 0) -> bytes:
    """Return lines of the guest book example."""
    return b"".join(TRAIN.splitlines(keepends=True)[first : first + count])


def read_zip(archive: str) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def client(web: Web, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Client]:
    """Connect once for each token and thread, since a client first asks what the Space offers."""
    downloads = str(tmp_path_factory.mktemp("got"))

    @cache
    def connect(token: str | None, thread: int) -> Client:
        return Client(web.space.url, oauth_token=token, verbose=False, download_files=downloads)

    return connect


@pytest.fixture
def call(client: Callable[..., Client]) -> Callable[..., Any]:
    """Call an endpoint, with a token or without."""

    def predict(endpoint: str, *, token: str | None = None, **arguments: Any) -> Any:
        return client(token, threading.get_ident()).predict(api_name=endpoint, **arguments)

    return predict


@pytest.fixture
def call_error(call: Callable[..., Any]) -> Callable[..., str]:
    """Call an endpoint that must fail, and return the code and the message, without secrets."""

    def predict(endpoint: str, *, token: str | None = None, **arguments: Any) -> str:
        with pytest.raises(AppError) as caught:
            call(endpoint, token=token, **arguments)
        message = str(caught.value)
        assert not INTERNAL.search(message), message
        assert not token or token not in message
        return f"{caught.value.title}: {message}"

    return predict


# --- the endpoints ------------------------------------------------------------------------------


def test_the_endpoints_are_documented(web: Web) -> None:
    api = Client(web.space.url, verbose=False).view_api(return_format="dict", print_info=False)
    assert isinstance(api, dict)
    named = api["named_endpoints"]
    assert set(named) == {"/plan", "/generate", "/predict"}
    for name, endpoint in named.items():
        assert endpoint["description"]
        assert endpoint["oauth_token"] == "optional"
        names = [p["parameter_name"] for p in endpoint["parameters"]]
        assert names[0] == ("adapter" if name == "/predict" else "dataset")
        assert all(p["parameter_has_default"] for p in endpoint["parameters"][1:])
        assert ("file" in names) == (name != "/predict")


def test_plan_returns_what_the_cli_prints(
    call: Callable[..., Any], cli: Shell, user: Account
) -> None:
    repo = user.dataset("book", {"train.jsonl": TRAIN})
    form = "Note: {prompt}\nMood:"
    result = call("/plan", dataset=repo, metric="kl", top_k=5, template=form)
    options = ("--metric", "kl", "--top-k", 5, "--template", as_option(form))
    printed = cli("plan", "-d", repo, *options, "--json").json
    assert printed.pop("next")  # about generate in a terminal
    assert result.pop("dataset_words") == ["default", "input", "output", "train"]
    assert result == printed


def test_an_uploaded_file_gives_the_bytes_that_the_cli_writes(
    call: Callable[..., Any], cli: Shell, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("q,a\nHow was it?,very kind\nAnd the room?,too cold\n")
    columns = "input=q,output=a"
    prompt = {"instruction": "Sum it up.", "template": "{instruction}\n\n{input}"}
    file = handle_file(path)
    archive, _ = call("/generate", dataset="", file=file, columns=columns, **prompt)
    options = [word for name, value in prompt.items() for word in (f"--{name}", value)]
    cli("generate", "-d", path, "--columns", columns, *options, "-o", tmp_path / "cli")
    assert read_zip(archive) == read_folder(tmp_path / "cli")


def test_generate_with_a_token_creates_the_repo_that_the_cli_creates(
    call: Callable[..., Any], cli: Shell, web: Web, user: Account
) -> None:
    repo = user.dataset("book", {"train.jsonl": notes(40)})
    target = f"{user.name}/mine"
    public = {"repo_id": target, "visibility": "public"}
    _, made = call("/generate", token=user.token, dataset=repo, **public)
    published = {"url": f"{cli.hub.url}/{target}", "repo_id": target, "private": False}
    assert made["published"] == published
    ours = {name: cli.hub.read(target, name) for name in cli.hub.files(target)}
    other = f"{user.name}/mine-too"
    cli("push", "-d", repo, "--repo-id", other, token=user.token)
    theirs = {name: cli.hub.read(other, name) for name in ours}
    ours["README.md"] = ours["README.md"].replace(b"mine", b"mine-too")
    assert ours == theirs | {".gitattributes": ours.get(".gitattributes")} or ours == theirs
    assert web.space.settled() == []


def test_a_repo_is_private_unless_asked_otherwise_and_named_after_the_dataset(
    call: Callable[..., Any], call_error: Callable[..., str], cli: Shell, user: Account
) -> None:
    repo = user.dataset("secret", {"train.jsonl": notes(30)}, private=True)
    for dataset in (repo, user.dataset("known", {"train.jsonl": notes(30)})):
        _, made = call("/generate", token=user.token, dataset=dataset)
        assert made["published"]["private"] is True
        name = made["published"]["repo_id"]
        assert name.startswith(f"{dataset}-")
        view = cli.hub.repo(name)
        assert view is not None
        assert view.private
        assert b"secret" not in cli.hub.read(name, "recipe.json")
    public = {"token": user.token, "dataset": repo, "visibility": "public"}
    assert "repo.name-reveals-dataset" in call_error("/generate", **public)
    cli.hub.clear_requests()
    _, made = call("/generate", token=user.token, dataset=repo, publish="never")
    assert not {"published", "not_published"} & set(made)
    assert not touched(cli.hub, "api/repos/create")


def test_the_card_of_a_private_dataset_does_not_stay_on_the_machine(
    web: Web, call: Callable[..., Any], user: Account
) -> None:
    card = b"---\nlicense: mit\n---\nnobody else may read this sentence\n"
    files = {"README.md": card, "train.jsonl": notes(30)}
    repo = user.dataset("carded", files, private=True)
    assert call("/plan", token=user.token, dataset=repo)["dataset"]["rows"] == 30
    stored = [path for path in web.space.log.parent.rglob("*") if path.is_file()]
    assert [path for path in stored if b"this sentence" in path.read_bytes()] == []
    assert list(web.space.log.parent.rglob("*carded*")) == []
    assert web.space.settled() == []


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../../etc/passwd", "file:///etc/passwd", "a/b/c", "plain", "space/app.py/x",
        "https://example.com/x/y", "user/rows.csv", "user/../x", "a\nb/c", "", "-x/y",
        "u/" + "a" * 99,
    ],
)  # fmt: skip
def test_names_that_are_not_hub_ids_are_rejected_without_a_request(
    call_error: Callable[..., str], cli: Shell, name: str
) -> None:
    cli.hub.clear_requests()
    message = call_error("/plan", dataset=name)
    assert re.search("^(repo.invalid-id|page.is-a-file|dataset.unnamed): ", message)
    assert not [r for r in cli.hub.requests if "datasets" in r.path]


def test_errors_state_cause_and_remedy(
    call_error: Callable[..., str], user: Account, enrol: Callable[[], Account], tmp_path: Path
) -> None:
    repo = user.dataset("book", {"train.jsonl": notes(30)})
    secret = user.dataset("secret", {"train.jsonl": notes(30)}, private=True)
    odd = user.dataset("odd", {"train.jsonl": b'{"left": "a", "right": "b"}\n'})
    other = enrol()
    assert "repo.not-found" in call_error("/plan", dataset=secret)
    assert "repo.not-found" in call_error("/plan", dataset=secret, token=other.token)
    message = call_error("/plan", dataset=odd)
    assert "all columns: left, right" in message
    assert 'To go on, add columns="input=' in message
    assert "recipe.invalid" in call_error("/plan", dataset=repo, rank=100_000)
    assert "template.invalid" in call_error("/plan", dataset=repo, template="Say it.")
    wide = tmp_path / "wide.json"
    wide.write_text(json.dumps({f"key {i}": "a" for i in range(20_000)}))
    assert "dataset.too-large" in call_error("/plan", dataset="", file=handle_file(wide))
    theirs = f"{user.name}/x"
    for asked in ({"repo_id": theirs}, {"visibility": "public"}, {"overwrite": True}):
        assert "page.needs-account" in call_error("/generate", dataset=repo, **asked)
    assert "the sign-in has expired" in call_error("/generate", dataset=repo, token="hf_wrong")
    message = call_error("/generate", dataset=repo, token=other.token, repo_id=theirs)
    assert "may not" in message


def test_an_existing_adapter_is_replaced_only_with_overwrite(
    call: Callable[..., Any], call_error: Callable[..., str], cli: Shell, user: Account
) -> None:
    repo = user.dataset("book", {"train.jsonl": notes(30)})
    target = f"{user.name}/existing"
    call("/generate", token=user.token, dataset=repo, repo_id=target)
    before = cli.hub.repo(target)
    again = {"token": user.token, "dataset": repo, "repo_id": target}
    assert "add overwrite=True" in call_error("/generate", **again)
    assert cli.hub.repo(target) == before
    call("/generate", **again, instruction="Say how it was.", overwrite=True)
    assert cli.hub.repo(target) != before


def test_a_signed_out_visitor_does_not_act_with_the_machines_token(
    call_error: Callable[..., str], web: Web, cli: Shell
) -> None:
    secret = web.owner.dataset("own-secret", {"train.jsonl": notes(30)}, private=True)
    assert "repo.not-found" in call_error("/plan", dataset=secret)
    assert web.owner.token not in web.space.log.read_text()


# --- many at once -------------------------------------------------------------------------------


def test_two_users_at_once_do_not_see_each_others_data(
    call: Callable[..., Any], cli: Shell, enrol: Callable[[], Account]
) -> None:
    users = [enrol(), enrol()]
    datasets = [
        user.dataset("diary", {"train.jsonl": notes(40, 40 * i)}, private=True)
        for i, user in enumerate(users)
    ]

    def work(i: int) -> tuple[dict[str, Any], dict[str, Any]]:
        token = users[i].token
        plan = call("/plan", token=token, dataset=datasets[i])
        return plan, call("/generate", token=token, dataset=datasets[i])[1]["published"]

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(work, range(2)))
    for i, (plan, pushed) in enumerate(results):
        assert plan["dataset"]["id"] == datasets[i]
        assert pushed["repo_id"].startswith(f"{users[i].name}/")
        coefficients = json.loads(cli.hub.read(pushed["repo_id"], "coefficients.json"))
        assert coefficients == plan["neighbors"]
    assert results[0][0]["neighbors"] != results[1][0]["neighbors"]


@pytest.mark.parametrize(
    ("path", "inputs", "status", "expected"),
    [
        ("/call/v2/plan", {"datset": "a/b"}, 400, "dataset"),
        ("/call/v2/plans", {"dataset": "a/b"}, 404, "/plan"),
        ("/call/plan/ended", None, 404, "again"),
    ],
)
def test_a_call_that_names_what_does_not_exist_is_told_what_does(
    web: Web, path: str, inputs: dict[str, str] | None, status: int, expected: str
) -> None:
    body = None if inputs is None else json.dumps(inputs).encode()
    with pytest.raises(urllib.error.HTTPError) as caught:
        Caller(web.space, "203.0.113.77").send(f"/gradio_api{path}", body)
    assert caught.value.code == status
    assert expected in json.load(caught.value)["detail"]


def test_an_answer_has_one_reader_and_upgrades_hardly_fill_the_log(web: Web, user: Account) -> None:
    caller = Caller(web.space, "203.0.113.78")
    body = json.dumps({"dataset": user.dataset("book", {"train.jsonl": notes(30)})}).encode()
    event = json.load(caller.send("/gradio_api/call/v2/plan", body))["event_id"]
    with caller.send(f"/gradio_api/call/plan/{event}") as stream:
        assert caller.status(f"/gradio_api/call/plan/{event}") == 409
        assert b"event: complete" in stream.read()
    assert caller.status(f"/gradio_api/call/plan/{event}") in (404, 409)
    before = web.space.log.stat().st_size
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "a" * 22 + "=="
    for _ in range(40):
        connection = http.client.HTTPConnection(urlsplit(web.space.url).netloc, timeout=60)
        connection.request("GET", "/", headers=upgrade)
        connection.getresponse()
        connection.close()
    assert web.space.log.stat().st_size - before < 1000


# --- MCP and privacy ----------------------------------------------------------------------------


def test_the_endpoints_are_mcp_tools_and_answer_json(
    web: Web, call: Callable[..., Any], user: Account, tmp_path: Path
) -> None:
    send = partial(mcp, web.space.url)
    tools = send("tools/list")["tools"]
    assert [tool["name"] for tool in tools] == ["plan", "generate", "predict"]
    assert "changes nothing" in tools[0]["description"]
    assert "right answers" in tools[1]["description"]
    for tool, other in zip(tools[:2], ("rank", "repo_id"), strict=True):
        parameters = tool["inputSchema"]["properties"]
        assert {"dataset", "columns", "instruction", "template", other} <= parameters.keys()
    for tool in tools:
        parameters = tool["inputSchema"]["properties"]
        assert all(parameter["description"] for parameter in parameters.values())
    repo = user.dataset("book", {"train.jsonl": notes(30)})
    result = send("tools/call", name="plan", arguments={"dataset": repo})
    assert json.loads(result["content"][0]["text"]) == call("/plan", dataset=repo)
    result = send("tools/call", name="generate", arguments={"dataset": repo})
    address, made = (part["text"] for part in result["content"])
    with urllib.request.urlopen(address, timeout=60) as answer:
        (tmp_path / "made.zip").write_bytes(answer.read())
    archive, expected = call("/generate", dataset=repo)
    assert read_zip(str(tmp_path / "made.zip")) == read_zip(archive)
    assert json.loads(made)["verdict"] == expected["verdict"]
    result = send("tools/call", name="push", arguments={"dataset": "a/b"})
    assert result["isError"]
    assert "Unknown tool" in result["content"][0]["text"]
    stored = set((web.space.log.parent / "gradio").rglob("*"))
    file = "data:text/csv;base64,aW5wdXQsb3V0cHV0CmEsYgo="
    result = send("tools/call", name="plan", arguments={"dataset": "", "file": file})
    assert result["isError"]
    assert "send no files" in result["content"][0]["text"]
    assert set((web.space.log.parent / "gradio").rglob("*")) == stored


def test_the_page_sends_no_analytics_and_contacts_no_other_host(web: Web) -> None:
    with urllib.request.urlopen(web.space.url, timeout=30) as answer:
        policy = answer.headers["Content-Security-Policy"]
        page = answer.read().decode()
    assert "default-src 'self'" in policy
    assert not re.findall(r"(?:src|href)=\"?(https?://[^\">\s]+)", page)
    environment = Path(f"/proc/{web.space.process.pid}/environ").read_bytes()
    assert b"GRADIO_ANALYTICS_ENABLED" not in environment, "the app itself has to turn them off"
    assert os.environ.get("GRADIO_ANALYTICS_ENABLED") is None
