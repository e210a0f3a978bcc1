"""Answers of the endpoint /predict: those of the library, for whoever may read the adapter."""

import csv
import gc
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_lorameta import predict
from hf_lorameta.pipeline.session import Session
from tests.conftest import Web
from tests.space.test_api import INTERNAL
from tests.support.codes import raises_code
from tests.support.mcp import mcp
from tests.support.running_space import missing
from tests.support.tiny_bank import tiny_bank
from tests.training import tiny

if why := missing("gradio", "gradio_client", "torch", "transformers", "peft"):
    pytest.skip(why, allow_module_level=True)

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from work import predicting
from work.jobs import Job
from work.predicting import ADAPTER_BYTES, Answered, KeptAdapters
from work.trying import Model

INPUTS = [row["input"] for row in tiny.labeled(12)]
LABELS = {row["output"] for row in tiny.labeled()}


@pytest.fixture(scope="module")
def client(tiny_space: Web, tmp_path_factory: pytest.TempPathFactory) -> Client:
    downloads = str(tmp_path_factory.mktemp("got"))
    return Client(tiny_space.space.url, verbose=False, download_files=downloads)


@pytest.fixture(scope="module")
def made(client: Client, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The key of an adapter that knows two labels, and the folder of its zip."""
    folder = tmp_path_factory.mktemp("made")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(f"{json.dumps(row)}\n" for row in tiny.labeled()))
    archive, result = client.predict(dataset="", file=handle_file(rows), api_name="/generate")
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder / "adapter")
    return result["adapter"], folder / "adapter"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def refused(client: Client) -> Callable[..., str]:
    def call(**inputs: Any) -> str:
        with pytest.raises(AppError) as caught:
            client.predict(api_name="/predict", **inputs)
        assert not INTERNAL.search(str(caught.value)), (inputs, str(caught.value))
        return str(caught.value.title)

    return call


@pytest.mark.parametrize("of_columns", [False, True], ids=["texts", "rows"])
def test_labels_are_chosen_with_the_probabilities_of_the_library(
    client: Client, made: tuple[str, Path], of_columns: bool
) -> None:
    key, folder = made
    inputs = [{"input": text} for text in INPUTS] if of_columns else INPUTS
    result = client.predict(adapter=key, inputs=inputs, api_name="/predict")
    expected = predict(folder, INPUTS)
    assert [one["answer"] for one in result["answers"]] == [one.answer for one in expected]
    assert {one["answer"] for one in result["answers"]} <= LABELS
    probabilities = [one["probability"] for one in result["answers"]]
    of_library = [one.probability for one in expected]  # whose products may be in 8 bits
    assert probabilities == pytest.approx(of_library, abs=0.1)
    assert result["labels"] == 2
    assert 0 < result["counted_answered"] == result["counted"]
    least = sorted(probabilities)[len(probabilities) // 2]
    sure = client.predict(adapter=key, inputs=inputs, sure=least, api_name="/predict")
    for one, before in zip(sure["answers"], result["answers"], strict=True):
        assert one["answer"] == (before["answer"] if before["probability"] >= least else "")
    assert sure["counted_right"] <= sure["counted_answered"] <= sure["counted"]


def test_an_adapter_on_the_hub_answers_those_who_may_read_it(
    client: Client, made: tuple[str, Path], refused: Callable[..., str], tiny_space: Web
) -> None:
    (key, folder), owner = made, tiny_space.owner
    owner.adapter("open", files_of(folder))
    owner.hub.create_repo(f"{owner.name}/closed", private=True)
    owner.hub.commit(f"{owner.name}/closed", files_of(folder))
    same = client.predict(adapter=key, inputs=INPUTS[:3], api_name="/predict")
    of_hub = client.predict(adapter=f"{owner.name}/open", inputs=INPUTS[:3], api_name="/predict")
    assert of_hub == same
    assert refused(adapter=f"{owner.name}/closed", inputs=["say a"]) == "repo.not-found"
    with_token = Client(tiny_space.space.url, oauth_token=owner.token, verbose=False)
    private = {"adapter": f"{owner.name}/closed", "inputs": INPUTS[:3], "api_name": "/predict"}
    assert with_token.predict(**private) == same
    assert tiny_space.space.settled() == []


def test_what_cannot_be_answered_is_refused_with_its_reason(
    made: tuple[str, Path], refused: Callable[..., str], tiny_space: Web
) -> None:
    (key, folder), owner = made, tiny_space.owner
    assert refused(adapter="", inputs=["a"]) == "predict.no-adapter"
    assert refused(adapter=f"{key}x", inputs=["a"]) == "predict.no-adapter"
    assert refused(adapter="/etc/passwd", inputs=["a"]) == "predict.no-adapter"
    assert refused(adapter=str(folder), inputs=["a"]) == "predict.no-adapter"
    for inputs in ([], 7, ["a", {"input": "b"}], [["a"]]):
        assert refused(adapter=key, inputs=inputs) == "predict.no-inputs"
    assert refused(adapter=key, inputs=["a"] * 101) == "predict.too-many-inputs"
    assert refused(adapter=key, inputs=["a"], sure=2) == "predict.no-probability"
    assert refused(adapter=key, inputs=[{"other": "a", "more": "b"}]).startswith("columns.")
    assert refused(adapter=f"{owner.name}/none", inputs=["a"]) == "repo.not-found"
    files = files_of(folder)
    config = json.loads(files["adapter_config.json"])
    config = json.dumps(config | {"base_model_name_or_path": "org/other"}).encode()
    other = owner.adapter("other", files | {"adapter_config.json": config})
    assert refused(adapter=other, inputs=["a"]) == "predict.other-base"
    pickled = owner.adapter("pickled", {"adapter_config.json": b"{}", "adapter_model.bin": b"p"})
    assert refused(adapter=pickled, inputs=["a"]) == "adapter.incomplete"
    broken = owner.adapter("broken", files | {"adapter_model.safetensors": b"b" * 64})
    assert refused(adapter=broken, inputs=["a"]).startswith("safetensors.")
    dora = config.replace(b"org/other", str(tiny_bank().index.base_model).encode())
    dora = json.dumps(json.loads(dora) | {"use_dora": True}).encode()
    odd = owner.adapter("odd", files | {"adapter_config.json": dora})
    assert refused(adapter=odd, inputs=["a"]).startswith("adapter.")
    assert tiny_space.space.settled() == []


def test_agents_answer_with_what_they_made(tiny_space: Web, made: tuple[str, Path]) -> None:
    arguments = {"adapter": made[0], "inputs": INPUTS[:2]}
    result = mcp(tiny_space.space.url, "tools/call", name="predict", arguments=arguments)
    [content] = result["content"]
    answers = json.loads(content["text"])["answers"]
    assert {one["answer"] for one in answers} <= LABELS


def answered_here(
    rows: str | Path, folder: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> tuple[Answered, list[int]]:
    """Return what a page gets, and how many answers it showed each time."""
    monkeypatch.setattr(predicting, "read", lambda job, function, *given: function(*given))
    found, seen = list[Answered](), list[int]()

    def show(answered: Answered) -> None:
        found.append(answered)
        seen.append(len(answered.found))

    with Session(tiny_bank(), token=False) as session:
        adapter: Any = SimpleNamespace(folder=folder)
        predicting.answer_rows(adapter, rows, 0.0, Model(session), job, show)
    assert len({id(one) for one in found}) == 1
    return found[0], seen


@pytest.mark.parametrize(("limit", "shown"), [(300.0, [16, 32, 40, 40]), (29.0, [16, 16])])
def test_what_there_was_time_for_is_kept(
    limit: float, shown: list[int], made: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [row["input"] for row in tiny.labeled(40)]
    answered, seen = answered_here("\n".join(inputs), made[1], Job(limit, "model"), monkeypatch)
    assert seen == shown
    assert (answered.total, answered.more) == (40, False)
    file = answered.file
    assert file is not None
    with file.open(newline="") as opened:
        written = list(csv.DictReader(opened))
    assert [row["input"] for row in written] == inputs[: shown[-1]]
    assert [row["answer"] for row in written] == [one.answer for one in answered.found]
    del answered
    gc.collect()
    assert not file.parent.exists()


def test_rows_that_take_much_memory_are_left_for_another_call(
    made: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "_CHARACTERS", 300)
    lines = "\n".join("x" * 90 for _ in range(5))
    answered, _ = answered_here(lines, made[1], Job(300.0, "model"), monkeypatch)
    assert (answered.total, answered.more) == (2, True)
    assert len(answered.found) == 2


def test_other_types_of_files_are_not_read(
    made: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "rows.arrow"
    path.write_text("x")
    with raises_code("file.unknown-ending"):
        answered_here(path, made[1], Job(300.0, "model"), monkeypatch)


def test_a_large_adapter_is_not_fetched(tmp_path: Path) -> None:
    blobs = {"adapter_model.safetensors": SimpleNamespace(size=ADAPTER_BYTES + 1)}
    hub: Any = SimpleNamespace(resolve=lambda *_, **__: SimpleNamespace(blobs=blobs))
    with raises_code("predict.adapter-too-large"):
        predicting._fetch("user/large", hub, tmp_path / "adapter")


def test_an_adapter_is_kept_for_its_time_and_then_deleted(tmp_path: Path) -> None:
    kept = KeptAdapters(seconds=0.3)
    keys = []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        made: Any = SimpleNamespace(folder=folder)
        keys.append(kept.keep(made))
    folders = [kept.folder(key) for key in keys]
    assert all(folder and folder.is_dir() for folder in folders)
    assert kept.folder(keys[0][:-1]) is None
    deadline = time.monotonic() + 30
    while any(folder.parent.exists() for folder in folders if folder):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [kept.folder(key) for key in keys] == [None, None]
