"""``--emit mixture`` in child processes, against the loopback Hub."""

import re
from pathlib import Path

from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from hf_lorameta.pipeline.adapter_folder import EXPERTS
from tests.conftest import Account, Built, Shell


def test_a_mixture_is_pushed_inspected_and_replaced(
    cli: Shell, bank: Built, user: Account, data: Path
) -> None:
    repo = f"{user.name}/mix"
    rule = ("--coefficients", "normalized")
    push = ("push", "-d", data, "--bank", bank.folder, "--repo-id", repo, *rule)
    cli(*push, token=user.token)
    assert "already holds" in cli(*push, "--emit", "mixture", token=user.token, code=None).err
    cli(*push, "--emit", "mixture", "--top-k", 3, "--overwrite", token=user.token)
    files = set(cli.hub.files(repo))
    assert WEIGHTS_FILE not in files  # of the adapter that was replaced
    assert sum(name.endswith(WEIGHTS_FILE) for name in files) == 3
    shown = cli("inspect", repo, "--json", token=user.token).json
    assert shown["provenance"]["recipe"]["emit"] == "mixture"
    assert len(shown["coefficients"]) == 3
    assert "--emit mixture" in cli("inspect", repo, token=user.token).out
    cli(*push, "--overwrite", token=user.token)
    assert not any(name.startswith(EXPERTS) for name in cli.hub.files(repo))


def test_a_finished_folder_is_pushed_and_its_card_lists_every_license(
    cli: Shell, bank: Built, user: Account, data: Path
) -> None:
    generate = ("generate", "-d", data, "--bank", bank.folder, "-o", "mix", "--emit", "mixture")
    cli(*generate, "--coefficients", "normalized")
    cli("push", "--from", "mix", "--repo-id", f"{user.name}/m", token=user.token)
    card = (cli.cwd / "mix" / "README.md").read_text()
    for entry in bank.owner.entries:
        assert re.search(rf"{entry['adapter']}.*`mit`", card)
    assert len(list((cli.cwd / "mix" / EXPERTS).iterdir())) == 4


def test_commands_for_one_adapter_name_those_in_a_mixture(
    cli: Shell, bank: Built, data: Path
) -> None:
    generate = ("generate", "-d", data, "--bank", bank.folder, "-o", "mix")
    cli(*generate, "--emit", "mixture")
    error = cli("evaluate", "mix", "-d", data, code=5).err
    assert "name one of the adapters in it, such as mix/experts/" in error
    for option in (("--export", "gguf"), ("--check", 16), ("--budget", "60s")):
        error = cli(*generate, "--overwrite", "--emit", "mixture", *option, code=2).err
        assert f"leave out {option[0]}" in error or "leave out one of --budget" in error
