"""``hf-lorameta bank …`` in child processes, against the loopback Hub."""

import json
import re
import shutil
import signal
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from hf_lorameta.bank.index import adapter_path
from hf_lorameta.embedded import EMBEDDED
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, AdapterFile
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.method.registries import METRICS
from tests.cli.conftest import EVERY_LINE
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
    write_files,
)
from tests.support.fault_hub import Fault
from tests.support.random_adapter import random_pairs, write_adapter

WEIGHTS = WEIGHTS_FILE


def test_list_shows_commits_licenses_and_numbers_of_rows(cli: Shell, bank: Built) -> None:
    listed = cli("bank", "list", bank.folder, "--json").json
    assert [e["adapter"] for e in listed["entries"]] == [e["adapter"] for e in bank.owner.entries]
    assert not listed["skipped"]
    first = listed["entries"][0]
    hub = cli.hub
    assert first["adapter_revision"] == hub.commits(first["adapter"])[0].sha
    assert first["dataset_revision"] == hub.commits(first["dataset"], repo_type="dataset")[0].sha
    assert first["license"] == "mit"
    assert first["rows"] == 24
    assert listed["base_revision"] == hub.commits("base/tiny")[0].sha
    assert listed["base_license"] == "apache-2.0"
    assert first["adapter"] in cli("bank", "list", bank.folder).out


def test_list_of_the_bank_for_a_base_model(cli: Shell, bank: Built) -> None:
    base = "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    for words in (("--base", base.lower()), ("--base", base)):
        shown = cli("bank", "list", *words).out
        assert shown == f"a general adapter for {base}\ntrained on 185 tasks\n"
    assert cli("bank", "list", bank.folder, "--base", "base/tiny", "--json").json["entries"]
    wrong = cli("bank", "list", bank.folder, "--base", base, code=4).err
    assert base in wrong
    missing = cli("bank", "list", "--base", "base/tiny", code=4).err
    assert "base/tiny" in missing
    assert "Next:  hf-lorameta bank search --base base/tiny" in missing


def test_a_repeated_build_downloads_only_new_entries(
    cli: Shell, user: Account, tmp_path: Path
) -> None:
    for topic in range(3):
        user.entry(f"e{topic}", topic)
    listed, target = user.manifest(tmp_path / "m.yaml"), tmp_path / "bank"
    cli("bank", "build", listed, "-o", target)
    assert touched(cli.hub, user.name)
    before = tree(target)
    cli.hub.clear_requests()
    cli("bank", "build", listed, "-o", target)
    assert touched(cli.hub, user.name) == []
    assert tree(target) == before

    user.entry("e3", 3)
    cli("bank", "build", user.manifest(tmp_path / "m.yaml"), "-o", target)
    assert touched(cli.hub, f"{user.name}/e3")
    assert [p for p in touched(cli.hub, user.name) if "/e3" not in p] == []
    assert len(cli("bank", "list", target, "--json").json["entries"]) == 4


def test_a_build_drops_no_adapter_of_a_bank(cli: Shell, bank: Built, tmp_path: Path) -> None:
    few = bank.owner.manifest(tmp_path / "few.yaml", bank.owner.entries[:2])
    shutil.copytree(bank.folder, tmp_path / "four")
    base = "Qwen/Qwen2.5-Coder-0.5B-Instruct"  # of a general adapter alone
    shutil.copytree(EMBEDDED[base], tmp_path / "general")
    for folder, lost in (("four", f"2 adapters, such as {bank.owner.name}--e2"),
                         ("general", "1 adapter, such as general")):  # fmt: skip
        before = tree(tmp_path / folder)
        refused = cli("bank", "build", few, "-o", folder, code=4).err
        assert lost in refused
        assert tree(tmp_path / folder) == before


