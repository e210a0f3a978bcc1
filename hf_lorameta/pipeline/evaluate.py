"""Score adapters on rows that none of them was made with."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from hf_lorameta.cards.record import RECIPE_FILE, Made, read_record
from hf_lorameta.data.dataset import Dataset
from hf_lorameta.data.reading import Reading, reading_of
from hf_lorameta.data.sources.files import is_local
from hf_lorameta.engines.comparing import SAMPLES, Group, compare
from hf_lorameta.engines.scoring import (
    ADAPTER_METHOD,
    BASE_METHOD,
    CHAT_METHOD,
    MAX_NEW_TOKENS,
    Evaluator,
    Report,
    Scores,
)
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator, require_eval
from hf_lorameta.errors import AdapterError, Option, UsageError
from hf_lorameta.formats.lora_file import folder_config
from hf_lorameta.hub.base_model import locate
from hf_lorameta.hub.client import Hub
from hf_lorameta.pipeline.adapter_folder import (
    base_model_of,
    locate_adapter,
    made_of,
    naming,
)
from hf_lorameta.pipeline.evaluation_rows import open_to_evaluate, rows_to_evaluate
from hf_lorameta.pipeline.progress import bars_unless
from hf_lorameta.pipeline.session import LoadedModel
from hf_lorameta.quoting import command
from hf_lorameta.remarks import Remark, log_remarks
from hf_lorameta.tables import plural
from hf_lorameta.types import Row, StageProgress, no_progress

_OTHER_METHODS = re.compile(rf"{BASE_METHOD}|{CHAT_METHOD}|{ADAPTER_METHOD}|\d+-shot")

_UNREAD = Remark(
    "warning",
    f"The {RECIPE_FILE} of an adapter cannot be read: the rows may not be new to the adapter.",
    code="recipe.unreadable",
)


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
    **reading: Any,
) -> Report:
    """Score the base model, adapters and a few-shot prompt on rows that no adapter was trained on.

    Arguments that are not given come from the adapters' recipes. In the report, a single adapter
    is called ``generated``; several have the names they were passed by.

    Args:
        adapter: folder or Hub id, or several of them, for the same base model.
        dataset: as in `hf_lorameta.plan`; None is the public dataset that the adapters were
            generated for.
        max_rows: score at most this many.
        shots: examples in the few-shot prompt; 0 leaves it out.
        generate: complete all answers; False completes only those that may be right, and leaves
            out Rouge-L and F1.
        base: folder, GGUF file or Hub id of the base model; None is what the adapter names.
        model: the base model, on the CPU, and its tokenizer; the model is left unchanged. None
            loads it.
        token: of the Hub; None uses the saved one.
        progress: called with (stage, done, total), where total is 0 if unknown; None shows bars.
        reading: `config`, `split`, `revision`, `columns`, `instruction` and `template` of
            `hf_lorameta.open_dataset`; split None is the test split if there is one, else the
            validation split.

    Raises:
        UsageError: the recipes name no dataset, or different ones; an adapter is named twice, or
            has the name of another method; no base model is named; or the model is on another
            device.
        LoraMetaError: adapter, dataset or base model cannot be read.
        MissingExtraError: the extra ``eval`` is not installed.
    """
    hub = Hub(token)
    names = [adapter] if isinstance(adapter, str | Path) else list(adapter)
    with bars_unless(progress) as show:
        prepared = prepare_evaluation(
            names, dataset, hub, max_rows=max_rows, shots=shots,
            base=base or (model and "the given model"), progress=show,
            reading=reading_of(reading),
        )  # fmt: skip
        with (
            TorchEvaluator.of_model(*model)
            if model
            else nullcontext(open_evaluator(*prepared.base, token))
        ) as evaluator:
            return prepared.compare(evaluator, generate=generate, row_progress=show)


class Evaluation(NamedTuple):
    """Adapters for the same base model, and the rows to score them on.

    Attributes:
        folders: of each adapter, by its name in the table.
        base: name and revision of the base model.
        dataset: that the rows come from.
        rows: to score.
        shots: examples for the few-shot prompt.
    """

    folders: Mapping[str, Path]
    base: tuple[str, str | None]
    dataset: Dataset
    rows: Sequence[Row]
    shots: Sequence[Row]

    def compare(
        self,
        evaluator: Evaluator,
        *,
        generate: bool,
        row_progress: StageProgress,
        progress: Callable[[str, Scores], None] = no_progress,
    ) -> Report:
        """Score the base model, each adapter and the few-shot prompt; see `compare`."""
        return compare(
            evaluator,
            [Group(self.rows, {BASE_METHOD: None, **self.folders}, self.shots)],
            generate,
            samples=SAMPLES if generate else 0,  # else only the beginnings of wrong answers
            progress=progress,
            row_progress=row_progress,
            form=self.dataset.form,
        )


def prepare_evaluation(
    names: Sequence[str | Path],
    dataset: Any,
    hub: Hub,
    *,
    max_rows: int,
    shots: int,
    reading: Reading,
    base: str | Path | None = None,
    progress: StageProgress = no_progress,
) -> Evaluation:
    """Find adapters, open the dataset to score them on, and draw its rows.

    It logs what is read, scored and left out, and warns if rows may not be new to the adapters. A
    single adapter is called ``generated``; several have their own names.

    Args:
        names: folders or Hub ids of adapters.
        dataset: see `hf_lorameta.pipeline.evaluation_rows.open_to_evaluate`.
        hub: the client.
        max_rows: score at most this many.
        shots: examples in the few-shot prompt.
        reading: how the dataset is read, as for `evaluate`.
        base: the base model; None takes the one that the adapters name.
        progress: called with (stage, done, total), where total is 0 if unknown.

    Raises:
        LoraMetaError: as `evaluate` raises.
    """
    folders = _locate_adapters(names, hub)
    base_model = _base_of(dict(zip(map(str, names), folders.values(), strict=True)), base)
    saved = {folder: read_record(folder) for folder in folders.values()}
    made = [part for record in saved.values() for part in made_of(record)]
    unread = [folder for folder in saved if not saved[folder] and (folder / RECIPE_FILE).exists()]
    opened = open_to_evaluate(dataset, _made_for(dataset, made), hub, reading)
    local = isinstance(dataset, str | Path) and Path(dataset).is_dir()
    folder = Path(dataset) if local else None
    rows, examples, remarks = rows_to_evaluate(opened, made, max_rows, shots, hub, progress, folder)
    scored = f"Scoring {plural(len(rows), 'row')} of split {opened.split} with {base_model[0]}."
    log_remarks(
        [*remarks, *([_UNREAD] if unread else ()), Remark("note", scored, code="evaluate.scoring")]
    )
    return Evaluation(folders, base_model, opened, rows, examples)


def open_evaluator(
    name: str,
    revision: str | None,
    token: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    rounds: bool = True,
) -> TorchEvaluator:
    """Load a base model.

    Args:
        name: folder, GGUF file or Hub id, with its revision; see `base_model_of`.
        revision: of a repo; None is the latest.
        token: of the Hub.
        max_new_tokens: maximum tokens of an answer.
        rounds: see `TorchEvaluator.from_folder`.

    Raises:
        MissingExtraError: the extra ``eval`` is not installed.
        LoraMetaError: the base model is missing or cannot be loaded.
    """
    require_eval()
    path = locate(name, revision, token)
    return TorchEvaluator.from_folder(path, rounds=rounds, max_new_tokens=max_new_tokens)


# --- the adapters ---------------------------------------------------------------------------------


def _locate_adapters(names: Sequence[str | Path], hub: Hub) -> dict[str, Path]:
    """Return the folders of adapters by their names in the table."""
    if not names:
        raise UsageError(
            "no adapter is named", code="adapter.unnamed", hint="name a folder or a Hub id"
        )
    files = [str(name) for name in names if is_local(name)]
    if files and len(files) < len(names):
        others = [str(name) for name in names if str(name) not in files]
        raise UsageError(
            f"{files[0]} is a file, expected the folder or the Hub id of an adapter",
            code="adapter.is-a-file",
            hint=command("evaluate", *others, dataset=files[0]),
        )
    labels = [ADAPTER_METHOD] if len(names) == 1 else [str(name) for name in names]
    for label in labels if len(labels) > 1 else ():
        if labels.count(label) > 1:
            raise UsageError(
                f"{label} is named twice", code="adapter.named-twice", hint="name each adapter once"
            )
        if _OTHER_METHODS.fullmatch(label):
            raise UsageError(
                f"{label} is the name of a method",
                code="adapter.named-as-method",
                hint=f"name it ./{label}",
            )
    return {label: locate_adapter(name, hub=hub) for label, name in zip(labels, names, strict=True)}


def _base_of(folders: Mapping[str, Path], base: str | Path | None) -> tuple[str, str | None]:
    """Return the name and revision of the base model that the adapters share."""
    configs = {}
    for name, folder in folders.items():
        with naming(name):
            configs[name] = folder_config(folder, patterns=True)
    stated = {name: config for name, config in configs.items() if config.base_model}
    first, config = next(iter((stated or configs).items()))
    for name, other in stated.items():
        if other.base_model.lower() != config.base_model.lower():
            raise AdapterError(
                f"{name} is for {other.base_model}, and {first} for {config.base_model}",
                code="adapter.other-base",
                hint="score adapters of one base model at a time",
            )
    return base_model_of(first, config, base)


def _made_for(name: Any, made: Sequence[Made]) -> Made | None:
    """Return the record that says how to read a dataset; None if there are none."""
    ids = {part.dataset.id or "a local or private one" for part in made}
    if name is None and len(ids) > 1:
        raise UsageError(
            f"the adapters were generated for different datasets: {', '.join(sorted(ids))}",
            code="evaluate.different-datasets",
            hint=Option("dataset", "user/name"),
        )
    named = isinstance(name, str | Path)
    same = [part for part in made if named and part.dataset.id == str(name)]
    return next(iter([*same, *made]), None)
