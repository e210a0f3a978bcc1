"""The real adapters and tasks in ``../shared``, which not every checkout has."""

import json
from pathlib import Path

from hf_lorameta.bank.manifest import BankEntry, Manifest
from hf_lorameta.data.columns.columns import Columns
from tests.support.local_hub import LocalHub

BASE_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
SHARED = Path(__file__).parents[3] / "shared"
BANK, SUITE = SHARED / "bank", SHARED / "suite"
MISSING = f"{SHARED} does not exist: it has the real adapters and tasks"


def require() -> None:
    """End the process with a message if ``../shared`` does not exist."""
    if not SHARED.exists():
        raise SystemExit(MISSING)


def tasks() -> list[str]:
    """Return the names of the tasks that have an adapter."""
    return sorted(path.name for path in BANK.iterdir())


def rows(task: str, split: str) -> list[tuple[str, str]]:
    """Return the (input, output) rows of one task; split is train or test."""
    lines = (SUITE / f"{task}.{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["input"], row["output"]) for row in map(json.loads, lines)]


def seed(hub: LocalHub, names: list[str]) -> Manifest:
    """Create repos of tasks and adapters for the user ``suite``; return their manifest."""
    hub.add_user("suite")
    for name in names:
        hub.create_repo(f"suite/{name}")
        hub.commit(f"suite/{name}", {path.name: path for path in (BANK / name).iterdir()})
        hub.create_repo(f"suite/{name}", repo_type="dataset")
        files = {f"{s}.jsonl": SUITE / f"{name}.{s}.jsonl" for s in ("train", "test")}
        hub.commit(f"suite/{name}", files, repo_type="dataset")
    return manifest(names)


def manifest(names: list[str]) -> Manifest:
    """Return the manifest of repos created by `seed`."""
    columns = Columns(input="input", output="output")
    entries = tuple(
        BankEntry(adapter=f"suite/{n}", dataset=f"suite/{n}", split="train", columns=columns,
                  license="apache-2.0")
        for n in names
    )  # fmt: skip
    return Manifest(version=1, base_model=BASE_MODEL, published=False, entries=entries)


def as_yaml(of: Manifest) -> str:
    """Return a manifest as the content of a file (JSON is YAML)."""
    return json.dumps(of.model_dump(exclude_none=True), indent=1)