def test_the_number_of_workers_does_not_change_the_bytes(
    cli: Shell, bank: Built, tmp_path: Path
) -> None:
    manifest = bank.owner.manifest(tmp_path / "m.yaml")
    slow = bank.owner.entries[0]["adapter"]
    cli.hub.add_fault(Fault("delay", path=f"^/{slow}/resolve", seconds=0.3))  # the first ends last
    cli("bank", "build", manifest, "-o", tmp_path / "one", "--workers", 1)
    cli("bank", "build", manifest, "-o", tmp_path / "many", "--workers", 7)
    expected = tree(bank.folder)
    assert tree(tmp_path / "one") == expected
    assert tree(tmp_path / "many") == expected


def test_invalid_entries_are_skipped_with_a_reason(
    cli: Shell, user: Account, tmp_path: Path
) -> None:
    good = [user.entry(f"good{i}", i) for i in range(2)]
    files = adapter_files()
    other = tuple(Module(m.name, 6, m.out_features) for m in LAYOUT)
    adapters = {
        "nan": (files | {WEIGHTS: files[WEIGHTS][:-4] + struct.pack("<f", np.nan)}, "NaN"),
        "huge": (files | {WEIGHTS: struct.pack("<Q", 10 << 30) + files[WEIGHTS][8:]}, "1073741824"),
        "pickle": ({k: v for k, v in files.items() if k != WEIGHTS}
                   | {"adapter_model.bin": b"\x80\x04."}, "pickle"),
        "base": (adapter_files(base="other/model"), "other/model"),
        "shapes": (adapter_files(layout=other), "other modules or shapes"),
        "dora": (adapter_files(use_dora=True), "dora"),
        "rank": (adapter_files(r=3), "rank 3"),
    }  # fmt: skip
    script = b"import datasets\nclass X(datasets.GeneratorBasedBuilder):\n    pass\n"
    data = user.dataset("data", {"train.jsonl": rows(0)})
    datasets = {
        "missing": (f"{user.name}/missing", "not found"),
        "gated": (user.dataset("gated", {"train.jsonl": rows(0)}, gated=True), "gated"),
        "script": (user.dataset("script", {"script.py": script}), "script"),
        "nofiles": (user.dataset("nofiles", {"README.md": b"# x\n"}), "no data files"),
        "broken": (user.dataset("broken", {"train.jsonl": b'{"input": "a", "out\n\n{{'}), "read"),
        "unlabeled": (user.dataset("unl", {"train.jsonl": b'{"input": "say sun"}\n'}), "outputs"),
    }  # fmt: skip
    listed, expected = list(good), {}
    for name, (content, reason) in adapters.items():
        listed.append({"adapter": user.adapter(f"a-{name}", content), "dataset": data})
        expected[f"{user.name}/a-{name}"] = reason
    for name, (dataset, reason) in datasets.items():
        listed.append({"adapter": user.adapter(f"d-{name}"), "dataset": dataset})
        expected[f"{user.name}/d-{name}"] = reason
    listed.append({"adapter": f"{user.name}/gone", "dataset": data})
    expected[f"{user.name}/gone"] = "not found"

    done = cli("bank", "build", user.manifest(tmp_path / "m.yaml", listed), "-o", tmp_path / "b")
    index = json.loads((tmp_path / "b/bank.json").read_bytes())
    assert [e["adapter"] for e in index["entries"]] == [e["adapter"] for e in good]
    reasons = {s["adapter"]: s["reason"] for s in index["skipped"]}
    assert list(reasons) == list(expected)
    wrong = {k: r for k, r in reasons.items() if expected[k].lower() not in r.lower()}
    assert not wrong
    assert all(name in done.out for name in expected)
    assert cli("bank", "verify", tmp_path / "b").out == "2 adapters, all checksums match\n"
    stored = {p.name for p in (tmp_path / "b/adapters").iterdir()}
    # a-shapes is valid by itself: only the layout that the bank settles on excludes it
    assert stored == {f"{user.name}--{n}.safetensors" for n in ("good0", "good1", "a-shapes")}
    assert max(r.bytes_sent for r in cli.hub.requests) < 1 << 20


