"""``inspect`` in child processes, against the loopback Hub."""

import json
from dataclasses import replace
from pathlib import Path

import hf_lorameta
from hf_lorameta.cards.record import RECIPE_FILE
from hf_lorameta.cards.results import Drawn, Outcome, StageRecord, Training
from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from hf_lorameta.pipeline.make import make_adapter
from tests.cli.conftest import Published
from tests.conftest import BASE, Account, Built, Shell, adapter_files, write_files


def test_inspect_shows_provenance_and_coefficients(
    cli: Shell, bank: Built, published: Published
) -> None:
    contents = cli("inspect", published.repo, "--json").json
    assert contents["provenance"] == json.loads(cli.hub.read(published.repo, RECIPE_FILE))
    assert contents["base_model_name_or_path"] == BASE
    text = cli("inspect", published.repo).out
    assert published.dataset in text
    assert "local bank" in text
    for entry in bank.owner.entries:
        assert entry["adapter"] in text
    for field, value in (("dataset split", "train"), ("columns", "input=input")):
        assert any(line.split("  ")[0] == field and value in line for line in text.splitlines())
    assert "coefficient: the adapter's factor" in cli("inspect", published.repo).err
    for option in ("-q", "--json"):
        assert cli("inspect", published.repo, option).err == ""


def test_inspect_shows_other_coefficients_and_what_stages_did(cli: Shell) -> None:
    plan = hf_lorameta.plan([{"input": f"{i}?", "output": f"{i}!"} for i in range(9)])
    training, drawn = (
        Training(rows=16, steps=12, seen=9, labeled=2000, folds=4),
        Drawn(2000, 12, 4, 0),
    )
    halved = StageRecord("halving", {"final_share": 0.5}, "Halved", "By 2.")
    made = replace(
        make_adapter(plan), outcome=Outcome(training=training, drawn=drawn, records=(halved,))
    )
    made.save_pretrained(cli.cwd / "a")
    lines = cli("inspect", "a").out.splitlines()
    assert f"{plan.neighbors()[0].title}  " in lines[-6]
    assert "  in the bank  " in lines[-6]  # as on the card, not local/…
    fields = {name: value for name, _, value in (line.partition("  ") for line in lines)}
    shown = {name: value.strip() for name, value in fields.items()}
    assert shown["coefficient of the general adapter"] == f"{plan.general_coefficient:.1%}"
    assert shown["strength of the output prior"] == f"{plan.output_strength:.2g}"
    assert shown["scale of all coefficients"] == f"{plan.scale:.2f}"
    not_public = "its dataset, base model and adapters are not all public"
    assert not_public in shown["sources"]
    assert not {name for name in shown if "_" in name or name.endswith("private")}
    assert shown["settings"] == "--train 16 --steps 12"
    assert shown["trained"].startswith(training.seen_rows)
    other = "another adapter was trained on the rows outside of each, to answer those in it"
    assert shown["folds of these rows"] == f"4: {other}"
    assert "rows drawn" not in shown
    assert shown["stages halving final share"] == "0.5"
    held_out = Outcome(replace(training, folds=0), drawn=drawn)
    replace(made, outcome=held_out).save_pretrained(cli.cwd / "b")
    lines = cli("inspect", "b").out.splitlines()
    [found] = [line for line in lines if line.startswith("rows drawn  ")]
    assert found.endswith("from 2,000")
    assert not [line for line in lines if line.startswith("folds")]


def test_inspect_shows_the_shape_of_any_lora_adapter(cli: Shell, user: Account) -> None:
    trained = user.adapter("trained", rank=3)
    contents = cli("inspect", trained, "--json").json
    assert (contents["rank"], contents["provenance"], contents["coefficients"]) == (3, None, [])
    assert "not made by hf-lorameta" in cli("inspect", trained).out


def test_inspect_shows_each_setting_of_the_prompt_on_one_line(
    cli: Shell, bank: Built, data: Path
) -> None:
    lines = [{"a": f"say {i}", "b": "egg", "c": f"{i}"} for i in range(24)]
    data.write_text("\n".join(map(json.dumps, lines)))
    prompt = ("--instruction", "Say it.", "--template", r"{instruction}\n\n{input}")
    columns = ("--columns", "input=a,input=b,output=c")
    cli("generate", data, "--bank", bank.folder, *columns, *prompt, "-o", "a")
    shown = [line.split("  ") for line in cli("inspect", "a").out.splitlines()]
    found = {words[0]: words[-1].strip() for words in shown}
    assert found["columns"] == columns[-1]
    assert found["instruction"] == "Say it."
    assert found["template"] == prompt[-1]


def test_inspect_refuses_what_is_not_a_lora_adapter(cli: Shell, user: Account) -> None:
    cli("inspect", "missing", code=5)
    write_files(cli.cwd / "a", adapter_files())
    assert cli("inspect", f"a/{WEIGHTS_FILE}", code=5).err.endswith("Next:  name a\n")
    at_revision = cli("inspect", "a", "--revision", "main", code=2).err
    assert at_revision.endswith("leave out --revision\n")
    cli("inspect", f"{user.name}/missing", code=6)
    pickle = user.adapter("pickle", {"adapter_model.bin": b"x", "adapter_config.json": b"{}"})
    cli("inspect", pickle, code=5)


def test_inspect_reads_the_given_revision(cli: Shell, published: Published, user: Account) -> None:
    first = cli.hub.commits(published.repo)[0].sha
    cli.hub.commit(published.repo, {RECIPE_FILE: b"{}"})
    assert cli("inspect", published.repo, "--json").json["provenance"] is None
    assert cli("inspect", published.repo, "--revision", first, "--json").json["provenance"]


OFFLINE = "import huggingface_hub.constants as c; c.HF_HUB_OFFLINE = True"


def test_without_the_hub_the_cache_is_used(cli: Shell, published: Published) -> None:
    contents = cli("inspect", published.repo, "--json").json
    cli.hub.clear_requests()
    assert cli("inspect", published.repo, "--json", before=OFFLINE).json == contents
    assert cli.hub.requests == []
    commit = cli.hub.commits(published.repo)[0].sha
    for revision in ("main", commit, commit[:8]):
        at = cli("inspect", published.repo, "--revision", revision, "--json", before=OFFLINE)
        assert at.json == contents
    absolute = cli("inspect", published.repo, "--revision", "/x", before=OFFLINE, code=6).err
    assert "at /x" in absolute
    assert cli("inspect", "a b/c", before=OFFLINE, code=5).err
    search = ("bank", "search", "--base", "")
    assert cli(*search, before=OFFLINE, code=2).err
    assert "--dataset 'a b.jsonl' -o" in cli("inspect", "a b.jsonl", code=5).err
    message = cli("inspect", "user/other", before=OFFLINE, code=6).err
    assert "HF_HUB_OFFLINE" in message
