"""Answer rows with an adapter that was made here, or with one on the Hub.

Rows, and an adapter of the Hub, are read in a process of their own, see `work.reader_process`.
"""

import secrets
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from hf_lorameta.data.chat_form import end_of_prompt
from hf_lorameta.data.questions import Question, open_questions
from hf_lorameta.data.reading import Reading
from hf_lorameta.data.written_rows import rows_written
from hf_lorameta.formats.lora_file import open_adapter
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import Token, is_repo_id
from hf_lorameta.pipeline.adapter_folder import FILES, fetch_adapter
from hf_lorameta.pipeline.answering import Prediction, attached
from hf_lorameta.pipeline.predict import Predictor, added_columns, check_sure, open_predictor
from hf_lorameta.quoting import shell
from visitors.hourly import ADAPTERS, MODEL_TIME
from work.generating import Adapter
from work.jobs import Job
from work.planning import PageRequest, RequestError, hidden_path, validated
from work.reader_process import read
from work.trying import PROMPT_CHARACTERS, Model, counted

MOST_INPUTS, MOST_ROWS = 100, 1000
"""Rows that are answered: of a call of a program, and of a page."""
MOST_SHOWN = 100
"""Most answers that the page shows; the file has all."""
_CHARACTERS = 20_000_000
"""Most characters of rows that are kept in memory while they are answered."""
LINES_CHARACTERS = 100_000
"""Most characters of lines that are typed."""
ADAPTER_BYTES = 300_000_000
"""Most bytes of an adapter's files that are fetched from the Hub."""
KEPT_SECONDS = 3600.0
"""How long an adapter that a program has made can answer; its files stay on the disk as long."""
_BLOCK = 16
"""Rows between two reports of progress."""
_LAST_SECONDS = 30.0
"""Seconds before the time limit in which a page begins no further block."""


class KeptAdapters:
    """Adapters that programs made, by keys that only their callers know; thread-safe.

    Args:
        seconds: how long each is kept.
    """

    def __init__(self, seconds: float = KEPT_SECONDS) -> None:
        self._seconds, self._lock = seconds, threading.Lock()
        self._folders: dict[str, tuple[float, Path]] = {}  # the oldest first
        self._cleaning = False

    def keep(self, adapter: Adapter) -> str:
        """Take the folder of an adapter, and return its key."""
        key = secrets.token_urlsafe(16)
        scratch = Path(tempfile.mkdtemp(prefix="kept-"))
        folder = Path(shutil.move(adapter.folder, scratch / "adapter"))
        with self._lock:
            self._folders[key] = time.monotonic() + self._seconds, folder
            if not self._cleaning:
                self._cleaning = True
                threading.Thread(target=self._clean, name="kept-adapters", daemon=True).start()
        return key

    def folder(self, key: str) -> Path | None:
        """Return the folder of an adapter; None if there is none."""
        with self._lock:
            return self._folders.get(key, (0.0, None))[1]

    def _clean(self) -> None:
        """Delete each folder when its time is over, until there is none."""
        while True:
            with self._lock:
                if not self._folders:
                    self._cleaning = False
                    return
                key, (end, folder) = next(iter(self._folders.items()))
                if (left := end - time.monotonic()) <= 0:
                    del self._folders[key]
            if left > 0:
                time.sleep(left)
            else:
                shutil.rmtree(folder.parent, ignore_errors=True)


KEPT_ADAPTERS = KeptAdapters()


class Asked(NamedTuple):
    """Rows that are to be answered.

    Attributes:
        predictor: the adapter, and what it knows.
        columns: of the rows.
        rows: as they were given.
        questions: what each asks.
        more: whether there are more rows than may be answered.
    """

    predictor: Predictor
    columns: list[str]
    rows: list[dict[str, Any]]
    questions: list[Question]
    more: bool


class Answered:
    """Answers to rows of a page, and a temporary file with both, deleted with this object.

    Attributes:
        total: number of rows that were asked.
        more: whether there are more rows than may be asked.
        choice: the labels of the adapter; None if it knows none.
        sure: answers with a lower probability are empty.
        prompts: of the first rows.
        found: answers so far.
        file: a .csv file; None until the work has ended.
    """

    def __init__(self, asked: Asked, sure: float) -> None:
        self.total, self.more, self.choice = len(asked.rows), asked.more, asked.predictor.choice
        self.sure, self.prompts = sure, [one.prompt for one in asked.questions[:MOST_SHOWN]]
        self.found: list[Prediction] = []
        self.file: Path | None = None

    def write(self, asked: Asked, name: str) -> int:
        """Write the file, with each row's own columns; return its size in bytes."""
        scratch = Path(tempfile.mkdtemp(prefix="answers-"))
        weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        added, path = added_columns(asked.columns), scratch / name
        with rows_written(path, [*asked.columns, *added]) as write:
            for row, answer in zip(asked.rows, self.found, strict=False):
                write([row | asked.predictor.cells(answer, added)])
        self.file = path
        return path.stat().st_size