def test_adapters_in_folders_of_one_repo_are_entries(
    cli: Shell, user: Account, tmp_path: Path
) -> None:
    files = {
        f"flan.{name}/{path}": content
        for seed, name in enumerate(("boolq", "rte"))
        for path, content in adapter_files(seed=seed).items()
    }
    many = user.adapter("many", files | {"README.md": b"---\nlicense: mit\n---\n"})
    entries = [
        {"adapter": f"{many}/flan.{name}", "dataset": user.dataset(name, {"train.jsonl": rows(i)})}
        for i, name in enumerate(("boolq", "rte", "gone"))
    ]
    entries.append({"adapter": many, "dataset": entries[0]["dataset"]})
    built = cli("bank", "build", user.manifest(tmp_path / "m.yaml", entries), "-o", "b", "--json")
    sha = cli.hub.commits(many)[0].sha
    assert [(e["adapter"], e["adapter_revision"], e["license"]) for e in built.json["entries"]] == [
        (f"{many}/flan.{name}", sha, "mit") for name in ("boolq", "rte")
    ]
    reasons = {skipped["adapter"]: skipped["reason"] for skipped in built.json["skipped"]}
    assert "no weights" in reasons[f"{many}/flan.gone"]
    assert "flan.boolq" in reasons[many]
    assert cli("bank", "verify", "b").out == "2 adapters, all checksums match\n"
    repo = f"{user.name}/b"
    cli("bank", "push", "b", repo, token=user.token)
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    cli("generate", "-d", "rows.jsonl", "--bank", repo, "-o", "adapter")
    assert f"{many}/flan.rte" in (cli.cwd / "adapter/README.md").read_text()


def test_an_adapter_whose_update_outweighs_the_others_is_left_out_unless_asked_for(
    cli: Shell, user: Account, tmp_path: Path
) -> None:
    for number in range(3):
        user.entry(f"good{number}", number)
    user.entry("poisoned", 3, lora_alpha=400)
    build, poisoned = ("bank", "build", user.manifest(tmp_path / "m.yaml")), f"{user.name}/poisoned"
    done = cli(*build, "-o", "b")
    named = re.search(rf"{poisoned}: its update has norm (.+?), (\d+) times the median", done.out)
    assert named
    assert float(named[2]) > 100
    entries = json.loads((cli.cwd / "b/bank.json").read_bytes())["entries"]
    assert poisoned not in [entry["adapter"] for entry in entries]
    file = AdapterFile(cli.cwd / "b" / adapter_path(entries[0]["name"]))
    pairs = (file.factors(module.name) for module in file.layout)
    whole = np.concatenate([(entries[0]["scaling"] * B @ A).ravel() for A, B in pairs])
    assert entries[0]["norm"] == pytest.approx(float(np.linalg.norm(whole)), rel=1e-5)
    assert len(cli(*build, "-o", "b", "--keep-outliers", "--json").json["entries"]) == 4


def test_an_adapter_with_a_scaled_module_is_left_out_and_named_where_it_is_used(
    cli: Shell, user: Account, tmp_path: Path
) -> None:
    layout = tuple(Module(f"model.layers.{i}.self_attn.q_proj", 8, 8) for i in range(5))
    for number in range(3):
        user.entry(f"good{number}", number, layout=layout)
    pairs = random_pairs(layout, rank=2, seed=3, scale=0.03)
    pairs[2] = random_pairs(layout, rank=2, seed=4, scale=0.2)[2]
    folder = write_adapter(tmp_path / "scaled", layout, pairs, BASE)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    odd = user.adapter("scaled", files)
    dataset = user.dataset("scaled", {"train.jsonl": rows(3)})
    user.entries.append({"adapter": odd, "dataset": dataset, "license": "mit"})
    build = "bank", "build", user.manifest(tmp_path / "m.yaml")
    reason = r"a module of its update has \d+ times the norm of most such modules"
    assert re.search(f"{odd}: {reason}; --keep-outliers keeps it", cli(*build, "-o", "b").out)
    cli(*build, "-o", "b", "--keep-outliers")
    (tmp_path / "rows.jsonl").write_bytes(rows(3))
    named = f"odd beside the others. {user.name}--scaled: {reason}. To use none of them, add --bank"
    assert re.search(named, cli("generate", "rows.jsonl", "--bank", "b", "-o", "a").err)
    merged = cli("merge", f"{user.name}/good0:0.5", f"{odd}:0.5", "-o", "m", token=user.token).err
    assert re.search(f"{odd} looks odd beside the others: {reason}. Before .*: hf-lora", merged)
    even = cli("merge", f"{user.name}/good0:0.5", f"{user.name}/good1:0.5", "-o", "n").err
    assert "odd" not in even


