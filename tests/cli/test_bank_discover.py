"""``bank discover`` in child processes, against the loopback Hub."""

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from tests.conftest import (
    Account,
    Shell,
    adapter_files,
    rows,
    tokenizer_json,
    touched,
)
from tests.support.fault_hub import Fault


class Publisher:
    """Publishes adapters of its own base model, with cards."""

    def __init__(self, user: Account) -> None:
        self.user, self.base = user, f"{user.name}/base"
        user.hub.create_repo(self.base)
        user.hub.commit(self.base, {"tokenizer.json": tokenizer_json()})
        self.data = user.dataset("data", {"train.jsonl": rows(0)})

    def adapter(self, name: str, files: Mapping[str, bytes] | None = None, **card: Any) -> str:
        """Publish an adapter; `card` overrides fields of its card, None removes one."""
        fields = {"base_model": self.base, "library_name": "peft", "datasets": self.data} | card
        text = yaml.safe_dump({k: v for k, v in fields.items() if v is not None})
        files = adapter_files(base=self.base) if files is None else files
        readme = {"README.md": f"---\n{text}---\n# {name}\n".encode()}
        return self.user.adapter(name, {**files, **readme})


@pytest.fixture
def publisher(user: Account) -> Publisher:
    return Publisher(user)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return content


def test_the_manifest_pins_adapters_and_datasets_and_can_be_built(
    cli: Shell, publisher: Publisher, tmp_path: Path
) -> None:
    hub, user = cli.hub, publisher.user
    other = user.dataset("other", {"train.jsonl": rows(1)})
    wanted = {
        publisher.adapter("text", datasets=other, license="mit"): other,
        publisher.adapter("list", datasets=[publisher.data]): publisher.data,
        publisher.adapter("bases", base_model=[publisher.base, "org/z"]): publisher.data,
    }
    done = cli("bank", "discover", publisher.base, "-o", "m.yaml", "--workers", 1)
    manifest = read(tmp_path / "m.yaml")
    assert manifest["base_model"] == publisher.base
    found = {entry["adapter"]: entry for entry in manifest["entries"]}
    assert {name: entry["dataset"] for name, entry in found.items()} == wanted
    for name, entry in found.items():
        assert entry["revision"] == hub.commits(name)[0].sha
        assert entry["dataset_revision"] == hub.commits(entry["dataset"], "dataset")[0].sha
        assert entry.get("license") == ("mit" if name.endswith("/text") else None)
    assert len(touched(hub, "/api/models", "filter=")) == 1
    assert "3 of 3 adapters" in done.out
    assert "2 state no license" in done.out
    cli("bank", "build", "m.yaml", "-o", "b")
    assert {e["adapter"] for e in cli("bank", "list", "b", "--json").json["entries"]} == set(wanted)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "m.yaml"]


def card(**fields: Any) -> bytes:
    return f"---\n{yaml.safe_dump(fields)}---\n".encode()


def in_folders(folders: Mapping[str, Mapping[str, bytes]]) -> dict[str, bytes]:
    return {f"{name}/{path}": raw for name, files in folders.items() for path, raw in files.items()}


