"""``export``, ``try``, ``--export gguf`` and ``--engine llama.cpp`` as commands."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hf_lorameta.cli import engines as engines_module
from hf_lorameta.cli.engines import validate_engine
from hf_lorameta.cli.options import Request
from hf_lorameta.environment import install_hint
from hf_lorameta.formats.gguf_metadata import read_metadata
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, AdapterFile
from hf_lorameta.pipeline.adapter_folder import EXPORTS, FILES
from tests.conftest import BASE, Account, Built, Shell, adapter_files, tree
from tests.engine_fixtures import needs_engine
from tests.engines.test_llama_runner import base_header

gguf = pytest.importorskip("gguf")
DEMO = Path(__file__).parents[2] / "hf_lorameta" / "demo" / "data"


def save(folder: Path, **settings: object) -> Path:
    folder.mkdir()
    for name, content in adapter_files(**settings).items():  # type: ignore[arg-type]
        (folder / name).write_bytes(content)
    return folder


# --- export -------------------------------------------------------------------------------------


def test_export_of_any_peft_adapter(cli: Shell, tmp_path: Path, user: Account) -> None:
    folder = save(tmp_path / "a")
    said = cli("export", folder, "-o", "a.gguf")
    assert said.out == "a.gguf\n"
    assert "llama-server -m base.gguf --lora a.gguf" in said.err
    found = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    weights = AdapterFile(folder / WEIGHTS_FILE)
    lora_a = weights.tensor("model.layers.1.self_attn.v_proj", "A")
    assert (found["blk.1.attn_v.weight.lora_a"] == lora_a.astype("float16")).all()
    repo = user.adapter("lora")  # the same from a repo, with its base's config.json from the Hub
    cli("export", repo, "-o", "b.gguf", "--dtype", "f32", "--json")
    assert read_metadata(tmp_path / "b.gguf")["general.file_type"] == 0


def test_export_says_what_it_cannot_do(cli: Shell, tmp_path: Path, user: Account) -> None:
    folder = save(tmp_path / "a")
    (tmp_path / "a.gguf").write_bytes(b"mine")
    assert "exists already" in cli("export", folder, "-o", "a.gguf", code=2).err
    assert (tmp_path / "a.gguf").read_bytes() == b"mine"
    cli("export", folder, "-o", "a.gguf", "--overwrite")
    bloom = f"{user.name}/bloom"
    cli.hub.create_repo(bloom)
    assert (
        "has no config.json" in cli("export", folder, "-o", "b.gguf", "--base", bloom, code=6).err
    )
    cli.hub.commit(bloom, {"config.json": b'{"model_type": "bloom"}'})
    refused = cli("export", folder, "-o", "b.gguf", "--base", bloom, code=2).err
    assert "llama, mistral, qwen2, gemma2" in refused
    assert not (tmp_path / "b.gguf").exists()


# --- generate and push --------------------------------------------------------------------------


def test_generate_adds_what_llama_cpp_and_ollama_need(
    cli: Shell, bank: Built, data: Path, tmp_path: Path
) -> None:
    asked = ("generate", "-d", data, "--bank", bank.folder, "--export", "gguf")
    cli(*asked, "-o", "a")
    assert set(tree(tmp_path / "a")) == {*FILES, *EXPORTS}
    cli(*asked, "-o", "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    modelfile = (tmp_path / "a" / "Modelfile").read_text()
    assert f"# base.gguf is a GGUF of {BASE}" in modelfile
    assert "ADAPTER ./adapter.gguf" in modelfile
    card = (tmp_path / "a" / "README.md").read_text()
    for line in ("llama-server -m base.gguf --lora adapter.gguf", "ollama create", "xllamacpp"):
        assert line in card
    cli("generate", "-d", data, "--bank", bank.folder, "-o", "a", "--overwrite")
    assert set(tree(tmp_path / "a")) == set(FILES)
    assert "llama-server" not in (tmp_path / "a" / "README.md").read_text()


def test_push_puts_them_into_the_same_commit_and_takes_stale_ones_away(
    cli: Shell, bank: Built, user: Account, data: Path
) -> None:
    repo = f"{user.name}/adapter"
    asked = ("push", "-d", data, "--bank", bank.folder, "--repo-id", repo, "--public")
    before = {"mine.txt": b"mine", "Modelfile": b"FROM my-own"}
    cli.hub.create_repo(repo)
    cli.hub.commit(repo, dict(before))
    cli(*asked, "--yes", token=user.token)  # a Modelfile without a GGUF is not ours
    assert cli.hub.read(repo, "Modelfile") == b"FROM my-own"
    count = len(cli.hub.commits(repo))
    cli(*asked, "--yes", "--export", "gguf", token=user.token)
    assert len(cli.hub.commits(repo)) == count + 1
    assert {*FILES, *EXPORTS, "mine.txt"} <= set(cli.hub.files(repo))
    assert f"hf download {repo} --local-dir adapter" in cli.hub.read(repo, "README.md").decode()
    refused = cli(*asked, "--rank", 1, token=user.token, code=6).err
    assert "adapter.gguf" in refused
    done = cli(*asked, "--rank", 1, "--yes", "--json", token=user.token)
    assert done.json["deleted"] == list(EXPORTS)
    assert "Files of the replaced adapter that are deleted" in done.err
    assert not set(EXPORTS) & set(cli.hub.files(repo))
    assert "mine.txt" in cli.hub.files(repo)
    assert len(cli.hub.commits(repo)) == count + 2


def test_an_adapter_is_fetched_without_its_gguf(
    cli: Shell, bank: Built, user: Account, data: Path
) -> None:
    repo = f"{user.name}/adapter"
    asked = ("push", "-d", data, "--bank", bank.folder, "--repo-id", repo, "--public")
    cli(*asked, "--export", "gguf", token=user.token)
    cli.hub.clear_requests()
    cli("inspect", repo)
    assert not [r.path for r in cli.hub.requests if "adapter.gguf" in r.path]


def test_exports_that_cannot_be_are_refused_before_any_work(
    cli: Shell, bank: Built, user: Account, data: Path, tmp_path: Path
) -> None:
    asked = ("-d", data, "--bank", bank.folder, "--export", "gguf")
    hidden = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'gguf' else f(n, *a)"  # noqa: E501
    refused = cli("generate", *asked, "-o", "a", code=7, before=hidden).err
    assert install_hint("gguf") in refused
    assert not (tmp_path / "a").exists()
    cli("generate", "-d", data, "--bank", bank.folder, "-o", "a")
    again = ("push", "--from", "a", "--repo-id", f"{user.name}/x")
    for option in (("--export", "gguf"), ("--engine", "llama.cpp"), ("--base-gguf", "b.gguf")):
        refused = cli(*again, *option, token=user.token, code=2).err
        assert f"{option[0]} goes with --dataset" in refused


# --- try and evaluate ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo_adapter(world: Shell, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the embedded bank, for the guest book."""
    world.cwd = tmp_path_factory.mktemp("demo")
    world("generate", "-d", DEMO / "train.jsonl", "-o", "a", "--export", "gguf")
    return world.cwd / "a"


