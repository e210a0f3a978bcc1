"""``plan``, ``generate``, ``push`` and ``inspect`` in child processes, against the loopback Hub."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

import hf_lorameta
from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import Index, IndexEntry, adapter_path
from hf_lorameta.data.profile import Histogram, Profile, ProfileTable
from hf_lorameta.files import sha256
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, AdapterFile, check_adapter, write_tensors
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.formats.peft_config import CONFIG_FILE
from hf_lorameta.pipeline.adapter_folder import FILES
from tests.conftest import (
    BASE,
    LAYOUT,
    Account,
    Built,
    Shell,
    adapter_files,
    rows,
    tokenizer_json,
    touched,
    tree,
)

METRICS = ("wd", "kl", "js", "mmd")
RULES = ("attentional", "normalized", "neural")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Local rows of topic 1."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows(1))
    return path


def test_public_names_are_there() -> None:
    for name in hf_lorameta.__all__:
        assert getattr(hf_lorameta, name) is not None
        assert name in dir(hf_lorameta)
    with pytest.raises(AttributeError):
        hf_lorameta.nothing  # noqa: B018


# --- plan ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rule", RULES)
def test_every_metric_with_every_rule(
    cli: Shell, bank: Built, data: Path, metric: str, rule: str
) -> None:
    asked = ("plan", "-d", data, "--bank", bank.folder, "--metric", metric, "--coefficients", rule)
    if rule == "neural":
        assert "hf-lorameta bank fit" in cli(*asked, "--json", code=4).err
        return
    made = cli(*asked, "--json").json
    assert made["recipe"]["metric"] == metric
    assert made["neighbors"][0]["dataset"] == f"{bank.owner.name}/e1"
    assert sum(n["coefficient"] for n in made["neighbors"]) == pytest.approx(1)
    distances = [n["distance"] for n in made["neighbors"]]
    assert distances == sorted(distances)


def test_plan_reads_no_weights(cli: Shell, bank: Built, data: Path) -> None:
    done = cli("plan", "-d", data, "--bank", bank.repo)
    assert f"{bank.owner.name}/e1" in done.out
    assert f"Bank: {bank.repo}" in done.err
    assert touched(cli.hub, "profiles.safetensors")
    assert touched(cli.hub, "adapters/") == []
    quiet = cli("plan", "-d", data, "--bank", bank.repo, "-q")
    assert (quiet.err, quiet.out) == ("", done.out)
    cli.hub.clear_requests()
    cli("plan", "-d", data, HF_LORAMETA_BANK=bank.repo)
    assert touched(cli.hub, bank.repo)


def test_a_bank_of_one_still_speaks_json(cli: Shell, user: Account, data: Path) -> None:
    user.entry("only")
    cli("bank", "build", user.manifest(data.with_name("m")), "-o", "one")
    made = cli("plan", "-d", data, "--bank", "one", "--json").json
    assert made["nearest_in_bank"] is None
    assert made["neighbors"][0]["coefficient"] == 1
    cli("plan", "-d", data, "--bank", "one")
    cli("generate", "-d", data, "--bank", "one", "-o", "a", "--json")


@pytest.mark.parametrize(
    "wrong",
    [("--top-k", 0), ("--temperature", 0), ("--temperature", "nan"), ("--rank", 0),
     ("--rank", 513), ("--seed", -1), ("--metric", "cosine"), ("--dtype", "int8"),
     ("--recipe", "paper", "--combine", "exact"), ("--recipe", "paper", "--rank", 4),
     ("--recipe", "paper", "--top-k", 3)],
    ids=lambda wrong: "".join(map(str, wrong)),
)  # fmt: skip
def test_settings_that_cannot_be_followed(
    cli: Shell, bank: Built, data: Path, wrong: tuple[object, ...]
) -> None:
    cli("plan", "-d", data, "--bank", bank.folder, *wrong, code=2)
    assert touched(cli.hub, "/") == []


# --- generate -----------------------------------------------------------------------------------


def test_generate_makes_a_peft_folder_the_same_each_time(
    cli: Shell, bank: Built, data: Path, tmp_path: Path
) -> None:
    done = cli("generate", "-d", data, "--bank", bank.folder, "-o", "a")
    assert done.out == "a\n"
    again = cli("generate", "-d", data, "--bank", bank.folder, "-o", tmp_path / "b", "--json").json
    assert again["folder"] == str(tmp_path / "b")
    assert again["rank"] == 8  # four adapters of rank 2 sum up to no more
    assert set(tree(tmp_path / "a")) == set(FILES)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    config, weights = check_adapter(tmp_path / "a")
    assert (config.base_model, config.rank, config.scaling) == (BASE, 8, 1.0)
    assert (weights.layout, weights.dtypes) == (LAYOUT, {"BF16"})
    settings = json.loads((tmp_path / "a" / CONFIG_FILE).read_bytes())
    assert settings["peft_type"] == "LORA"
    assert sorted(settings["target_modules"]) == ["q_proj", "v_proj"]
    for content in tree(tmp_path / "a").values():
        assert str(tmp_path).encode() not in content  # a local path is nobody's business
        assert b"rows.jsonl" not in content


def test_exact_is_the_weighted_sum(cli: Shell, bank: Built, data: Path, tmp_path: Path) -> None:
    asked = ("generate", "-d", data, "--bank", bank.folder, "--dtype", "float32")
    cli(*asked, "-o", "a")
    listed = json.loads((tmp_path / "a/coefficients.json").read_bytes())
    index = Bank(bank.folder)
    c = {n["adapter"]: n["coefficient"] for n in listed}
    made = AdapterFile(tmp_path / "a" / WEIGHTS_FILE)
    assert made.dtypes == {"F32"}
    for module in LAYOUT:
        expected = sum(
            c[e.adapter] * e.scaling
            * index.adapter(e).tensor(module.name, "B") @ index.adapter(e).tensor(module.name, "A")
            for e in index.index.entries
        )  # fmt: skip
        got = made.tensor(module.name, "B") @ made.tensor(module.name, "A")
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_settings_of_the_result(cli: Shell, bank: Built, data: Path, tmp_path: Path) -> None:
    asked = ("generate", "-d", data, "--bank", bank.folder)
    cli(*asked, "-o", "a", "--top-k", 2, "--rank", 3, "--dtype", "float16", "--seed", 7)
    config, weights = check_adapter(tmp_path / "a")
    assert (config.rank, weights.dtypes) == (3, {"F16"})
    assert len(json.loads((tmp_path / "a/coefficients.json").read_bytes())) == 2
    recipe = json.loads((tmp_path / "a/recipe.json").read_bytes())["recipe"]
    assert (recipe["top_k"], recipe["rank"], recipe["seed"]) == (2, 3, 7)

    cli(*asked, "-o", "p", "--recipe", "paper", "--metric", "mmd", "--coefficients", "attentional")
    recipe = json.loads((tmp_path / "p/recipe.json").read_bytes())["recipe"]
    assert (recipe["combine"], recipe["metric"]) == ("factors", "mmd")
    assert check_adapter(tmp_path / "p")[0].rank == 2
    cli(*asked, "-o", "q", "--combine", "factors", "--rank", 5, code=2)
    assert not (tmp_path / "q").exists()


def test_factors_want_one_rank_and_exact_does_not(
    cli: Shell, user: Account, data: Path, tmp_path: Path
) -> None:
    user.entry("two", 0, rank=2)
    user.entry("three", 1, rank=3)
    cli("bank", "build", user.manifest(tmp_path / "m"), "-o", "mixed")
    asked = ("generate", "-d", data, "--bank", "mixed", "-o", "a")
    refused = cli(*asked, "--recipe", "paper", code=2).err
    assert "2" in refused
    assert "3" in refused
    cli(*asked)
    assert check_adapter(tmp_path / "a")[0].rank == 5


def test_generate_overwrites_adapters_only_and_only_when_told(
    cli: Shell, bank: Built, data: Path, tmp_path: Path
) -> None:
    asked = ("generate", "-d", data, "--bank", bank.folder, "-o")
    cli(*asked, "a")
    before = tree(tmp_path / "a")
    assert "--overwrite" in cli(*asked, "a", "--rank", 1, code=2).err
    assert tree(tmp_path / "a") == before
    cli("generate", "-d", "missing.jsonl", "-o", "a", code=2)  # before anything is read
    cli(*asked, "a", "--rank", 1, "--overwrite")
    assert check_adapter(tmp_path / "a")[0].rank == 1
    (tmp_path / "a/thesis.txt").write_text("mine")
    assert "thesis.txt" in cli(*asked, "a", "--overwrite", code=2).err
    cli(*asked, data, code=2)
    (tmp_path / "empty").mkdir()
    cli(*asked, "empty")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


STAND_IN = """
import hf_lorameta.engines.torch_evaluator
import hf_lorameta.pipeline.session
from tests.pipeline.test_tune import FakeRunner
hf_lorameta.engines.torch_evaluator.require_eval = lambda: None
hf_lorameta.pipeline.session.Session._load_runner = lambda self: FakeRunner({best})
"""


def test_a_check_is_told_and_weakens_the_adapter(
    cli: Shell, bank: Built, data: Path, tmp_path: Path
) -> None:
    asked = ("generate", "-d", data, "--bank", bank.folder, "--check", 8)
    done = cli(*asked, "-o", "good", before=STAND_IN.format(best=0.5))
    told = r"^Checked on 8 other rows: loss of the base model 1.000, of this adapter 0\.\d+$"
    assert re.search(told, done.err, re.MULTILINE)
    assert "was worse" not in done.err
    done = cli(*asked, "-o", "weak", "--json", before=STAND_IN.format(best=0.02))
    assert "Warning: On 8 rows this adapter was worse than the base model" in done.err
    check = done.json["plan"]["check"]
    assert check["scale"] < 1
    assert check["end"] <= check["base"] < check["start"]
    weak, good = (
        sum(c["coefficient"] for c in json.loads((tmp_path / n / "coefficients.json").read_bytes()))
        for n in ("weak", "good")
    )
    assert weak == pytest.approx(check["scale"] * good)


def test_a_missing_extra_is_told_before_the_dataset_is_read(cli: Shell, data: Path) -> None:
    data.write_text("no rows at all")
    hidden = "import importlib.util as u; u.find_spec = lambda *_: None"
    for asked in (("--refine", 8), ("--check", 8)):
        done = cli("generate", "-d", data, "-o", "a", *asked, code=7, before=hidden)
        assert "[eval]" in done.err


def test_what_only_does_harm_is_not_published(
    cli: Shell, bank: Built, data: Path, user: Account
) -> None:
    asked = ("push", "-d", data, "--bank", bank.folder, "--repo-id", f"{user.name}/harm", "--yes")
    done = cli(*asked, "--check", 8, token=user.token, code=5, before=STAND_IN.format(best=1e-6))
    assert "even at 1/8 strength the adapter is worse" in done.err
    assert "leave out --check" in done.err
    assert touched(cli.hub, "create") == touched(cli.hub, "commit") == []
    cli(*asked, token=user.token)


# --- push ---------------------------------------------------------------------------------------


def test_push_prints_the_url_alone(cli: Shell, bank: Built, user: Account) -> None:
    source = user.dataset("d", {"train.jsonl": rows(1)})
    repo = f"{user.name}/d-tiny-lorameta"
    done = cli("push", "-d", source, "--bank", bank.repo, token=user.token)
    assert done.out == f"{cli.hub.url}/{repo}\n"
    assert set(cli.hub.files(repo)) == {*FILES, ".gitattributes"}
    assert not cli.hub.repo(repo).private  # type: ignore[union-attr]
    assert len(cli.hub.commits(repo)) == 2  # the first one and ours
    card = cli.hub.read(repo, "README.md").decode()
    assert f"base_model: {BASE}" in card
    assert set(ModelCard(card).data.datasets) == {f"{bank.owner.name}/e{i}" for i in range(4)}
    recipe = json.loads(cli.hub.read(repo, "recipe.json"))
    assert recipe["dataset"]["id"] == source
    assert recipe["dataset"]["revision"] == cli.hub.commits(source, repo_type="dataset")[0].sha

    facts = cli("inspect", repo, "--json").json
    assert facts["provenance"] == recipe
    assert facts["base_model_name_or_path"] == BASE
    text = cli("inspect", repo).out
    assert source in text
    assert bank.repo in text
    generated = cli("generate", "-d", source, "--bank", bank.repo, "-o", "a", "-q")
    assert generated.out == "a\n"
    same = cli.cwd / "a" / WEIGHTS_FILE
    assert same.read_bytes() == cli.hub.read(repo, WEIGHTS_FILE)


def test_push_with_the_embedded_bank(cli: Shell, user: Account) -> None:
    source = user.dataset("d", {"train.jsonl": rows(1)})
    target = f"{user.name}/a"
    made = cli("push", "-d", source, "--repo-id", target, "--json", token=user.token).json
    assert made["url"] == f"{cli.hub.url}/{target}"
    assert made["private"] is False
    facts = cli("inspect", target, "--json").json
    assert facts["provenance"]["bank"]["id"] == "embedded bank"
    assert facts["rank"] == 16


def test_who_may_see_the_adapter(cli: Shell, bank: Built, user: Account, data: Path) -> None:
    def push(source: object, name: str, *flags: str, code: int = 0) -> bool | None:
        target = f"{user.name}/{name}"
        asked = ("push", "-d", source, "--bank", bank.folder, "--repo-id", target, *flags)
        cli(*asked, token=user.token, code=code)
        view = cli.hub.repo(target)
        return view and view.private

    open_ = user.dataset("open", {"train.jsonl": rows(1)})
    hidden = user.dataset("hidden", {"train.jsonl": rows(1)}, private=True)
    assert push(open_, "a") is False
    assert push(open_, "b", "--private") is True
    assert push(hidden, "c") is True
    assert push(hidden, "d", "--public") is False
    assert push(data, "e") is True
    assert push(data, "f", "--public") is False
    for name in ("c", "d", "e"):
        for path in FILES:
            content = cli.hub.read(f"{user.name}/{name}", path)
            assert hidden.encode() not in content
            assert b"rows.jsonl" not in content
    for name, private in (("open", False), ("hidden", True)):
        cli.hub.create_repo(f"{user.name}/{name}", private=private)
    assert push(hidden, "open", code=6) is False  # a leak otherwise
    assert push(open_, "open", "--private", code=6) is False
    assert push(open_, "hidden", "--public", code=6) is True
    assert len(cli.hub.commits(f"{user.name}/open")) == 1
    assert push(open_, "hidden") is True  # keeps what it is
    assert push(hidden, "open", "--public") is False


def test_files_are_replaced_with_consent_only(
    cli: Shell, bank: Built, user: Account, data: Path
) -> None:
    target = f"{user.name}/a"
    asked = ("push", "-d", data, "--bank", bank.folder, "--repo-id", target)
    cli(*asked, token=user.token)
    cli.hub.commit(target, {"notes.txt": b"keep me"})
    before = cli.hub.commits(target)
    refused = cli(*asked, "--rank", 1, token=user.token, code=6).err
    assert "--yes" in refused
    assert cli.hub.commits(target) == before
    url = cli(*asked, "--rank", 2, "--create-pr", token=user.token).out
    assert url == f"{cli.hub.url}/{target}/discussions/1\n"
    assert cli.hub.commits(target) == before
    proposed = cli.hub.repo(target).pull_requests  # type: ignore[union-attr]
    assert list(proposed) == ["refs/pr/1"]
    cli(*asked, "--rank", 1, "--yes", token=user.token)
    assert cli("inspect", target, "--json", token=user.token).json["rank"] == 1
    assert cli.hub.read(target, "notes.txt") == b"keep me"
    new = (*asked[:-1], f"{user.name}/none")
    cli(*new, "--create-pr", token=user.token, code=2)
    assert cli.hub.repo(f"{user.name}/none") is None


def test_dry_run_creates_nothing(cli: Shell, bank: Built, user: Account, data: Path) -> None:
    target = f"{user.name}/a"
    asked = ("push", "-d", data, "--bank", bank.folder, "--repo-id", target, "--dry-run")
    done = cli(*asked, token=user.token)
    folder = Path(done.out.strip())
    assert set(tree(folder)) == set(FILES)
    assert "private" in done.err
    assert cli.hub.repo(target) is None
    assert all(r.method in ("GET", "HEAD") for r in cli.hub.requests)
    made = cli(*asked, "--json", token=user.token).json
    assert made["url"] is None
    url = cli("push", "--from", folder, "--repo-id", target, token=user.token).out
    assert url == f"{cli.hub.url}/{target}\n"
    assert cli.hub.repo(target).private  # type: ignore[union-attr]  # remembered from the dataset


def test_push_from_wants_a_generated_adapter(
    cli: Shell, bank: Built, user: Account, data: Path, tmp_path: Path
) -> None:
    cli("generate", "-d", data, "--bank", bank.folder, "-o", "a")
    asked = ("push", "--repo-id", f"{user.name}/a", "--from")
    assert "got both" in cli(*asked, "a", "-d", data, token=user.token, code=2).err
    shutil.copytree(tmp_path / "a", tmp_path / "outbox/a")
    cli("push", "--repo-id", f"{user.name}/b", "--from", "outbox/a", token=user.token)
    assert tree(tmp_path / "outbox/a") == tree(tmp_path / "a")  # mine, whatever it is called
    cli("push", token=user.token, code=2)
    cli("push", "--from", "a", token=user.token, code=2)
    cli(*asked, "none", token=user.token, code=5)
    for content in ("{", "[]", "{}", '{"library": 1, "bank": 2}'):
        (tmp_path / "a/recipe.json").write_text(content)
        assert "not generated by hf-lorameta" in cli(*asked, "a", token=user.token, code=5).err
        cli("inspect", "a", code=5)
    with (tmp_path / "a" / WEIGHTS_FILE).open("ab") as file:
        file.write(b"x")
    cli(*asked, "a", token=user.token, code=5)
    cli("inspect", "missing", code=5)
    cli("inspect", f"{user.name}/missing", code=6)
    pickle = user.adapter("pickle", {"adapter_model.bin": b"x", "adapter_config.json": b"{}"})
    cli("inspect", pickle, code=5)
    assert cli.hub.repo(f"{user.name}/a") is None


# --- evaluate -------------------------------------------------------------------------------------

SCORER = """
import contextlib
from hf_lorameta.cli import engines
from hf_lorameta.engines.scoring import Scores