def test_adapters_in_folders_are_found_with_datasets_and_licenses_of_their_own_cards(
    cli: Shell, publisher: Publisher, tmp_path: Path
) -> None:
    user, base = publisher.user, publisher.base
    other = user.dataset("other", {"train.jsonl": rows(1)})
    plain = adapter_files(base=base)
    parts = {
        "flan/rte": {**plain, "README.md": card(datasets=other, license="cc-by-4.0")},
        "boolq": {**plain, "README.md": card(datasets=[publisher.data])},
        "two-terms": {**plain, "README.md": card(datasets=other, license=["mit", "gpl"])},
        "no-card": plain,
        "no-data": {**plain, "README.md": card(license="mit")},
        "damaged": {**plain, "README.md": b"---\n" + b"[" * 5000 + b"\n---\n"},
        "other-base": adapter_files(base="org/z") | {"README.md": card(datasets=other)},
        "my lora": {**plain, "README.md": card(datasets=other)},
    }
    many = publisher.adapter("many", in_folders(parts), license="mit")
    alone = publisher.adapter("alone", in_folders({"lora": plain}), license="apache-2.0")
    rooted = publisher.adapter("rooted", plain | in_folders({"checkpoint-8": plain}))
    cli.hub.clear_requests()
    found = cli("bank", "discover", base, "-o", "m.yaml", "--json").json
    sha = cli.hub.commits(many)[0].sha
    assert {
        entry["adapter"]: (entry["dataset"], entry.get("license")) for entry in found["entries"]
    } == {
        f"{many}/flan/rte": (other, "cc-by-4.0"),
        f"{many}/boolq": (publisher.data, "mit"),
        f"{many}/two-terms": (other, None),
        f"{alone}/lora": (publisher.data, "apache-2.0"),
        rooted: (publisher.data, None),
    }
    assert {e["revision"] for e in found["entries"] if e["adapter"].startswith(many)} == {sha}
    assert {left["adapter"]: left["reason"] for left in found["left_out"]} == {
        f"{many}/no-card": "card names no dataset",
        f"{many}/no-data": "card names no dataset",
        f"{many}/damaged": "card names no dataset",
        f"{many}/other-base": "config names another base model",
        f"{many}/my lora": "name not possible in a manifest",
    }
    assert len(touched(cli.hub, f"/api/models/{many}")) == 1
    cli("bank", "build", "m.yaml", "-o", "b")
    built = cli("bank", "list", "b", "--json").json["entries"]
    licenses = {entry["adapter"]: entry["license"] for entry in built}
    assert licenses[f"{many}/flan/rte"] == "cc-by-4.0"
    assert licenses[f"{many}/two-terms"] is None
    limited = cli("bank", "discover", base, "-o", "n.yaml", "--limit", 4, "--json").json
    assert len(limited["entries"] + limited["left_out"]) == 4
    assert limited["more"]


def test_each_adapter_that_is_left_out_has_its_reason(cli: Shell, publisher: Publisher) -> None:
    user, base = publisher.user, publisher.base
    plain = adapter_files(base=base)
    gated = user.dataset("gated", {"train.jsonl": rows(0)}, gated=True)
    private = user.dataset("private", {"train.jsonl": rows(0)}, private=True)
    without_weights = {k: v for k, v in plain.items() if k != WEIGHTS_FILE}
    part = "adapter_model-00001-of-00002.safetensors"
    expected = {
        publisher.adapter("no-data", datasets=None): "card names no dataset",
        publisher.adapter("two", datasets=["o/a", "o/b"]): "card names several datasets",
        publisher.adapter("missing", datasets="no/such"): "dataset missing or private",
        publisher.adapter("path", datasets="generator"): "dataset missing or private",
        publisher.adapter("private-data", datasets=private): "dataset missing or private",
        publisher.adapter("gated-data", datasets=gated): "dataset gated",
        publisher.adapter("bin", without_weights | {"adapter_model.bin": b"\x80"}):
            "no adapter_model.safetensors",
        publisher.adapter("parts", without_weights | {part: b"x"}): "no adapter_model.safetensors",
        publisher.adapter("dora", adapter_files(base=base, use_dora=True)):
            "not a plain LoRA adapter",
        publisher.adapter("saved", adapter_files(base=base, modules_to_save=["lm_head"])):
            "not a plain LoRA adapter",
        publisher.adapter("ia3", adapter_files(base=base, peft_type="IA3")):
            "not a plain LoRA adapter",
        publisher.adapter("no-config", {WEIGHTS_FILE: plain[WEIGHTS_FILE]}):
            "not a plain LoRA adapter",
        publisher.adapter("other-base", adapter_files(base="org/z")):
            "config names another base model",
    }  # fmt: skip
    described = card(base_model=base, datasets=publisher.data, library_name="peft")
    locked, mine = (f"{user.name}/{name}" for name in ("locked", "mine"))
    cli.hub.create_repo(locked, gated=True)
    cli.hub.create_repo(mine, private=True)
    for repo in (locked, mine):
        cli.hub.commit(repo, {"README.md": described, **plain})
    expected[locked] = "gated or removed"
    good = {publisher.adapter(f"good{i}") for i in range(2)}
    cli.hub.clear_requests()
    seen = cli("bank", "discover", base, "-o", "n.yaml", "--json", token=user.token).json
    reasons = {left["adapter"]: left["reason"] for left in seen["left_out"]}
    # although the token sees both
    assert reasons[mine] == "private"
    assert reasons[f"{user.name}/private-data"] == "dataset missing or private"
    cli.hub.clear_requests()
    found = cli("bank", "discover", base, "-o", "m.yaml", "--json").json
    assert {entry["adapter"] for entry in found["entries"]} == good
    assert {left["adapter"]: left["reason"] for left in found["left_out"]} == expected
    details = {left["adapter"]: left["detail"] for left in found["left_out"]}
    assert "o/a, o/b" in details[f"{user.name}/two"]
    assert "org/z" in details[f"{user.name}/other-base"]
    assert touched(cli.hub, WEIGHTS_FILE) == []  # the build checks weights
    for name in ("no-data", "two"):  # the list says enough
        assert touched(cli.hub, f"/{user.name}/{name}") == []
    assert len(touched(cli.hub, "/api/datasets/", publisher.data)) == 1