def command_to_predict(adapter: str) -> str:
    """Return the command with which a visitor answers a file with an adapter.

    Example:
        >>> command_to_predict("user/name")
        'hf-lorameta predict user/name rows.csv -o answers.csv'
    """
    return shell("hf-lorameta", "predict", adapter, "rows.csv", "-o", "answers.csv")


def answer_inputs(
    adapter: str, inputs: Any, sure: float, credential: Token, model: Model, job: Job
) -> dict[str, Any]:
    """Answer a few inputs, and return what callers get.

    Args:
        adapter: a key of `KEPT_ADAPTERS`, or a Hub id.
        inputs: texts, or rows as objects of column and value.
        sure: the answer is empty where its probability is lower.
        credential: of the caller.
        model: the base model.
        job: shows the progress.

    Raises:
        RequestError: there are none or too many, or the adapter is for another base model.
        LoraMetaError: adapter or rows cannot be read, or this visitor may not use the model now.
    """
    check_sure(sure)
    rows = _checked(inputs)
    MODEL_TIME.check(job.call.address)
    with tempfile.TemporaryDirectory(prefix="lorameta-") as scratch:
        asked = ask(adapter, rows, MOST_INPUTS, credential, Path(scratch), model, job)
        found = [one.above(sure) for one in answer(asked, model, job)]
    choice = asked.predictor.choice
    return {
        "answers": [_as_json(one) for one in found],
        "labels": choice and len(choice.labels),
        "counted": choice and len(choice.counted),
        "counted_answered": choice and choice.answered(sure)[0],
        "counted_right": choice and choice.answered(sure)[1],
    }


def _as_json(one: Prediction) -> dict[str, Any]:
    found = {"answer": one.answer, "probability": one.probability}
    return found | ({"each": list(one.each)} if one.each else {})


def _checked(inputs: Any) -> list[Any]:
    """Return inputs that are a list of texts, or one of rows."""
    rows = [inputs] if isinstance(inputs, str) else inputs
    kinds = {type(row) for row in rows} if isinstance(rows, list) else set()
    if kinds not in ({str}, {dict}):
        raise RequestError(
            'Expected inputs as a list: of texts, such as ["A text"], or of rows, such as '
            '[{"question": "A text"}]',
            code="predict.no-inputs",
        )
    if len(rows) > MOST_INPUTS:
        raise RequestError(
            f"There are {len(rows):,} inputs, more than the {MOST_INPUTS} of a call: answer the "
            "rest in further calls",
            code="predict.too-many-inputs",
        )
    return list(rows)


def ask(
    adapter: str | Path,
    rows: list[Any] | str,
    most: int,
    credential: Token,
    scratch: Path,
    model: Model,
    job: Job,
) -> Asked:
    """Read rows as an adapter's recipe says, in a process of its own.

    Args:
        adapter: its folder, a key of `KEPT_ADAPTERS`, or a Hub id.
        rows: texts, rows, or the path of a file.
        most: rows that are read.
        credential: of the visitor.
        scratch: a folder for what is fetched.
        model: the base model that it has to be for.
        job: checked meanwhile.

    Raises:
        RequestError: there is no such adapter, or it is for another base model.
        LoraMetaError: adapter or rows cannot be read.
    """
    folder = adapter if isinstance(adapter, Path) else KEPT_ADAPTERS.folder(adapter)
    if folder is None and not is_repo_id(str(adapter)):
        raise RequestError(
            "There is no such adapter here: expected what /generate returned as adapter, at most "
            f"{KEPT_SECONDS / 3600:.0f} hour ago, or the Hub id of one, such as user/name",
            code="predict.no-adapter",
        )
    job.report("Reading the adapter and the rows")
    asked = read(job, _ask, str(adapter), folder, rows, most, credential, scratch)
    base, named = model.session.bank.index.base_model, asked.predictor.answering.base[0]
    if named != base:
        raise RequestError(
            f"The adapter is for {named[:80]}, which is not the base model here; on your own "
            f"machine: {command_to_predict(str(adapter))}",
            code="predict.other-base",
        )
    return asked


