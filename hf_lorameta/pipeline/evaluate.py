"""Score adapters on rows that none was made with, and write the scores into their cards."""

import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from hf_lorameta.cards.model_card import CARD_FILE
from hf_lorameta.cards.scores_section import MeasuredScores, with_scores
from hf_lorameta.data.dataset import Dataset, ReadingOptions
from hf_lorameta.engines.scoring import (
    ADAPTER_METHOD,
    CHAT_METHOD,
    MAX_NEW_TOKENS,
    Evaluator,
    Report,
    compare,
)
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator, require_eval
from hf_lorameta.errors import AdapterError, Option, UsageError
from hf_lorameta.files import write_atomically
from hf_lorameta.formats.lora_file import folder_config
from hf_lorameta.formats.peft_config import LoraConfig
from hf_lorameta.hub.base_model import locate
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.publish import Upload
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.pipeline.adapter_folder import (
    generated_parts,
    locate_adapter,
    naming,
    read_adapter,
    read_provenance,
)
from hf_lorameta.pipeline.evaluation_rows import open_to_evaluate, rows_to_evaluate
from hf_lorameta.pipeline.progress import bars_unless
from hf_lorameta.pipeline.publish import suggest_pr
from hf_lorameta.pipeline.session import LoadedModel
from hf_lorameta.tables import plural
from hf_lorameta.types import Row, StageProgress, no_progress

logger = logging.getLogger(__name__)

_OTHER_METHODS = re.compile(rf"base|{CHAT_METHOD}|{ADAPTER_METHOD}|\d+-shot")


def evaluate(
    adapter: str | Path | Sequence[str | Path],
    dataset: Any = None,
    *,
    max_rows: int = 100,
    shots: int = 3,
    generate: bool = True,
    base: str | Path | None = None,
    model: LoadedModel | None = None,
    token: str | None = None,
    progress: StageProgress | None = None,
    **reading: Unpack[ReadingOptions],
) -> Report:
    """Score base model, adapters and few-shot prompt on rows that no adapter was fitted on.

    What is not given comes from the adapters' recipes. In the report, a single adapter is called
    ``generated``; several have the names that they are given by.

    Args:
        adapter: folder or Hub id, or several of them, for the same base model.
        dataset: as in `hf_lorameta.plan`; None is the public one that it was generated for.
        max_rows: score at most this many.
        shots: examples in the few-shot prompt; 0 leaves it out.
        generate: complete all answers; otherwise only those that may be right, without Rouge-L.
        base: folder, GGUF file or Hub id of the base model; None is what the adapter names.
        model: the base model, on the CPU, and its tokenizer; the model is the same afterwards. None
            loads it.
        token: of the Hub; None uses the saved one.
        progress: called with (stage, done, total, or 0 if it is not known); None shows bars.
        reading: `config`, `split`, `revision`, `columns`, `instruction` and `template` of
            `hf_lorameta.open_dataset`; split None is test, else validation.

    Raises:
        UsageError: no dataset is named by the recipes, or different ones; an adapter is named
            twice, or like another method; no base model is named; or the model is on another
            device.
        LoraMetaError: adapter, dataset or base model cannot be read.
        MissingExtraError: the extra ``eval`` is not installed.
    """
    hub = Hub(token)
    names = [adapter] if isinstance(adapter, str | Path) else list(adapter)
    with bars_unless(progress) as show:
        prepared = prepare_evaluation(
            names, dataset, hub, max_rows=max_rows, shots=shots, named=bool(base or model),
            progress=show, **reading,
        )  # fmt: skip
        with (
            TorchEvaluator.of_model(*model)
            if model
            else nullcontext(open_evaluator(prepared.adapters.base, base, token))
        ) as evaluator:
            return prepared.compare(evaluator, generate=generate, row_progress=show)


class Evaluation(NamedTuple):
    """Adapters, and the rows to score them on.

    Attributes:
        adapters: to score.
        dataset: that the rows are of.
        rows: to score.
        shots: examples for the few-shot prompt.
    """

    adapters: "AdaptersToEvaluate"
    dataset: Dataset
    rows: Sequence[Row]
    shots: Sequence[Row]

    def compare(self, evaluator: Evaluator, **options: Any) -> Report:
        """Score the base model, each adapter and the few-shot prompt, with options of `compare`."""
        methods = {"base": None, **self.adapters.folders}
        return compare(evaluator, self.rows, methods, self.shots, **options)