class Scorer:
    def evaluate(self, rows, adapter=None, shots=(), generate=True, progress=None):
        {meanwhile}
        loss = 0.5 if adapter else 1.0 if shots else 2.0
        return Scores(loss, 0.25, 0.125, 0.5, len(rows)), [output for _, output in rows]

engines.open_evaluator = contextlib.contextmanager(lambda *asked: iter([Scorer()]))
"""


def scorer(meanwhile: str = "pass") -> str:
    return SCORER.format(meanwhile=meanwhile)


@pytest.fixture
def published(cli: Shell, bank: Built, user: Account) -> tuple[str, str]:
    """An adapter repo and a dataset repo with a test split."""
    files = {"train.jsonl": rows(1), "test.jsonl": rows(1, 9)}
    data, repo = user.dataset("words", files), f"{user.name}/made"
    asked = ("push", "-d", data, "--bank", bank.folder, "--repo-id", repo, "--rank", 2)
    cli(*asked, token=user.token)
    return repo, data


def card_of(cli: Shell, repo: str) -> str:
    return cli.hub.read(repo, "README.md").decode()


def results(text: str) -> dict[str, float]:
    return {r.metric_type: r.metric_value for r in ModelCard(text).data.eval_results or []}


def test_scores_go_onto_the_card_of_a_repo_in_one_commit(
    cli: Shell, published: tuple[str, str], user: Account
) -> None:
    repo, data = published
    before, first = len(cli.hub.commits(repo)), card_of(cli, repo)
    asked = ("evaluate", repo, "-d", data)
    plain = cli(*asked, token=user.token, before=scorer())
    assert card_of(cli, repo) == first
    done = cli(*asked, "--save-card", token=user.token, before=scorer())
    assert done.out == plain.out
    assert "  generated: loss 0.500\n" in done.err
    assert f"The scores are on the card: {cli.hub.url}/{repo}" in done.err
    text = card_of(cli, repo)
    assert results(text) == {"loss": 0.5, "rouge": 0.25, "exact_match": 0.125}
    assert f"### `{data}`, split `test`" in text
    assert "| `3-shot` | 1 | 0.25 | 0.125 | 0.5 |" in text
    assert "say rain" not in text
    assert len(cli.hub.commits(repo)) == before + 1
    cli(*asked, "--save-card", token=user.token, before=scorer())
    assert card_of(cli, repo) == text


def test_scores_are_proposed_to_a_repo_of_somebody_else(
    cli: Shell, published: tuple[str, str], enrol: Callable[[], Account]
) -> None:
    (repo, data), other = published, enrol()
    first = card_of(cli, repo)
    asked = ("evaluate", repo, "-d", data, "--save-card")
    refused = cli(*asked, token=other.token, code=6, before=scorer())
    assert "--create-pr" in refused.err
    assert "| generated | 0.500 |" in refused.out
    assert card_of(cli, repo) == first
    done = cli(*asked, "--create-pr", "--json", token=other.token, before=scorer()).json
    assert done["card"] == f"{cli.hub.url}/{repo}/discussions/1"
    assert card_of(cli, repo) == first
    assert results(cli.hub.read(repo, "README.md", revision="refs/pr/1").decode())["loss"] == 0.5


def test_a_repo_that_changed_meanwhile_keeps_its_card(
    cli: Shell, published: tuple[str, str], user: Account
) -> None:
    repo, data = published
    change = (
        "import huggingface_hub as h; "
        f"h.HfApi().upload_file(path_or_fileobj=b'new', path_in_repo='note', repo_id='{repo}')"
    )
    done = cli("evaluate", repo, "-d", data, "--save-card", "--shots", 0, token=user.token, code=6,
               before=scorer(change))  # fmt: skip
    assert "changed" in done.err
    assert results(card_of(cli, repo)) == {}


def test_scores_go_onto_the_card_of_a_folder(
    cli: Shell, bank: Built, data: Path, tmp_path: Path
) -> None:
    cli("generate", "-d", data, "--bank", bank.folder, "-o", "a")
    weights = (tmp_path / "a" / WEIGHTS_FILE).read_bytes()
    done = cli("evaluate", "a", "-d", data, "--save-card", "--json", before=scorer()).json
    assert done["card"] == "a/README.md"
    text = (tmp_path / "a" / "README.md").read_text()
    assert "### a local or private dataset, split `train`" in text
    assert "| `generated` | 0.5 |" in text
    assert results(text) == {}
    assert "rows.jsonl" not in text
    assert (tmp_path / "a" / WEIGHTS_FILE).read_bytes() == weights
    assert set(tree(tmp_path / "a")) == set(FILES)


def test_rows_that_the_adapter_has_seen_are_no_test_of_it(
    cli: Shell, bank: Built, data: Path, tmp_path: Path
) -> None:
    lines = dict.fromkeys(data.read_text().splitlines())
    count = len(lines)
    data.write_text("\n".join(lines))
    cli("generate", "-d", data, "--bank", bank.folder, "-o", "a")
    asked = ("evaluate", "a", "-d", data, "--shots", 0)
    assert f"Scoring {count} rows" in cli(*asked, before=scorer()).err
    told = json.loads((tmp_path / "a/recipe.json").read_bytes())

    def fitted_on(rows: int) -> None:
        told["recipe"]["refine"] = rows
        (tmp_path / "a/recipe.json").write_text(json.dumps(told))

    fitted_on(4)
    done = cli(*asked, before=scorer())
    assert "4 rows that the adapter was fitted or checked on" in done.err
    assert f"Scoring {count - 4} rows" in done.err
    fitted_on(count)
    assert "on every row" in cli(*asked, before=scorer(), code=3).err
    fitted_on(-1)  # no recipe of ours
    assert f"Scoring {count} rows" in cli(*asked, before=scorer()).err


def test_scores_need_a_card_of_ours(cli: Shell, data: Path, tmp_path: Path, user: Account) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    for name, content in adapter_files().items():
        (folder / name).write_bytes(content)
    asked = ("evaluate", folder, "-d", data)
    assert "not generated by hf-lorameta" in cli(*asked, "--save-card", code=5).err
    assert "nothing to open a pull request on" in cli(*asked, "--save-card", "--create-pr",
                                                      code=2).err  # fmt: skip
    assert "--create-pr goes with --save-card" in cli(*asked, "--create-pr", code=2).err
    cli("evaluate", f"{user.name}/made", "-d", data, "--save-card", code=6)  # no token


# --- memory -------------------------------------------------------------------------------------


def big_bank(folder: Path, count: int, megabytes: int) -> Path:
    """A bank of many adapters of some size; four different files, linked."""
    wide, rank = 4096, 2
    modules = megabytes * 1_000_000 // (2 * wide * rank * 2)
    layout = tuple(Module(f"model.layers.{i}.q_proj", wide, wide) for i in range(modules))
    (folder / "adapters").mkdir(parents=True)
    (folder / "tokenizer.json").write_bytes(tokenizer_json())
    rng = np.random.default_rng(0)
    entries = []
    for i in range(count):
        path = folder / adapter_path(f"o--{i}")
        if i < 4:
            block = rng.normal(0, 0.01, (wide, rank)).astype(np.float32)
            pairs = ((block.T, block) for _ in layout)
            write_tensors(path, layout, rank, "bfloat16", pairs)
        else:
            os.link(folder / adapter_path(f"o--{i % 4}"), path)
        entries.append(IndexEntry(
            name=f"o--{i}", adapter=f"o/{i}", adapter_revision="0" * 40, dataset=f"o/{i}",
            dataset_revision="0" * 40, config=None, split="train", columns={"output": "text"},
            license="mit", rank=rank, scaling=1.0, rows=9, size=path.stat().st_size,
            sha256=sha256(path),
        ))  # fmt: skip
    dense = [np.bincount([1 + i % 16], minlength=18) for i in range(count)]
    histograms = [Histogram.from_dense(d.astype(np.int64)) for d in dense]
    table = ProfileTable.from_profiles([Profile(h, h, 9) for h in histograms])
    import safetensors.numpy

    (folder / "profiles.safetensors").write_bytes(safetensors.numpy.save(table.arrays))
    names = ("profiles.safetensors", "tokenizer.json")
    index = Index(
        base_model=BASE, base_revision=None, base_license=None, vocab_size=18, published=False,
        layout=tuple((m.name, m.in_features, m.out_features) for m in layout),
        entries=tuple(entries), skipped=(), typical_distances={},
        files={name: sha256(folder / name) for name in names},
    )  # fmt: skip
    (folder / "bank.json").write_bytes(index.to_bytes())
    return folder


# a child's ru_maxrss counts what its parent held when it forked; VmHWM is its own
MEASURED = """
import atexit, sys
from hf_lorameta.cli import main
def tell():
    status = open("/proc/self/status").read()
    print(status.split("VmHWM:")[1].splitlines()[0], file=sys.stderr)
atexit.register(tell)
main(sys.argv[1:])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.slow
@pytest.mark.parametrize("combiner", ["factors", "exact"])
def test_memory_does_not_grow_with_the_bank(
    cli: Shell, data: Path, tmp_path: Path, combiner: str
) -> None:
    folder = big_bank(tmp_path / "bank", 40, 10)
    size = sum(p.stat().st_size for p in (folder / "adapters").iterdir())
    assert size > 390e6
    words = ["generate", "-d", str(data), "-q", "--bank", str(folder)]
    words += ["--combine", combiner, "--rank", "2"]  # the bank's own: a result of the same size
    command = [sys.executable, "-c", MEASURED, *words, "-o", str(tmp_path / "a")]
    # the core goes without torch, which `datasets` imports where it is installed
    env = cli.env() | {"USE_TORCH": "0"}
    done = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    peak = 1024 * int(done.stderr.split()[-2])
    assert peak < 400e6 + 2 * 10.5e6
    shutil.rmtree(folder)
