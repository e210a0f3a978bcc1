"""``hf-lorameta demo``: the whole way on this machine, every step a command that anyone can type.

A Hub on loopback is seeded with the embedded bank and the guest book dataset; ``push`` and
``evaluate`` then run as their own processes against it, the second as a stranger without a token.
The adapter stays in this package's cache, for a conversation through llama.cpp.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_lorameta.bank.bank import BANK_VARIABLE, EMBEDDED_FOLDER
from hf_lorameta.engines import llama_server
from hf_lorameta.engines.gguf_files import base_gguf
from hf_lorameta.engines.scoring import Report, Scores, shared_length
from hf_lorameta.environment import cache_dir, install_hint, require_extra
from hf_lorameta.errors import LoraMetaError, MissingExtraError
from hf_lorameta.files import write_atomically
from hf_lorameta.hub.base_model import locate
from hf_lorameta.pipeline.adapter_folder import FILES

if TYPE_CHECKING:
    from hf_lorameta.localhub import LocalHub

DATA_FOLDER = Path(__file__).parent / "data"
BANK_REPO = "lorameta/smollm2-demo-bank"
DATASET_REPO = "newcomer/guestbook-sentiment"
ADAPTER_REPO = "newcomer/guestbook-adapter"
_SHOWN = 3


def run_demo(
    say: Callable[[str], None] = lambda message: None, *, max_rows: int = 100
) -> dict[str, Any]:
    """Run the demo.

    Args:
        say: told what happens, line by line.
        max_rows: held-out rows to score at most.

    Returns:
        ``url`` of the adapter, ``seconds`` of generating it, ``files`` a stranger got, ``scores``
        by method (None where no engine or the base model is there), ``missing`` (what and how to
        get it), ``try`` (a command that asks the adapter), and ``summary`` for people.

    Raises:
        MissingExtraError: starlette or uvicorn is not installed.
        LoraMetaError: a step failed.
    """
    require_extra("starlette", "uvicorn", extra="demo")
    from hf_lorameta.localhub import LocalHub

    with tempfile.TemporaryDirectory(prefix="lorameta-demo-") as scratch, LocalHub() as hub:
        token = seed(hub)
        say(f"A Hub of your own listens on {hub.url}; it goes when the demo ends.")
        home = Path(scratch)
        newcomer = _environment(hub, home / "newcomer", token)
        stranger = _environment(hub, home / "stranger", None)

        command = ["push", "--dataset", DATASET_REPO, "--bank", BANK_REPO]
        pushed = _run([*command, "--repo-id", ADAPTER_REPO], newcomer, say)
        say(f"Generated in {pushed['seconds']:.1f} s, published as {pushed['url']}")
        inspected = _run(["inspect", ADAPTER_REPO], stranger, say)
        result = {
            "url": pushed["url"],
            "seconds": pushed["seconds"],
            "files": hub.files(ADAPTER_REPO),
            "coefficients": len(inspected["coefficients"]),
        }
        result |= _evaluation(inspected["base_model_name_or_path"], max_rows, stranger, say)
        asking = _conversation(keep(hub))
        summary = "\n".join([result["summary"], "", *_invitation(asking)])
        return result | {"try": asking, "summary": summary}


def seed(hub: "LocalHub") -> str:
    """Put the embedded bank and the demo's dataset on a loopback Hub.

    Returns:
        A token of the user ``newcomer``.
    """
    hub.add_user("lorameta")
    token = hub.add_user("newcomer")
    hub.create_repo(BANK_REPO, repo_type="dataset")
    hub.upload_folder(BANK_REPO, EMBEDDED_FOLDER, repo_type="dataset")
    hub.create_repo(DATASET_REPO, repo_type="dataset")
    hub.upload_folder(DATASET_REPO, DATA_FOLDER, repo_type="dataset")
    return token


def keep(hub: "LocalHub") -> Path:
    """Copy the adapter from the loopback Hub, which goes, into this package's cache."""
    folder = cache_dir() / "demo" / ADAPTER_REPO.rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    for name in set(FILES) & set(hub.files(ADAPTER_REPO)):
        write_atomically(folder / name, hub.read(ADAPTER_REPO, name))
    return folder


def _conversation(folder: Path) -> str:
    """The command that asks the adapter; the template is what all inputs of the dataset share."""
    lines = (DATA_FOLDER / "train.jsonl").read_text(encoding="utf-8").splitlines()
    inputs = [json.loads(line)["input"] for line in lines]
    first = inputs[0]
    head = min(shared_length(first, text) for text in inputs[1:])
    tail = min(shared_length(first[::-1], text[::-1]) for text in inputs[1:])
    template = f"{first[:head]}{{}}{first[-tail:]}".replace("\n", "\\n")
    return shlex.join(["hf-lorameta", "try", str(folder), "--template", template])


def _invitation(command: str) -> list[str]:
    lines = ["Write in the guest book yourself; llama.cpp answers on this CPU:", "", command]
    if not llama_server.available():
        lines[1:1] = [f"(first: {install_hint('gguf')})"]
    return lines


def _environment(hub: "LocalHub", home: Path, token: str | None) -> dict[str, str]:
    """A child's environment in which the loopback Hub is the Hub."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE_"))}
    ours.pop(BANK_VARIABLE, None)
    return ours | hub.env(token, home=home)


def _run(
    arguments: list[str], environment: dict[str, str], say: Callable[[str], None]
) -> dict[str, Any]:
    say(f"\n$ hf-lorameta {' '.join(arguments)}")
    command = [sys.executable, "-m", "hf_lorameta", *arguments, "--json", "--quiet"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoraMetaError(f"{arguments[0]} failed: {done.stderr.strip()[-1000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _evaluation(
    base_model: str, max_rows: int, environment: dict[str, str], say: Callable[[str], None]
) -> dict[str, Any]:
    try:
        engine = _engine(base_model)
    except LoraMetaError as error:
        missing = f"Not evaluated: {error}."
        lines = [missing, f"To see scores: {error.hint}, then run hf-lorameta demo again."]
        if not isinstance(error, MissingExtraError):
            lines[1] = f"To see scores: {error.hint}"
        return {"scores": None, "missing": lines, "summary": "\n".join(lines)}
    command = ["evaluate", ADAPTER_REPO, "--dataset", DATASET_REPO, *engine]
    report = _run([*command, "--max-rows", str(max_rows)], environment, say)
    return {"scores": report["scores"], "missing": [], "summary": _summary(report)}


def _engine(base_model: str) -> list[str]:
    """Options of ``evaluate``: transformers where it is installed, else llama.cpp.

    Raises:
        LoraMetaError: neither can be used; says what transformers lacks.
    """
    try:
        require_extra("torch", "transformers", "peft", "rouge_score")
        return ["--base", str(locate(base_model))]
    except MissingExtraError:
        if not llama_server.available():
            raise
    require_extra("rouge_score", "gguf", extra="gguf")
    return ["--engine", "llama.cpp", "--base-gguf", str(base_gguf(base_model))]


def _summary(report: dict[str, Any]) -> str:
    scores = {method: Scores(**values) for method, values in report["scores"].items()}
    rows = next(iter(scores.values())).rows
    lines = [f"\n{rows} held-out rows of the guest book:", "", Report(scores).table(), ""]
    for sample in report["samples"][:_SHOWN]:
        note = sample["input"].rsplit("Input: ", 1)[-1].removesuffix("\nOutput:")
        lines += [f"“{note}”", f"  reference  {sample['reference']}"]
        for method in ("base", "generated"):
            lines.append(f"  {method:<9}  {sample['outputs'][method].strip()[:100]!r}")
    return "\n".join(lines)
