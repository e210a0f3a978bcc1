"""Commands with --base: a bank for it, or none."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from tests.cards.examples import metadata_fields
from tests.conftest import Account, Built, Shell, touched
from tests.support.fast_training import FAST
from tests.training import tiny

pytest.importorskip("torch")
pytest.importorskip("peft")

pytestmark = pytest.mark.usefixtures("model_commands")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A local file whose outputs are one of two labels."""
    return tiny.write_task(tmp_path, "labels", tiny.labeled())


@pytest.fixture
def dataset(user: Account) -> str:
    """The same rows on the Hub."""
    lines = "".join(json.dumps(row) + "\n" for row in tiny.labeled())
    return user.dataset("labels", {"train.jsonl": lines.encode()})


@pytest.fixture
def hub_base(user: Account, base: Path) -> str:
    """The base model in a repo."""
    files = {path.name: path.read_bytes() for path in base.iterdir()}
    card = {"README.md": b"---\nlicense: apache-2.0\n---\n"}
    return user.adapter("tiny-base", files | card)


def test_an_adapter_is_pushed_that_names_its_base_model(
    cli: Shell, user: Account, hub_base: str, dataset: str
) -> None:
    options = ("--base", hub_base, "--train", 16, "--rank", 4)
    done = cli("push", dataset, *options, "--json", token=user.token, before=FAST)
    repo = f"{user.name}/labels-tiny-base-lorameta"
    assert (done.json["repo_id"], done.json["private"]) == (repo, False)
    assert f"Bank: none, only {hub_base}" in done.err
    assert "Trained on 16 rows" in done.err
    assert "Combined" not in done.err
    assert cli("inspect", repo, "--json").json["provenance"]["bank"] is None
    config = json.loads(cli.hub.read(repo, "adapter_config.json"))
    sha = cli.hub.commits(hub_base)[0].sha
    assert (config["base_model_name_or_path"], config["revision"]) == (hub_base, sha)
    assert "neighbors.svg" not in cli.hub.files(repo)
    card = cli.hub.read(repo, "README.md").decode()
    data = metadata_fields(card)
    assert (data["base_model"], data["datasets"]) == (hub_base, [dataset])
    assert data["license"] == "apache-2.0"
    assert "arxiv:2507.01806" not in data["tags"]
    assert "Trained on 16 rows" in card
    command = card.split("How to reproduce it")[1]
    named = f"    --base {hub_base} \\\n    --base-revision {sha} \\\n    --bank none \\\n"
    assert named in command


@pytest.fixture
def others_bank(cli: Shell, hub_base: str, enrol: Callable[[], Account], tmp_path: Path) -> str:
    """A bank for the base model that another account has published."""
    stranger = enrol()
    for topic in range(2):
        stranger.entry(f"e{topic}", topic, base=hub_base)
    content = {"version": 1, "base_model": hub_base, "entries": stranger.entries}
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(json.dumps(content))
    cli("bank", "build", manifest, "-o", "their-bank")
    repo = f"{stranger.name}/bank"
    cli("bank", "push", "their-bank", repo, token=stranger.token)
    cli("bank", "push", "their-bank", f"{repo}-hidden", "--private", token=stranger.token)
    return repo


def test_a_bank_that_others_have_published_is_proposed_and_used_only_if_it_is_named(
    cli: Shell, user: Account, bank: Built, hub_base: str, dataset: str, others_bank: str
) -> None:
    push = ("push", dataset, "--base", hub_base)
    proposed = f"--bank {others_bank} (2 adapters, "
    trained = ("--bank", "none", "--train", 16, "--rank", 4)
    alone = cli(*push, *trained, token=user.token, before=FAST)
    assert proposed in alone.err
    repo = f"{user.name}/labels-tiny-base-lorameta"
    assert others_bank not in cli.hub.read(repo, "README.md").decode()
    nothing = cli(*push, "--budget", 0, "--repo-id", f"{user.name}/x", token=user.token, code=2)
    assert f"add --bank {others_bank}" in nothing.err
    named = (*push, "--bank", others_bank, "--repo-id", f"{user.name}/with-bank")
    done = cli(*named, token=user.token)
    assert f"Bank: {others_bank}, 2 adapters for {hub_base}" in done.err
    assert others_bank in cli.hub.read(f"{user.name}/with-bank", "README.md").decode()

    searched = cli("bank", "search", "--base", hub_base, token=user.token)
    assert f"{others_bank}: 2 adapters, " in searched.out
    assert "hidden" not in searched.out
    [found] = cli("bank", "search", "--base", hub_base, "--json", token=user.token).json["banks"]
    files = cli.hub.files(others_bank, repo_type="dataset")
    size = sum(len(cli.hub.read(others_bank, name, repo_type="dataset")) for name in files)
    assert found == {
        "repo_id": others_bank, "private": False, "adapters": 2, "general": False, "size": size,
        "license": "apache-2.0-and-mit", "downloads": 0,
    }  # fmt: skip
    of_other = cli("bank", "search", "--base", "base/tiny", "--json").json["banks"]
    assert bank.repo in [found["repo_id"] for found in of_other]
    assert others_bank not in [found["repo_id"] for found in of_other]
    assert "no bank for" in cli("bank", "search", "--base", user.adapter("lonely", {"a": b""})).out


