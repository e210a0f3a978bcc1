"""Find the adapters of a base model on the Hub that can be entries of a bank.

Checks that are finished are kept in a file beside the manifest until it is written, so that a
command that was interrupted does not repeat them.
"""

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from hf_lorameta.bank import manifest
from hf_lorameta.bank.candidates import Checked, Checker, adapters_in
from hf_lorameta.errors import ConnectionLostError, UsageError
from hf_lorameta.files import write_atomically, writing
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo_info import ListedAdapter
from hf_lorameta.types import StageProgress, no_progress

_MAX_UNANSWERED = 3
"""Adapters for which the Hub may fail to answer before the command ends."""


@dataclass(frozen=True)
class Discovery:
    """The adapters of a base model that were checked.

    Attributes:
        base_model: Hub id.
        checked: all of them, the most downloaded first.
        more: whether the Hub lists more.
    """

    base_model: str
    checked: tuple[Checked, ...]
    more: bool

    @property
    def entries(self) -> list[dict[str, str]]:
        """The entries of the manifest."""
        return [checked.entry for checked in self.checked if checked.entry]

    @property
    def left_out(self) -> list[Checked]:
        """The adapters without an entry."""
        return [checked for checked in self.checked if not checked.entry]

    def reasons(self) -> list[tuple[str, int, str]]:
        """Return (reason, number of adapters, the first of them), the most frequent first."""
        first = {checked.reason: checked.adapter for checked in reversed(self.left_out)}
        counts = Counter(checked.reason for checked in self.left_out)
        return [(reason, count, first[reason]) for reason, count in counts.most_common()]


def discover(
    base_model: str,
    output: Path,
    *,
    hub: Hub | None = None,
    limit: int = 1000,
    workers: int = 8,
    progress: StageProgress = no_progress,
) -> Discovery:
    """Write a manifest of the Hub's adapters of a base model that name the dataset they learned.

    No manifest is written if no adapter can be used.

    Args:
        base_model: Hub id.
        output: the manifest, which must not exist.
        hub: client.
        limit: number of adapters to check, the most downloaded first.
        workers: requests at a time.
        progress: called after each step.

    Raises:
        UsageError: `output` exists or cannot be written.
        NotFoundError: there is no such base model.
        ConnectionLostError: the Hub does not answer; run again, finished checks are kept.
    """
    if output.exists():
        raise UsageError(f"{output} exists", hint="name a new file")
    hub = hub or Hub()
    base_model = hub.resolve(base_model, "model").repo_id
    listed: list[ListedAdapter] = []
    for repo in hub.adapters_of(base_model, limit + 1):
        listed += adapters_in(repo)
        progress("listing", min(len(listed), limit), limit)
        if len(listed) > limit:
            break
    more, listed = len(listed) > limit, listed[:limit]
    checks = output.with_name(f".{output.name}.checks.jsonl")
    with writing(output, UsageError, "name another file"):
        checked = _check_all(listed, Checker(hub, base_model), checks, workers, progress)
        discovery = Discovery(base_model, tuple(checked), more)
        if discovery.entries:
            write_atomically(output, _manifest_text(discovery).encode())
        checks.unlink(missing_ok=True)
    return discovery


def _check_all(
    listed: Sequence[ListedAdapter],
    checker: Checker,
    checks: Path,
    workers: int,
    progress: StageProgress,
) -> list[Checked]:
    """Check adapters, in their order, and keep the results in a file."""
    done = _finished(checks, checker.base_model)
    unanswered = 0
    with checks.open("a", encoding="utf-8") as file, ThreadPoolExecutor(workers) as pool:
        file.write("\n")  # ends a line that a kill has cut
        waiting = [adapter for adapter in listed if (adapter.adapter, adapter.sha) not in done]
        futures = {pool.submit(checker.check, adapter): adapter for adapter in waiting}
        try:
            for future in as_completed(futures):
                adapter = futures[future]
                try:
                    checked = future.result()
                    file.write(_record(checked, adapter.sha, checker.base_model))
                    file.flush()
                except ConnectionLostError as error:
                    unanswered += 1
                    if unanswered > _MAX_UNANSWERED:
                        raise
                    reason = "the Hub did not answer"
                    checked = Checked(adapter.adapter, reason=reason, detail=str(error))
                done[adapter.adapter, adapter.sha] = checked
                progress("checking", len(done), len(listed))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [done[adapter.adapter, adapter.sha] for adapter in listed]


def _record(checked: Checked, sha: str, base_model: str) -> str:
    """Return a line that `_finished` reads."""
    return json.dumps({"sha": sha, "base_model": base_model, "checked": asdict(checked)}) + "\n"


def _finished(checks: Path, base_model: str) -> dict[tuple[str, str], Checked]:
    """Return the checks that an interrupted command has finished, by adapter and commit."""
    done = {}
    with suppress(FileNotFoundError):
        for line in checks.read_text("utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError, KeyError):  # empty, or cut by a kill
                record = json.loads(line)
                if record["base_model"] == base_model:
                    checked = Checked(**record["checked"])
                    done[checked.adapter, record["sha"]] = checked
    return done


def _manifest_text(discovery: Discovery) -> str:
    """Return the manifest, after parsing it as ``bank build`` will."""
    content = {"version": 1, "base_model": discovery.base_model, "entries": discovery.entries}
    text = (
        f"# Adapters of {discovery.base_model} on the Hub, each with the dataset that its card\n"
        f"# names, written by: hf-lorameta bank discover {discovery.base_model}\n"
        + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=200)
    )
    manifest.parse(text)
    return text