def prepare_evaluation(
    names: Sequence[str | Path],
    dataset: Any,
    hub: Hub,
    *,
    max_rows: int,
    shots: int,
    named: bool = False,
    repos: Sequence[PinnedRepo | None] = (),
    progress: StageProgress = no_progress,
    **reading: Unpack[ReadingOptions],
) -> Evaluation:
    """Find adapters, open the dataset to score them on, and draw its rows.

    What is read, scored and left out is logged, and as warnings why rows may not be new to the
    adapters.

    Args:
        names: of adapters, see `locate_adapters`.
        dataset: see `hf_lorameta.pipeline.evaluation_rows.open_to_evaluate`.
        hub: the client.
        max_rows: score at most this many.
        shots: examples in the few-shot prompt.
        named: whether a base model is given, so that no adapter has to name it.
        repos: of `resolve_card_repo` for each name, if the scores are for the cards; else ().
        progress: called with (stage, done, total, or 0 if it is not known).
        reading: as of `evaluate`.

    Raises:
        LoraMetaError: as `evaluate` raises; or scores are for the card of an adapter that was not
            generated.
    """
    adapters = locate_adapters(names, hub, repos)
    if not (adapters.base.base_model or named):
        raise UsageError(
            f"{names[0]} does not name its base model", hint=Option("base", "FOLDER_OR_REPO")
        )
    for folder in adapters.folders.values() if repos else ():
        read_adapter(folder).require_provenance()
    provenance = adapters.provenance_for(dataset)
    opened = open_to_evaluate(dataset, provenance, hub, **reading)
    rows, examples, skipped, warnings = rows_to_evaluate(
        opened, adapters.provenances, max_rows, shots, hub, progress
    )
    logger.info("Read %s of split %s", opened.columns, opened.split)
    if skipped:
        logger.info("Skipping %d rows that were fitted, trained or checked on", skipped)
    if len(rows) < max_rows:
        others = "; the examples of the prompt are other rows" if examples else ""
        logger.info("The split has only %d rows to score%s", len(rows), others)
    base_model = adapters.base.base_model or "the base model"
    logger.info(
        "Scoring %s of split %s with %s", plural(len(rows), "row"), opened.split, base_model
    )
    for warning in warnings:
        logger.warning(warning)
    return Evaluation(adapters, opened, rows, examples)


