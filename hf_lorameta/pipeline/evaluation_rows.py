"""Choose what an adapter is scored on: dataset, split, columns, rows and few-shot examples.

Rows are drawn from the whole split and stratified by output, as in `hf_lorameta.pipeline.rows`.
Rows that the adapter was trained or checked on are left out. If its recipe does not say which ones
these are, no row of their split is scored.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from hf_lorameta.cards.record import Made
from hf_lorameta.data.chat_form import ChatForm
from hf_lorameta.data.counts.sample import RowSample, draw_stratified
from hf_lorameta.data.dataset import Dataset, open_dataset
from hf_lorameta.data.reading import Reading
from hf_lorameta.data.sources.files import is_local
from hf_lorameta.data.sources.folders import is_folder
from hf_lorameta.data.sources.split_names import split_name
from hf_lorameta.errors import (
    ColumnsError,
    DatasetError,
    EmptyDatasetError,
    Option,
    UnlabeledDatasetError,
    UsageError,
)
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import on_hub
from hf_lorameta.pipeline.progress import with_progress
from hf_lorameta.pipeline.rows import POOL_ROWS, is_adapted, rows_used
from hf_lorameta.remarks import Remark
from hf_lorameta.tables import plural
from hf_lorameta.types import Row, StageProgress, no_progress

READ_ROWS = 50_000
"""How many rows of a split are drawn from, at most."""
TEST_SPLITS = ("test", "validation")
"""Splits to score on by default: the first of these that a dataset has."""
_SEED = 0
_OTHER_ROWS = ("name a file with rows that it has not seen", Option("split", "NAME"))
"""Advice where no row can be scored."""


class RowsToEvaluate(NamedTuple):
    """Rows to score, and other rows as examples for the few-shot prompt.

    Attributes:
        rows: to score.
        shots: examples.
        remarks: what was read and left out, and why the rows may not be new to an adapter.
    """

    rows: list[Row]
    shots: list[Row]
    remarks: tuple[Remark, ...]


def open_to_evaluate(
    name: Any,
    made: Made | None,
    hub: Hub,
    reading: Reading,
) -> Dataset:
    """Open a dataset to score an adapter on, with the adapter's recipe for what is not given.

    Args:
        name: Hub id, file, opened `Dataset` or rows in memory; None is the public dataset that the
            adapter was generated for.
        made: of the adapter's record; None if it was not generated.
        hub: the client.
        reading: as for `open_dataset`, except for what None means: `config` and `revision` are the
            recipe's if the dataset is the same, `columns` the recipe's if the dataset has them,
            `instruction` and `template` the recipe's, and `split` the first of `TEST_SPLITS` that a
            Hub dataset or a folder has.

    Raises:
        UsageError: no name, and the recipe states no public dataset.
        DatasetError: as `open_dataset` raises.
        HubError: as `open_dataset` raises.
    """
    adapted = made.dataset if made else None
    own = on_hub(adapted.id) if adapted and adapted.id else None
    name = own if name is None else name
    if name is None:
        raise UsageError(
            "the adapter's recipe names no public dataset to score on",
            code="evaluate.no-dataset",
            hint=[Option("dataset", "user/name"), "name a file"],
        )
    given = reading.options
    if isinstance(name, str | Path) and not is_local(name):
        if adapted and own == on_hub(str(name)) and not is_folder(name):
            given |= {"config": reading.config or adapted.config}
            given |= {"revision": reading.revision or adapted.revision}
        given |= {"split": reading.split or TEST_SPLITS}
    if adapted:
        columns = adapted.columns
        with suppress(ColumnsError):  # another dataset, with columns of its own
            if reading.columns is None and columns.names():
                return open_dataset(name, hub, **given | {"columns": columns})
        if columns.template and not reading.template:
            given |= {"template": ChatForm(columns.template, columns.chat)}
        instruction = reading.instruction or columns.instruction_text
        with suppress(UsageError):  # its rows have an instruction of their own
            return open_dataset(name, hub, **given | {"instruction": instruction})
    return open_dataset(name, hub, **given)


def rows_to_evaluate(
    dataset: Dataset,
    made: Sequence[Made],
    count: int,
    shots: int,
    hub: Hub,
    progress: StageProgress = no_progress,
    folder: Path | None = None,
) -> RowsToEvaluate:
    """Draw rows to score, and examples for a few-shot prompt.

    Args:
        dataset: see `open_to_evaluate`.
        made: of the records of the adapters, see
            `hf_lorameta.pipeline.adapter_folder.made_of`.
        count: number of rows to score, at most.
        shots: number of examples; from the train split if there is one, else from this split.
        hub: the client.
        progress: called while rows of this split and of the train split are read.
        folder: that a local dataset was opened from.

    Raises:
        EmptyDatasetError: no rows are left, or some were used, and the recipe does not say which.
        UnlabeledDatasetError: no row has an output.
        HubError: the dataset cannot be read.
    """
    dataset = with_progress(dataset, progress)
    used, warnings = _used(made, dataset)
    train = _train_split(dataset, hub, folder) if shots else None
    train = train and with_progress(train, progress)
    own = 0 if train else shots
    drawn, skipped = _draw(dataset, count + own, used)
    examples, rows = drawn[:own], drawn[own:]
    if not rows:
        counts = {"used to make or check an adapter": skipped,
                  "needed as examples in the prompt": len(examples)}  # fmt: skip
        taken = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        raise EmptyDatasetError(
            f"no row is left to score: {taken}",
            code="evaluate.no-rows-left",
            hint=[*([Option("shots", 0)] if examples else ()), *_OTHER_ROWS],
        )
    if train:
        examples = _draw(train, shots, set(rows))[0]
    read = f"Read {dataset.columns} of split {dataset.split}."
    notes = [Remark("note", read, code="evaluate.reading")]
    if skipped:
        text = f"Skipping {skipped} rows that were used to make or check an adapter."
        notes.append(Remark("note", text, code="evaluate.skipping"))
    if len(rows) < count:
        text = f"The split has only {plural(len(rows), 'row')} to score."
        notes.append(Remark("note", text, code="evaluate.few-rows"))
    if examples:
        split = (train or dataset).split
        others = plural(len(examples), "other row")
        text = f"Examples in the few-shot prompt: {others} of split {split}."
        notes.append(Remark("note", text, code="evaluate.examples"))
    return RowsToEvaluate(rows, examples, (*notes, *warnings))


def _used(made: Sequence[Made], dataset: Dataset) -> tuple[set[Row], dict[Remark, None]]:
    """Return the rows that adapters used, and warnings that other rows may not be new to them.

    Raises:
        EmptyDatasetError: a recipe does not say which rows of this split were used.
    """
    used: set[Row] = set()
    warnings: dict[Remark, None] = {}  # each once
    for part in made:
        own = rows_used(part, dataset)
        used |= set(own or ())
        if is_adapted(part, dataset):
            stored = part.dataset.split
            if own is None:
                raise EmptyDatasetError(
                    f"no row of split {stored} is scored: an adapter was trained or checked on "
                    "some of them, and which ones is not known from its recipe",
                    code="evaluate.rows-unknown",
                    hint=_OTHER_ROWS,
                )
            text = f"An adapter was generated for split {stored}: its rows are not new to it."
            warnings[Remark("warning", text, code="evaluate.rows-not-new")] = None
    return used, warnings


def _train_split(dataset: Dataset, hub: Hub, folder: Path | None) -> Dataset | None:
    """Open the train split of a Hub dataset or a folder unless it is the one to score."""
    name = dataset.id or folder
    if name is None or split_name(dataset.split) == "train":
        return None
    try:
        return open_dataset(
            on_hub(dataset.id) if dataset.id else name,
            hub,
            config=dataset.config,
            split="train",
            revision=dataset.revision if dataset.id else None,
            columns=dataset.columns,
        )
    except DatasetError:
        return None


def _draw(dataset: Dataset, count: int, without: Collection[Row]) -> tuple[list[Row], int]:
    """Return rows that were drawn, and how many distinct rows of `without` were left out."""
    left_out = set()

    def new_rows() -> Iterator[Row]:
        for row in islice(dataset.rows(), READ_ROWS):
            if row in without:
                left_out.add(row)
            else:
                yield row

    sample = RowSample(max(POOL_ROWS, count), f"{_SEED} score")
    read = sample.draw_from(new_rows())
    if read and not sample.rows:
        raise UnlabeledDatasetError(
            f"none of {plural(read, 'row')} has an output to compare with",
            code="outputs.none",
            hint=[Option("split", "NAME"), Option("columns", "output=COLUMN")],
        )
    return draw_stratified(sample.rows, count, _SEED), len(left_out)