def _ask(
    name: str,
    folder: Path | None,
    rows: list[Any] | str,
    most: int,
    credential: Token,
    scratch: Path,
) -> Asked:
    """Read an adapter's recipe and the rows; runs in a `reader_process`."""
    hub = Hub(credential)
    path = folder or scratch / "adapter"
    with hidden_path(str(path), "The adapter" if folder else name):
        if folder is None:
            _fetch(name, hub, path)
        predictor = open_predictor(path, hub)
    _bound(predictor.choice.labels if predictor.choice else (), "labels of the adapter")
    questions = open_questions(rows, predictor.columns, hub, Reading())
    taken, asked, rest = list[dict[str, Any]](), list[Question](), questions.raw.rows()
    size, full = 0, False
    for row in islice(rest, most):
        size += len(str(row))
        if full := bool(taken) and size > _CHARACTERS:
            break
        prompt, choices = questions.of(row)
        _bound(choices, "choices of a row")
        taken.append(row)
        asked.append(Question(end_of_prompt(prompt, PROMPT_CHARACTERS), choices))
    more = full or any(True for _ in rest)
    return Asked(predictor, list(questions.raw.columns), taken, asked, more)


def _bound(labels: Sequence[str], what: str) -> None:
    if sum(map(len, labels)) > PROMPT_CHARACTERS:
        raise RequestError(
            f"The {what} have more than {PROMPT_CHARACTERS:,} characters",
            code="predict.labels-too-long",
        )


def _fetch(name: str, hub: Hub, folder: Path) -> None:
    """Fetch an adapter of the Hub, a plain LoRA of a bounded size, into a folder."""
    repo = hub.resolve(name, "model", blobs=True)
    size = sum(blob.size for path, blob in repo.blobs.items() if path in FILES)
    if size > ADAPTER_BYTES:
        raise RequestError(
            f"{name} has {size // 1_000_000:,} MB, more than the "
            f"{ADAPTER_BYTES // 1_000_000} MB of an adapter that is fetched here",
            code="predict.adapter-too-large",
        )
    shutil.copytree(fetch_adapter(repo, hub), folder)
    open_adapter(folder)


def answer(
    asked: Asked,
    model: Model,
    job: Job,
    answered: Callable[[list[Prediction]], bool] | None = None,
) -> list[Prediction]:
    """Answer rows with the base model and an adapter.

    Args:
        asked: the rows.
        model: the base model.
        job: shows the progress.
        answered: called with the answers so far, after each block; returns whether to go on.

    Raises:
        LoraMetaError: the adapter is broken, or this visitor may not use the model now.
    """
    found: list[Prediction] = []
    first = "".join(question.prompt for question in asked.questions[:_BLOCK])
    with (
        model.one_try(job, first) as evaluator,
        counted(MODEL_TIME, job),
        attached(evaluator, asked.predictor.answering) as answers,
    ):
        while left := asked.questions[len(found) :]:
            found += answers(left[:_BLOCK])
            job.report("Answering", len(found), len(asked.questions))
            if answered and not answered(found):
                break
    return found


def answer_rows(
    adapter: Adapter,
    rows: str | Path,
    sure: float,
    model: Model,
    job: Job,
    show: Callable[[Answered], None],
) -> None:
    """Answer rows of a page: at most `MOST_ROWS`, and those for which there is time.

    Args:
        adapter: it was made here.
        rows: texts, a line each, or the path of a file.
        sure: the answer is empty where its probability is lower.
        model: the base model.
        job: shows the progress.
        show: called after each block, and at the end with a file.

    Raises:
        RequestError: there are no rows, or files of this type are not read here.
        LoraMetaError: the rows cannot be read, or this visitor may not use the model now.
    """
    check_sure(sure)
    MODEL_TIME.check(job.call.address)
    path = rows if isinstance(rows, Path) else None
    texts = rows.splitlines() if isinstance(rows, str) else []
    given = str(path) if path else [text for line in texts if (text := line.strip())]
    if path:
        validated(PageRequest(file=str(path)))
    if not given:
        raise RequestError(
            "There is nothing to answer: type a line, or choose a file", code="predict.no-inputs"
        )
    with (
        tempfile.TemporaryDirectory(prefix="lorameta-") as scratch,
        hidden_path(str(path) if path else None, path.name if path else ""),
    ):
        asked = ask(adapter.folder, given, MOST_ROWS, False, Path(scratch), model, job)
    done = Answered(asked, sure)

    def so_far(found: list[Prediction]) -> bool:
        done.found = [one.above(sure) for one in found]
        show(done)
        return job.seconds_left > _LAST_SECONDS

    answer(asked, model, job, so_far)
    size = done.write(asked, f"{path.stem[:60]}-answers.csv" if path else "answers.csv")
    ADAPTERS.add(job.call.address, size)
    show(done)