@needs_engine
@pytest.mark.slow
def test_try_asks_and_converses(cli: Shell, demo_adapter: Path) -> None:
    first = json.loads((DEMO / "test.jsonl").read_text().splitlines()[0])
    asked = ("try", demo_adapter, "--max-tokens", 3)
    answer = cli(*asked, "--prompt", first["input"]).out.strip()
    assert answer in ("positive", "negative")
    both = cli(*asked, "--prompt", first["input"], "--compare", "--json").json
    assert both["answer"] == answer
    assert both["base"] != answer
    head, tail = first["input"].split("Input: ")[0], "\nOutput:"
    template = f"{head}Input: {{}}{tail}".replace("\n", "\\n")
    done = subprocess.run(
        [sys.executable, "-m", "hf_lorameta", *map(str, asked), "--template", template],
        input="What a dreadful, cold room.\nThe best breakfast of our lives, thank you!\n",
        capture_output=True, text=True, check=True, env={**os.environ, **cli.env()},
    )  # fmt: skip
    assert done.stdout.split("\n")[:2] == ["negative", "positive"]
    assert done.stderr == ""


@needs_engine
def test_try_says_what_it_needs(cli: Shell, demo_adapter: Path, tmp_path: Path) -> None:
    assert "no {}" in cli("try", demo_adapter, "--template", "x", code=2).err
    other = save(tmp_path / "other")
    assert "add --base-gguf FILE" in cli("try", other, "--prompt", "x", code=6).err
    named = ("try", demo_adapter, "--prompt", "x", "--base-gguf", "none.gguf")
    assert "none.gguf is not a file" in cli(*named, code=6).err