def open_evaluator(
    config: LoraConfig,
    base: str | Path | None = None,
    token: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> TorchEvaluator:
    """Load the base model of an adapter.

    Args:
        config: of the adapter.
        base: folder, GGUF file or Hub id; None is what the adapter names.
        token: of the Hub.
        max_new_tokens: maximum tokens of an answer.

    Raises:
        MissingExtraError: the extra ``eval`` is not installed.
        UsageError: no base model is named.
        LoraMetaError: the base model is missing or cannot be loaded.
    """
    require_eval()
    if not (base or config.base_model):
        raise UsageError(
            "the adapter does not name its base model", hint=Option("base", "FOLDER_OR_REPO")
        )
    path = locate(str(base or config.base_model), None if base else config.revision, token)
    return TorchEvaluator.from_folder(path, max_new_tokens=max_new_tokens)


# --- the adapters ---------------------------------------------------------------------------------


class AdaptersToEvaluate(NamedTuple):
    """Adapters for the same base model.

    Attributes:
        folders: of each adapter, by its name in the table.
        base: the first adapter's config that names a base model, if one does.
        provenances: of each that was generated for a dataset, also as a part of a merge; see
            `hf_lorameta.pipeline.adapter_folder.generated_parts`.
    """

    folders: dict[str, Path]
    base: LoraConfig
    provenances: tuple[Mapping[str, Any], ...]

    def provenance_for(self, name: Any = None) -> Mapping[str, Any] | None:
        """Return the provenance that says how to read a dataset; None if there are none.

        Args:
            name: of the dataset; None is the one that all adapters were generated for.

        Raises:
            UsageError: no name, and they have different datasets.
        """
        ids = {str(p["dataset"]["id"] or "a local or private one") for p in self.provenances}
        if name is None and len(ids) > 1:
            raise UsageError(
                f"the adapters were generated for different datasets: {', '.join(sorted(ids))}",
                hint=Option("dataset", "user/name"),
            )
        named = isinstance(name, str | Path)
        same = [p for p in self.provenances if named and p["dataset"]["id"] == str(name)]
        return next(iter([*same, *self.provenances]), None)


def locate_adapters(
    names: Sequence[str | Path], hub: Hub, repos: Sequence[PinnedRepo | None] = ()
) -> AdaptersToEvaluate:
    """Find the files of adapters and read their provenances.

    A single adapter is called ``generated``; several have their own names.

    Args:
        names: folders or Hub ids, at least one.
        hub: the client.
        repos: the Hub repos among them at the commit to score, one for each name; () is the latest.

    Raises:
        UsageError: no adapter is named, or one twice, or like another method.
        AdapterError: an adapter is missing or broken, or for another base model than the first.
        HubError: a repo is missing, or the Hub cannot be reached.
    """
    if not names:
        raise UsageError("no adapter is named", hint="name a folder or a Hub id")
    labels = [ADAPTER_METHOD] if len(names) == 1 else [str(name) for name in names]
    for label in labels if len(labels) > 1 else ():
        if labels.count(label) > 1:
            raise UsageError(f"{label} is named twice", hint="name each adapter once")
        if _OTHER_METHODS.fullmatch(label):
            raise UsageError(f"{label} is the name of a method", hint=f"name it ./{label}")
    commits = [repo.sha if repo else None for repo in repos] or [None] * len(names)
    located = zip(names, commits, strict=True)
    folders = [locate_adapter(name, revision=commit, hub=hub) for name, commit in located]
    configs = {}
    for name, folder in zip(map(str, names), folders, strict=True):
        with naming(name):
            configs[name] = folder_config(folder, patterns=True)
    stated = {name: config for name, config in configs.items() if config.base_model}
    first, base = next(iter((stated or configs).items()))
    for name, config in stated.items():
        if config.base_model.lower() != base.base_model.lower():
            raise AdapterError(
                f"{name} is for {config.base_model}, and {first} for {base.base_model}",
                hint="score adapters of one base model at a time",
            )
    saved = (read_provenance(folder)[0] for folder in folders)
    parts = tuple(part for provenance in saved for part in generated_parts(provenance))
    return AdaptersToEvaluate(dict(zip(labels, folders, strict=True)), base, parts)


# --- scores on the card ---------------------------------------------------------------------------


def resolve_card_repo(name: str, *, hub: Hub, create_pr: bool = False) -> PinnedRepo | None:
    """Check that an adapter's card can be written, before the adapter is scored.

    Returns:
        The repo at its present commit; None for a folder.

    Raises:
        AuthError: no valid token.
        NotFoundError: no such repo.
        UsageError: a pull request to a folder.
    """
    if Path(name).expanduser().is_dir():
        if create_pr:
            raise UsageError(
                f"{name} is a folder, so there is nothing to open a pull request on",
                hint=[Option("create_pr", change="leave out"), "name a repo"],
            )
        return None
    hub.account()  # is there a valid token?
    return hub.resolve(name, "model")


def save_scores(
    folder: Path,
    scores: MeasuredScores,
    repo: PinnedRepo | None,
    *,
    hub: Hub,
    create_pr: bool = False,
) -> str:
    """Write scores into an adapter's card, in its folder or in one commit to its repo.

    Args:
        folder: the adapter; of a repo, at the commit that was scored.
        scores: what was measured.
        repo: the repo at that commit; None for a folder.
        hub: client with the account's token.
        create_pr: open a pull request instead of committing.

    Returns:
        Path of the card, or URL of the repo or the pull request.

    Raises:
        AdapterError: the card is missing or cannot be read or written.
        ConflictError: the repo changed since it was scored.
        AuthError: no right to write to the repo.
    """
    try:
        text = (folder / CARD_FILE).read_text(encoding="utf-8")
        card = with_scores(text, scores, repo.repo_id if repo else None).encode()
        if repo is None:
            write_atomically(folder / CARD_FILE, card)
            return str(folder / CARD_FILE)
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterError(f"{folder / CARD_FILE} cannot be read and written: {error}") from None
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / CARD_FILE).write_bytes(card)
        with suggest_pr(repo, create_pr):
            return hub.publish(
                Upload(Path(scratch)),
                repo.repo_id,
                message=f"Scores on {scores.rows} rows",
                private=repo.private,
                parent=repo,
                create_pr=create_pr,
            )