def test_a_killed_command_resumes(cli: Shell, publisher: Publisher, tmp_path: Path) -> None:
    names = [publisher.adapter(f"a{i}") for i in range(3)]
    cli.hub.add_fault(Fault("hold", path=f"{names[0]}/resolve/.*config"))
    running = cli.start("bank", "discover", publisher.base, "-o", "m.yaml")
    checks, deadline = tmp_path / ".m.yaml.checks.jsonl", time.monotonic() + 60
    while not (checks.exists() and checks.read_text().count("entry") == 2):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert not (tmp_path / "m.yaml").exists()
    with checks.open("a") as file:
        file.write('{"adapter": "cut')
    cli.hub.clear_faults()
    cli.hub.clear_requests()
    cli("bank", "discover", publisher.base, "-o", "m.yaml")
    assert {e["adapter"] for e in read(tmp_path / "m.yaml")["entries"]} == set(names)
    asked = touched(cli.hub, publisher.user.name, "/resolve/")
    assert [path for path in asked if names[0] not in path] == []
    assert not checks.exists()


def test_an_adapter_without_an_answer_is_reported_and_a_dead_hub_is_an_error(
    cli: Shell, publisher: Publisher, tmp_path: Path
) -> None:
    for i in range(5):
        publisher.adapter(f"a{i}")
    no_retries = "import hf_lorameta.hub.retry as r; r.ATTEMPTS = 1"
    cli.hub.add_fault(Fault("status", status=500, path="/a2/resolve"))
    found = cli(
        "bank", "discover", publisher.base, "-o", "m.yaml", "--json", before=no_retries
    ).json
    assert len(found["entries"]) == 4
    assert len(found["left_out"]) == 1
    cli.hub.add_fault(Fault("status", status=500, path="/api/models/.*/revision/"))
    done = cli("bank", "discover", publisher.base, "-o", "n.yaml", before=no_retries, code=6)
    assert "finished work is kept" in done.err
    assert not (tmp_path / "n.yaml").exists()


def test_no_usable_adapter_existing_output_or_unknown_base_is_an_error(
    cli: Shell, publisher: Publisher, tmp_path: Path
) -> None:
    publisher.adapter("a", datasets=None)
    done = cli("bank", "discover", publisher.base, "-o", "m.yaml", code=4)
    assert "card names no dataset" in done.out
    assert "bank train" in done.err
    assert not (tmp_path / "m.yaml").exists()
    (tmp_path / "m.yaml").write_text("mine")
    assert "exists" in cli("bank", "discover", publisher.base, "-o", "m.yaml", code=2).err
    assert (tmp_path / "m.yaml").read_text() == "mine"
    cli("bank", "discover", "no/such", "-o", "n.yaml", code=6)
    cli("bank", "discover", publisher.base, "-o", "no/such/n.yaml", code=2)