def test_local_adapters_and_datasets_are_entries_that_show_no_path(
    cli: Shell, bank: Built, user: Account, tmp_path: Path
) -> None:
    lora = adapter_files(seed=9) | {"README.md": b"---\nlicense: mit\n---\n"}
    write_files(tmp_path / "mine/my lora", lora)
    others = {"data/train.jsonl": rows(2), "rows.jsonl": rows(1), "manifest.json": b""}
    write_files(tmp_path / "mine", others)
    entries: list[dict[str, object]] = [
        {"adapter": "./my lora", "dataset": "./rows.jsonl"},
        bank.owner.entries[0],
        {"adapter": "./gone", "dataset": "./rows.jsonl"},
    ]
    manifest = user.manifest(tmp_path / "mine/m.yaml", entries)
    built = cli("bank", "build", manifest, "-o", "b", "--json").json
    local, hub = built["entries"]
    assert (local["adapter"], local["dataset"]) == ("local/my-lora", "local/rows")
    assert (local["private"], local["license"], hub["private"]) == (True, "mit", False)
    assert local["adapter_revision"].startswith("sha256:")
    assert not built["published"]
    (skipped,) = built["skipped"]
    assert skipped["adapter"] == "local/gone"
    shown = b"".join(tree(tmp_path / "b").values())
    assert str(tmp_path).encode() not in shown
    cli("generate", tmp_path / "mine/rows.jsonl", "--bank", "b", "-o", "a", "--top-k", 1)

    before = tree(tmp_path / "b")
    cli("bank", "build", manifest, "-o", "b")
    assert tree(tmp_path / "b") == before
    write_files(tmp_path / "mine", {"rows.jsonl": rows(3, 12)})
    (local, _) = cli("bank", "build", manifest, "-o", "b", "--json").json["entries"]
    assert local["rows"] == 12
    entries[0]["dataset"] = "./data"
    entries[0]["license"] = "mit"
    manifest = user.manifest(tmp_path / "mine/m.yaml", entries[:2])
    (local, _) = cli("bank", "build", manifest, "-o", "b", "--json").json["entries"]
    assert (local["dataset"], local["private"]) == ("local/data", False)
    cli("bank", "verify", "b")


def with_tokenizer(manifest: Path, repo: str) -> Path:
    """Write a copy of a manifest that names the repo of a tokenizer."""
    path = manifest.with_name("with-tokenizer.yaml")
    path.write_text(json.dumps(json.loads(manifest.read_text()) | {"tokenizer": repo}))
    return path


