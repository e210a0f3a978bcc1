"""``merge`` in child processes, against the loopback Hub."""

import json
import re
import shlex
from pathlib import Path

from hf_lorameta.cards.record import RECIPE_FILE
from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from hf_lorameta.formats.peft_config import CONFIG_FILE
from hf_lorameta.pipeline.adapter_folder import COEFFICIENTS_FILE
from tests.conftest import BASE, Account, Shell, adapter_files, write_files

CARD = b"---\nlicense: apache-2.0\n---\n"


def adapter(user: Account, name: str, **shape: object) -> str:
    files = adapter_files(**shape)  # type: ignore[arg-type]
    return user.adapter(name, files | {"README.md": CARD})


def test_repos_are_merged_and_published_with_licenses_and_commits(
    cli: Shell, user: Account, tmp_path: Path
) -> None:
    a, b = adapter(user, "a", seed=1), adapter(user, "b", seed=2, rank=3)
    pinned = f"{b}@{cli.hub.commits(b)[0].sha}"
    target = f"{user.name}/merged"
    done = cli("merge", f"{a}:0.7", f"{pinned}:-0.3", "-o", "m", "--json", token=user.token)
    assert done.json["folder"] == "m"
    _, *push = shlex.split(done.err.splitlines()[-1].removeprefix("To publish: "))
    assert push[-1] == "user/name"
    assert cli(*push[:-1], target, token=user.token).out.strip().endswith(target)
    rows = json.loads(cli.hub.read(target, RECIPE_FILE))["adapters"]
    assert [(row["adapter"], row["weight"]) for row in rows] == [(a, 0.7), (b, -0.3)]
    assert [row["revision"] for row in rows] == [cli.hub.commits(x)[0].sha for x in (a, b)]
    card = cli.hub.read(target, "README.md").decode()
    assert "license: apache-2.0\n" in card
    assert f"base_model: {BASE}\n" in card
    assert cli.hub.read(target, WEIGHTS_FILE) == (tmp_path / "m" / WEIGHTS_FILE).read_bytes()
    shown = cli("inspect", target, token=user.token)
    assert a in shown.out
    assert "-0.3" in shown.out
    assert "distance" not in shown.err


def test_a_finished_merge_replaces_a_generated_adapter(
    cli: Shell, user: Account, tmp_path: Path
) -> None:
    a = adapter(user, "a", seed=1)
    cli("merge", f"{a}:2", "-o", "m", "--rank", 1, token=user.token)
    assert "names no public dataset" in cli("evaluate", "m", code=2).err
    target = user.adapter("old", {RECIPE_FILE: b"{}", COEFFICIENTS_FILE: b"[]"})
    cli("push", "--from", "m", "--repo-id", target, token=user.token, code=6)
    cli("push", "--from", "m", "--repo-id", target, "--overwrite", token=user.token)
    assert COEFFICIENTS_FILE not in cli.hub.files(target)
    assert json.loads(cli.hub.read(target, RECIPE_FILE))["merge"]["rank"] == 1


def test_folders_give_a_private_repo_and_no_path_on_the_card(
    cli: Shell, user: Account, tmp_path: Path
) -> None:
    write_files(tmp_path / "my secret folder", adapter_files())
    target = f"{user.name}/from-folder"
    merged = cli("merge", "my secret folder:1", "-o", "m", token=user.token)
    [named] = re.findall(r"The card names my secret folder as (local adapter \w+)", merged.err)
    cli("push", "--from", "m", "--repo-id", target, token=user.token)
    assert (repo := cli.hub.repo(target)) is not None
    assert repo.private
    for name in ("README.md", RECIPE_FILE):
        assert "secret" not in (text := cli.hub.read(target, name).decode())
        assert named in text


def test_a_folder_is_replaced_with_consent(cli: Shell, user: Account, tmp_path: Path) -> None:
    a, b = adapter(user, "a", seed=1), adapter(user, "b", seed=2)
    cli("merge", f"{a}:1", "-o", "m", token=user.token)
    command = ("merge", f"{b}:1", "-o", "m")
    assert "add --overwrite" in cli(*command, token=user.token, code=2).err
    cli(*command, "--overwrite", token=user.token)
    rows = json.loads((tmp_path / "m" / RECIPE_FILE).read_bytes())["adapters"]
    assert rows[0]["adapter"] == b


def test_a_merge_keeps_what_its_sources_agree_on(cli: Shell, tmp_path: Path) -> None:
    rows = "".join(f'{{"q": "How far is {n}?", "a": "{n} km"}}\n' for n in range(30))
    (tmp_path / "rows.jsonl").write_text(rows)
    for name, told in (("a", "Say it."), ("b", "Say it."), ("c", "Guess.")):
        of = ("-d", "rows.jsonl", "--columns", "input=q,output=a", "--instruction", told)
        cli("generate", *of, "--top-k", 2, "--budget", 0, "-o", name)
    for other, prompt in (("b:1", "Say it."), ("c:1", None), ("general:1", None)):
        cli("merge", "a:1", other, "-o", "m", "--overwrite", "--export", "gguf")
        card = (tmp_path / "m" / "README.md").read_text()
        assert ('prompt = "Say it.' in card) == (prompt is not None)
        assert ("Say it." in (tmp_path / "m" / "Modelfile").read_text()) == (prompt is not None)
        columns = json.loads((tmp_path / "m" / RECIPE_FILE).read_bytes())["columns"]
        assert (columns and columns["instruction_text"]) == prompt
        assert "Base model: `apache-2.0`" in card
        assert "## Warnings" not in card


def test_a_repo_without_safetensors_is_refused(cli: Shell, user: Account) -> None:
    files = adapter_files()
    repo = user.adapter("pickled", {"adapter_model.bin": b"", CONFIG_FILE: files[CONFIG_FILE]})
    message = cli("merge", f"{repo}:1", "-o", "m", token=user.token, code=5).err
    assert f"{repo} lacks {WEIGHTS_FILE}, so" in message


def test_wrong_arguments_are_refused(cli: Shell, user: Account) -> None:
    a = adapter(user, "a")
    for arguments, message in (
        ((a, "b:2", "-o", "m"), f"hf-lorameta merge {a}:0.5 b:2 -o merged"),
        ((f"{a}:x", "-o", "m"), f"hf-lorameta merge {a}:0.5 -o merged"),
        ((f"{a}:1", f"{a}:2", "-o", "m"), "named twice"),
        ((f"{a}:1", "-o", "m", "--rank", "x"), "valid integer"),
    ):
        assert message in cli("merge", *arguments, token=user.token, code=2).err