def test_an_adapter_that_names_a_folder_is_private_unless_asked(
    cli: Shell, user: Account, base: Path, dataset: str
) -> None:
    push = ("push", dataset, "--base", base, "--train", 16, "--rank", 4, "--dry-run")
    done = cli(*push, token=user.token, before=FAST)
    dry_run = ("push", "--from", done.out.strip(), "--repo-id", f"{user.name}/x", "--dry-run")
    assert cli(*dry_run, "--json", token=user.token).json["private"]
    assert not cli(*dry_run, "--public", "--json", token=user.token).json["private"]


def test_a_plan_says_what_it_would_do(cli: Shell, base: Path, labels: Path) -> None:
    done = cli("plan", labels, "--base", base)
    first, last = done.out.splitlines()
    assert first.startswith("64 rows; no bank:")
    assert "up to 2 min" in last
    assert "effective number" not in done.err
    planned = cli("plan", labels, "--base", base, "--train", 20, "--json").json
    assert (planned["bank"], planned["neighbors"]) == (None, [])
    assert "20 rows" in planned["next"]
    assert "right answers" not in planned["next"]


def test_the_small_bank_in_this_package_is_used_without_the_base_model(
    cli: Shell, labels: Path
) -> None:
    base = "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    done = cli("generate", labels, "--base", base, "-o", "adapter", "--json")
    assert "Bank: embedded bank" in done.err
    assert done.json["rank"] == 16
    card = (cli.cwd / "adapter" / "README.md").read_text("utf-8")
    assert "185 datasets" in card
    assert f"--base {base}" in card  # of the command that reproduces it
    error = cli("generate", labels, "--base", base, "--train", 32, "-o", "other", code=6).err
    assert "--base FOLDER" not in error  # it would not get the bank
    assert f"hf download {base}" in error


def test_the_bank_of_the_base_model_is_used(cli: Shell, bank: Built, data: Path) -> None:
    given = ("plan", "-d", data, "--base", "base/tiny", "--bank", bank.folder, "--json")
    assert len(cli(*given).json["neighbors"]) == 4
    with_base, folder = ("-d", data, "--base", "base/tiny"), str(bank.folder)
    of_environment = cli("plan", *with_base, "--json", HF_LORAMETA_BANK=folder)
    assert len(of_environment.json["neighbors"]) == 4
    cli("generate", *with_base, "-o", "adapter", HF_LORAMETA_BANK=folder)
    assert (cli.cwd / "adapter" / WEIGHTS_FILE).exists()


@pytest.mark.parametrize(
    ("options", "code", "message", "advice"),
    [
        (
            ("--bank", "none", "--train", 8), 2,
            "the base model has to be named", "add --base Hugging",
        ),
        (("--base", "org/absent", "--train", 8), 6, "org/absent was not found", "--base FOLDER"),
        (
            ("--base", "BASE", "--budget", "0.001s"), 5,
            "time ran out before the first", "or add --budget 2m",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_an_error_with_a_way_out(
    cli: Shell, base: Path, labels: Path, options: tuple[object, ...], code: int, message: str,
    advice: str,
) -> None:  # fmt: skip
    given = [base if word == "BASE" else word for word in options]
    done = cli("generate", labels, *given, "-o", "adapter", code=code)
    assert message in done.err
    assert advice in done.err.split("Next:  ")[1]
    assert not (cli.cwd / "adapter").exists()


def test_a_base_model_that_cannot_learn_is_refused_before_its_weights_are_fetched(
    cli: Shell, user: Account, base: Path, labels: Path
) -> None:
    config = json.loads((base / "config.json").read_bytes())
    config |= {"architectures": ["BertForMaskedLM"], "model_type": "bert"}
    files = {path.name: path.read_bytes() for path in base.iterdir()}
    repo = user.adapter("unfit", files | {"config.json": json.dumps(config).encode()})
    done = cli("generate", labels, "--base", repo, "--train", 16, "-o", "adapter", code=2)
    assert "is a BertForMaskedLM" in done.err
    assert "name " in done.err.split("Next:  ")[1]
    assert touched(cli.hub, repo, "safetensors") == []


def test_a_gated_base_model_needs_access_which_its_page_grants(
    cli: Shell, user: Account, enrol: Callable[[], Account], base: Path, labels: Path
) -> None:
    repo, stranger = f"{user.name}/terms", enrol()
    cli.hub.create_repo(repo, gated=True)
    cli.hub.commit(repo, {path.name: path.read_bytes() for path in base.iterdir()})
    generate = ("generate", labels, "--base", repo, "--train", 32, "--rank", 4, "-o", "adapter")
    done = cli(*generate, token=stranger.token, code=6)
    assert f"{cli.hub.url}/{repo}" in done.err.split("Next:  ")[1]
    cli.hub.grant_access(repo, stranger.name)
    assert "Trained on" in cli(*generate, token=stranger.token, before=FAST).err