def test_what_no_bank_can_be_built_of_is_refused(cli: Shell, user: Account, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    user.entry("dora", use_dora=True)
    dora = user.manifest(tmp_path / "dora.yaml").rename(tmp_path / "d.yaml")
    manifest = user.manifest(tmp_path / "m.yaml", [user.entry("e")])
    content = manifest.read_text()
    (tmp_path / "base.yaml").write_text(content.replace("base/tiny", "base/none"))
    (tmp_path / "bad.yaml").write_text(content.replace('"adapter"', '"adaptr"'))
    broken = with_tokenizer(manifest, user.adapter("t", {"tokenizer.json": b"{}"}))
    for path, target, code, message in (
        (tmp_path / "missing.yaml", "b", 2, "missing.yaml"),
        (tmp_path / "bad.yaml", "b", 2, "bad.yaml: entries.0.adapter: is missing"),
        (dora, "b", 4, "no entry can be used"),
        (broken, "b", 4, "tokenizer.json"),
        (manifest, "file", 4, "file"),
        (tmp_path / "base.yaml", "b", 4, "name another repo in the manifest's `tokenizer`"),
    ):
        assert message in cli("bank", "build", path, "-o", target, code=code).err
        assert not (tmp_path / "b/bank.json").exists()


def test_another_tokenizer_recomputes_the_profiles(
    cli: Shell, user: Account, tmp_path: Path
) -> None:
    user.entry("e0", 0)
    user.entry("e1", 1)
    manifest = user.manifest(tmp_path / "m.yaml")
    files = {"tokenizer.json": tokenizer_json().replace(b'"sun"', b'"fog"')}
    other = with_tokenizer(manifest, user.adapter("t", files))
    cli("bank", "build", manifest, "-o", tmp_path / "b")
    cli("bank", "build", other, "-o", tmp_path / "b")
    cli("bank", "build", other, "-o", tmp_path / "fresh")
    assert tree(tmp_path / "b") == tree(tmp_path / "fresh")


def test_a_killed_build_resumes_with_the_unfinished_entry(
    cli: Shell, bank: Built, tmp_path: Path
) -> None:
    manifest, target = bank.owner.manifest(tmp_path / "m.yaml"), tmp_path / "b"
    shutil.rmtree(cli.home / "hub", ignore_errors=True)  # weights of other builds
    last = bank.owner.entries[-1]["adapter"]
    cli.hub.add_fault(Fault("hold", path=f"{last}/resolve/.*{WEIGHTS}"))
    build = cli.start("bank", "build", manifest, "-o", target)
    finished = [target / ".build" / f"{bank.owner.name}--e{i}.json" for i in range(3)]
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in finished):
        assert build.poll() is None, build.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    concurrent = cli("bank", "build", manifest, "-o", target, code=4)
    assert "another command is writing" in concurrent.err
    build.send_signal(signal.SIGKILL)
    build.communicate()
    assert not (target / "bank.json").exists()
    for part in (".", "adapters", ".build"):
        (target / part / f".{WEIGHTS}.1.partial").write_bytes(b"x")

    cli.hub.clear_faults()
    cli.hub.clear_requests()
    cli("bank", "build", manifest, "-o", target)
    assert {p for p in touched(cli.hub, bank.owner.name) if "/e3" not in p} == set()
    expected = tree(bank.folder)
    assert tree(target) == expected
    assert list(target.rglob("*.partial")) == []


def test_verify_names_the_file_with_a_flipped_bit(cli: Shell, bank: Built, tmp_path: Path) -> None:
    for number, name in enumerate([f"adapters/{bank.owner.name}--e2.safetensors",
                                   "profiles.safetensors", "tokenizer.json"]):  # fmt: skip
        copy = shutil.copytree(bank.folder, tmp_path / str(number))
        raw = bytearray((copy / name).read_bytes())
        raw[-1] ^= 1
        (copy / name).write_bytes(raw)
        done = cli("bank", "verify", copy, code=4)
        assert name in done.out
        assert f"1 file of {copy}" in done.err
        assert cli("bank", "verify", copy, "--json", code=4).json["problems"] == [
            f"{name}: checksum differs from the index"
        ]
    (copy / "tokenizer.json").unlink()
    assert "tokenizer.json: missing" in cli("bank", "verify", copy, code=4).out
    for content, command, message in (
        ("[]", "verify", "bank.json"),
        ("{", "list", "bank.json: Invalid JSON"),
        ('{"schema_version": 99}', "list", "schema_version: must be 1 or 2"),
    ):
        (copy / "bank.json").write_text(content)
        assert message in cli("bank", command, copy, code=4).err
    for folder, code in ((str(tmp_path), 4), ("/no/such/folder", 4), ("no/such", 6)):
        cli("bank", "list", folder, code=code)