@needs_engine
@pytest.mark.slow
def test_evaluate_through_llama_cpp(cli: Shell, demo_adapter: Path) -> None:
    asked = ("evaluate", demo_adapter, "-d", DEMO / "test.jsonl", "--engine", "llama.cpp")
    done = cli(*asked, "--shots", 0, "--max-rows", 3, "--json")
    report = done.json
    assert ".gguf\n" in done.err.split("The base model is ")[1]
    assert list(report["scores"]) == ["base", "generated"]
    assert report["scores"]["generated"]["loss"] < report["scores"]["base"]["loss"] / 2
    assert report["scores"]["generated"]["rows"] == 3
    wrong = cli(*asked, "--base", demo_adapter, code=2).err
    assert "--base is for the engine transformers" in wrong


@needs_engine
@pytest.mark.slow
def test_coefficients_are_fitted_and_checked_through_llama_cpp(cli: Shell, tmp_path: Path) -> None:
    asked = ("generate", "-d", DEMO / "train.jsonl", "--top-k", 2, "--refine", 4, "--check", 4)
    done = cli(*asked, "--engine", "llama.cpp", "-o", "a", "--json")
    fit, check = done.json["plan"]["refinement"], done.json["plan"]["check"]
    assert (fit["method"], fit["engine"], check["engine"]) == ("search", "llama.cpp", "llama.cpp")
    assert fit["end"] <= fit["start"] < fit["base"]
    assert check["end"] < check["base"]
    assert done.json["plan"]["recipe"]["refiner"] == "search"
    card = (tmp_path / "a" / "README.md").read_text()
    assert card.count("as llama.cpp computes it") == 2
    assert "--engine llama.cpp" in card.split("How to reproduce it")[1]


def test_what_llama_cpp_cannot_fit(cli: Shell, data: Path) -> None:
    asked = ("generate", "-d", data, "-o", "a")
    llama = (*asked, "--engine", "llama.cpp")
    assert "add --refine 16" in cli(*llama, code=2).err
    assert "--refiner search" in cli(*llama, "--refine", 4, "--refiner", "gradient", code=2).err
    assert "add --engine llama.cpp" in cli(*asked, "--base-gguf", "b.gguf", code=2).err
    data.write_text("no rows at all")  # all of it is told before the dataset is read
    named = cli(*llama, "--refine", 4, "--base-gguf", "none.gguf", code=6)
    assert "none.gguf is not a file" in named.err
    base_header(data.with_name("b.gguf"))
    given = (*llama, "--check", 4, "--base-gguf", "b.gguf")
    hidden = "import importlib.util as u; u.find_spec = lambda *_: None; import os; os.environ['PATH'] = ''"  # noqa: E501
    assert "neither llama-server nor" in cli(*given, code=7, before=hidden).err
    installed = "import hf_lorameta.engines.llama_server as l; l.require_llama_cpp = lambda: None"
    other = cli(*given, code=2, before=installed).err
    assert "b.gguf does not fit the bank" in other


def test_a_check_alone_leaves_the_refiner_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    monkeypatch.setattr(engines_module, "_check_llama_cpp", lambda *asked: checked.append(asked))
    for refiner in ("gradient", "search", None):
        request = Request(check=4, refiner=refiner)
        assert validate_engine(request, request.session("llama.cpp"), None) == request
    fitted = validate_engine(Request(refine=4), Request().session("llama.cpp"), None)
    assert fitted == Request(refine=4, refiner="search")
    assert len(checked) == 4


@needs_engine
@pytest.mark.slow
def test_the_python_lines_of_the_card_run(demo_adapter: Path, tmp_path: Path) -> None:
    from tests.engine_fixtures import packaged

    card = (demo_adapter / "README.md").read_text()
    lines = card.split("pip install xllamacpp")[1].split("```python\n")[1].split("```")[0]
    (tmp_path / "base.gguf").symlink_to(packaged())
    (tmp_path / "adapter.gguf").symlink_to(demo_adapter / "adapter.gguf")
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.strip()


@needs_engine
@pytest.mark.slow
def test_the_demo_without_torch_scores_through_llama_cpp_and_ends_in_a_conversation(
    tmp_path: Path,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "HF_LORAMETA_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "hf_lorameta", "demo", "--max-rows", "2", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert "| generated |" in done.stdout
    pasted = done.stdout.strip().splitlines()[-1]
    words = shlex.split(pasted)
    assert words[:2] == ["hf-lorameta", "try"]
    answer = subprocess.run(
        [sys.executable, "-m", "hf_lorameta", *words[1:], "--max-tokens", "3"],
        input="The soup was cold and so was the welcome.\n",
        capture_output=True, text=True, check=True, env=env,
    )  # fmt: skip
    assert answer.stdout.strip() == "negative"