def test_push_publishes_no_other_files_and_keeps_the_visibility(
    cli: Shell, bank: Built, user: Account, tmp_path: Path
) -> None:
    copy, repo = shutil.copytree(bank.folder, tmp_path / "b"), f"{user.name}/b"
    (copy / "secret.txt").write_text("mine")
    content = tree(copy)
    url = cli("bank", "push", copy, repo, "--private", token=user.token).out
    assert url == f"{cli.hub.url}/datasets/{repo}\n"
    files = set(cli.hub.files(repo, repo_type="dataset")) - {".gitattributes"}
    assert files == {"README.md", *content} - {"secret.txt"}
    assert cli.hub.repo(repo, "dataset").private  # type: ignore[union-attr]
    cli("bank", "push", copy, repo, token=user.token)  # without --private or --public
    assert cli.hub.repo(repo, "dataset").private  # type: ignore[union-attr]
    public = f"{user.name}/public"
    cli.hub.create_repo(public, repo_type="dataset")
    before = cli.hub.commits(public, repo_type="dataset")
    refused = cli("bank", "push", copy, public, "--private", token=user.token, code=6)
    assert "is public" in refused.err
    assert cli.hub.commits(public, repo_type="dataset") == before
    cli("bank", "push", copy, bank.repo, token=user.token, code=6)
    cli("bank", "push", copy, repo, code=6)
    assert tree(copy) == content
    assert repo in cli.hub.read(repo, "README.md", repo_type="dataset").decode()
    (copy / "tokenizer.json").unlink()
    cli("bank", "push", copy, repo, token=user.token, code=4)


def test_a_bank_on_the_hub_is_fetched_as_it_is_needed(
    cli: Shell, bank: Built, user: Account, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    cli("bank", "list", bank.repo)
    assert touched(cli.hub, "profiles.safetensors") == []
    cli("plan", "--dataset", "rows.jsonl", "--bank", bank.repo)
    assert touched(cli.hub, "profiles.safetensors")
    assert touched(cli.hub, "adapters/") == []
    cli("generate", "--dataset", "rows.jsonl", "--bank", bank.repo, "-o", "a", "--top-k", 1)
    fetched = {p.split("?")[0].rsplit("/", 1)[-1] for p in touched(cli.hub, "adapters/")}
    assert fetched == {f"{bank.owner.name}--e1.safetensors"}
    provenance = json.loads((tmp_path / "a/recipe.json").read_bytes())
    assert provenance["bank"]["id"] == bank.repo
    assert provenance["bank"]["revision"] == cli.hub.commits(bank.repo, repo_type="dataset")[0].sha
    data = user.dataset("data", {"train.jsonl": rows(0)})
    assert "not a bank" in cli("bank", "list", data, code=4).err


def test_an_adapter_that_differs_from_the_index_is_refused(
    cli: Shell, bank: Built, user: Account, tmp_path: Path
) -> None:
    repo, name = f"{user.name}/b", f"adapters/{bank.owner.name}--e1.safetensors"
    cli("bank", "push", bank.folder, repo, token=user.token)
    raw = bytearray(cli.hub.read(repo, name, repo_type="dataset"))
    raw[-3] ^= 1
    cli.hub.commit(repo, {name: bytes(raw)}, repo_type="dataset")
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    for _ in range(2):  # the second time it is in the cache
        done = cli("generate", "--dataset", "rows.jsonl", "--bank", repo, "-o", "a", code=4)
        assert name in done.err
        assert not (tmp_path / "a").exists()


def test_the_neural_rule_is_trained_and_stored(cli: Shell, bank: Built, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    copy = shutil.copytree(bank.folder, tmp_path / "b")
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    fitted = cli(
        "bank", "train-rule", copy, "--hidden", 8, "--steps", 2, "--json", before=EVERY_LINE
    )
    assert re.search(r"1-Wasserstein .*: 2 of 2$", fitted.err, re.MULTILINE)
    reports = fitted.json
    assert set(reports) == set(METRICS)
    cli("bank", "verify", copy)
    for metric in ("kl", "js-task"):
        options = ("--metric", metric, "--coefficients", "neural", "--json")
        plan = cli("plan", "--dataset", "rows.jsonl", "--bank", "b", *options).json
        assert sum(n["coefficient"] for n in plan["neighbors"]) == pytest.approx(1)
    two = bank.owner.manifest(tmp_path / "m", bank.owner.entries[:2])
    cli("bank", "build", two, "-o", tmp_path / "two")
    cli("bank", "train-rule", tmp_path / "two", code=4)
