"""Shapes of well-known datasets of the Hub, each as the files of its repo and its first row.

Names, nesting, types, configurations and splits are those of the datasets; the texts are made up.
The table of `tests/data/test_real_layouts.py` has the other shapes.
"""

import gzip
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

from tests.data.shapes import (
    CLASSES,
    LETTERS,
    ROWS,
    SHOWN,
    Case,
    Record,
    case,
    choices,
    class_labels,
    csv_text,
    features,
    jsonl,
    parquet,
    text,
    turns,
)  # fmt: skip

Make = Callable[[int], Record]
LONG = text(0, 30)


def rows_of(make: Make) -> list[Record]:
    return [make(i) for i in range(ROWS)]


def configs(named: dict[str, Sequence[str]], ending: str, info: str = "") -> str:
    """Return a card with configurations, each with its splits and globs of their files."""
    lines = ["---", *([info] if info else []), "configs:"]
    for name, splits in named.items():
        folder = "" if name == "default" else f"{name}/"
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += [f"  - {{split: {s}, path: {folder}{s}-*.{ending}}}" for s in splits]
    return "\n".join([*lines, "---", ""])


def repo(
    name: str,
    named: dict[str, Sequence[str]],
    make: Make,
    row: tuple[str, str],
    info: str = "",
    **more: Any,
) -> Case:
    """Return a dataset of Parquet files, one for each split of each configuration."""
    content = parquet(rows_of(make))
    files = {
        f"{'' if config == 'default' else config + '/'}{split}-00000-of-00001.parquet": content
        for config, splits in named.items()
        for split in splits
    }
    return Case(name, files, row, card=configs(named, "parquet", info), **more)


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def labeled(i: int) -> Record:
    return {"text": text(i), "label": i % 3}


# the class names of each configuration, as the Hub writes them
TWO_CONFIGS = "dataset_info:\n" + "\n".join(
    f"- {{config_name: {config}, features: [{{name: text, dtype: string}}, {{name: label, dtype: "
    f"{{class_label: {{names: {{'0': {config} a, '1': {config} b, '2': {config} c}}}}}}}}]}}"
    for config in ("emotion", "hate")
)
IMAGE = "dataset_info: {features: [{name: image, dtype: image}, {name: label, dtype: int64}]}"
SUPPORT = f"Support: {LONG}\nQuestion: {text(0)}"

# fmt: off
HUB_CASES = [
    # --- configurations, splits and files
    repo("ultrachat: splits named train_sft and test_sft",
         {"default": ["train_sft", "test_sft", "train_gen"]},
         lambda i: {"prompt": text(i), "prompt_id": f"{i}", "messages": turns(i)},
         (text(0), text(1)), asks=True),
    repo("cnn_dailymail: versions as configurations",
         {v: ["train", "test"] for v in ("1.0.0", "2.0.0", "3.0.0")},
         lambda i: {"article": LONG, "highlights": text(i, 4), "id": f"{i}"},
         (LONG, text(0, 4)), asks=True),
    repo("gsm8k: two configurations", {"main": ["train", "test"], "socratic": ["train", "test"]},
         lambda i: {"question": text(i), "answer": f"{text(i, 9)} #### {i}"},
         (text(0), f"{text(0, 9)} #### 0"), asks=True),
    repo("tweet_eval: class names of each configuration",
         {c: ["train", "test", "validation"] for c in ("emotion", "hate")}, labeled,
         (text(0), "hate a"), TWO_CONFIGS, options=("--config", "hate")),
    repo("wmt: a configuration, then a direction", {c: ["train"] for c in ("de-en", "fr-en")},
         lambda i: {"translation": {"de": text(i), "en": text(i, 9)}},
         (text(0), text(0, 9)), asks=2),
    Case("c4: shards of compressed JSON lines", {
        f"{lang}/c4-{split}.0000{k}-of-00002.json.gz": gzip.compress(jsonl(rows_of(lambda i: {
            "text": text(i, 30), "timestamp": "2019-04-25T12:57:54Z", "url": f"https://x/{i}"})))
        for lang in ("en", "de") for split in ("train", "validation") for k in (0, 1)},
        ("", LONG), options=("--config", "en"), card="---\nconfigs:\n" + "".join(
            f"- {{config_name: {c}, data_files: [{{split: train, path: {c}/c4-train.*}}]}}\n"
            for c in ("en", "de")) + "---\n"),
    Case("train, valid and test, without a card", {
        f"{name}.csv": csv_text([{"text": text(i), "label": name} for i in range(ROWS)]).encode()
        for name in ("valid", "test", "train")}, (text(0), "train"), card=""),
    Case("folders named train and test", {
        f"data/{split}/0000.parquet": parquet(rows_of(lambda i: {
            "question": text(i), "answer": text(i, 3)})) for split in ("train", "test")},
        (text(0), text(0, 3)), card=""),
    Case("a zipped CSV", {"train.csv.zip": zipped("train.csv", csv_text(
        [{"text": text(i), "label": CLASSES[i % 3]} for i in range(ROWS)]).encode())},
        (text(0), "negative"), card=""),
    Case("hh-rlhf: compressed files in folders", {
        f"{folder}/{split}.jsonl.gz": gzip.compress(jsonl(rows_of(lambda i: {
            "chosen": f"\n\nHuman: {text(i)}\n\nAssistant: {text(i, 4)}",
            "rejected": f"\n\nHuman: {text(i)}\n\nAssistant: {text(i, 5)}"})))
        for folder in ("harmless-base", "helpful-base") for split in ("train", "test")},
        (text(0), text(0, 4)), card=""),
    repo("humaneval: a test split alone", {"default": ["test"]},
         lambda i: {"task_id": f"H/{i}", "prompt": f"def f{i}(x):\n", "entry_point": f"f{i}",
                    "canonical_solution": f"  return x + {i}", "test": f"assert f{i}(0) == {i}"},
         ("def f0(x):\n", "  return x + 0")),
    Case("OpenHermes: a JSON list with empty columns", {"openhermes.json": json.dumps(rows_of(
        lambda i: {"custom_instruction": None, "model": None, "category": "orca", "hash": None,
                   "conversations": turns(i, 2, "from", "value")})).encode()},
        (text(0), text(1)), card=""),
    # --- which columns are read
    case("piqa: two solutions and a class label without names",
         lambda i: {"goal": text(i), "sol1": text(i, 5), "sol2": text(i + 1, 5), "label": i % 2},
         (f"{text(0)}\n- {text(0, 5)}\n- {text(1, 5)}", text(0, 5)), "parquet",
         card=features(class_labels(label=["'0'", "'1'"]), goal="string", sol1="string",
                       sol2="string")),
    case("hellaswag: endings, of which a text names the right one",
         lambda i: {"ind": i, "activity_label": "Baking", "ctx_a": text(i, 9), "ctx_b": text(i, 3),
                    "ctx": f"{text(i, 9)} {text(i, 3)}", "endings": choices(i), "split": "train",
                    "label": f"{i % 4}"},
         (f"{text(0, 9)} {text(0, 3)}\n{SHOWN}", text(0, 2)), "parquet"),
    case("medqa: choices by their letters",
         lambda i: {"question": text(i), "answer": choices(i)[i % 4], "answer_idx": LETTERS[i % 4],
                    "options": dict(zip(LETTERS, choices(i), strict=True)), "meta_info": "step1"},
         (f"{text(0)}\n{SHOWN}", text(0, 2))),
    case("MMLU-Pro: a letter and an index of the right choice",
         lambda i: {"question_id": i, "question": text(i), "options": choices(i), "src": "x",
                    "answer": LETTERS[i % 4], "answer_index": i % 4, "category": "law"},
         (f"{text(0)}\n{SHOWN}", text(0, 2)), "parquet"),
    case("truthful_qa: a category beside several kinds of answers",
         lambda i: {"type": "Adversarial", "category": ["Misc", "Law"][i % 2], "question": text(i),
                    "best_answer": text(i, 4), "correct_answers": [text(i, 4), text(i, 5)],
                    "incorrect_answers": [text(i, 6)], "source": "https://x"},
         (text(0), text(0, 4)), "parquet", asks=True,
         says=("the output may be best_answer or correct_answers",)),
    case("wiki_qa: a label says whether the answer is right",
         lambda i: {"question_id": f"Q{i}", "question": text(i), "document_title": text(i, 2),
                    "answer": text(i, 9), "label": i % 2},
         (f"Question: {text(0)}\nAnswer: {text(0, 9)}", "0"), "parquet", asks=True,
         says=("without it: --columns input=question,output=answer",)),
    case("KTO: a label says whether the completion is good",
         lambda i: {"prompt": text(i), "completion": text(i, 9), "label": i % 2 == 0},
         (f"Prompt: {text(0)}\nCompletion: {text(0, 9)}", "true"), asks=True),
    case("sciq: distractors beside the right answer",
         lambda i: {"question": text(i), "distractor1": text(i, 2), "correct_answer": text(i, 3),
                    "support": text(i, 30)},
         (SUPPORT, text(0, 3))),
    case("ms_marco: passages as lists of texts and URLs",
         lambda i: {"answers": [text(i, 3)], "query": text(i, 4), "query_id": i,
                    "passages": {"is_selected": [0, 1], "url": ["http://a", "http://b"],
                                 "passage_text": [text(i, 20), text(i + 1, 20)]}},
         (f"Passages: {text(0, 20)}\n{text(1, 20)}\nQuery: {text(0, 4)}", text(0, 3)), "parquet"),
    case("hotpot_qa: a context as lists of lists",
         lambda i: {"id": f"{i}", "question": text(i), "answer": text(i, 2), "level": "hard",
                    "supporting_facts": {"title": ["A"], "sent_id": [0]},
                    "context": {"title": ["A", "B"], "sentences": [[text(i)], [text(i + 1)]]}},
         (f"Context: {text(0)}\n{text(1)}\nQuestion: {text(0)}", text(0, 2)), "parquet"),
    case("drop: spans of answers",
         lambda i: {"query_id": f"{i}", "passage": text(i, 30), "question": text(i),
                    "answers_spans": {"spans": [text(i, 2)], "types": ["span"]}},
         (f"Passage: {LONG}\nQuestion: {text(0)}", text(0, 2)), "parquet"),
    case("trivia_qa: an answer with its aliases",
         lambda i: {"question": text(i), "question_id": f"{i}", "entity_pages": {"title": []},
                    "answer": {"aliases": [text(i, 3)], "normalized_value": "x", "type": "W",
                               "value": text(i, 2)}},
         (text(0), text(0, 2)), "parquet"),
    case("wikisql: the query is a field",
         lambda i: {"phase": 1, "question": text(i), "table": {"header": ["a"], "id": "1"},
                    "sql": {"human_readable": f"SELECT a WHERE b = {i}", "sel": 3, "agg": 0}},
         (text(0), "SELECT a WHERE b = 0"), "parquet"),
    case("fields for inputs and outputs",
         lambda i: {"inputs": {"question": text(i), "context": text(i, 30)},
                    "outputs": {"answer": text(i, 3)}},
         (f"Context: {LONG}\nQuestion: {text(0)}", text(0, 3)), "parquet"),
    case("xlam: the tools that an answer calls",
         lambda i: {"id": i, "query": text(i), "tools": f'[{{"name": "f{i}"}}]',
                    "answers": f'[{{"name": "f{i}", "arguments": {{}}}}]'},
         (f'Tools: [{{"name": "f0"}}]\nQuery: {text(0)}', '[{"name": "f0", "arguments": {}}]')),
    case("glaive: a transcript with marks of its end",
         lambda i: {"system": "SYSTEM: Be good.",
                    "chat": f"USER: {text(i)}\n\n\nASSISTANT: {text(i, 4)} <|endoftext|>\n\n\n"},
         (f"SYSTEM: Be good.\n\n{text(0)}", text(0, 4))),
    case("xnli: all languages",
         lambda i: {"premise": {"de": text(i, 5), "en": text(i, 6)}, "label": i % 3,
                    "hypothesis": {"language": ["de", "en"], "translation": [text(i), text(i)]}},
         (f"Premise: {text(0, 6)}\nHypothesis: {text(0)}\n{text(0)}", "0"), "parquet", asks=True),
    case("oasst1: labels as lists of names and numbers",
         lambda i: {"message_id": f"{i}", "text": text(i), "role": ["prompter", "assistant"][i % 2],
                    "lang": "en", "labels": {"name": ["spam"], "value": [0.1 * (i % 9)]}},
         ("", text(0)), "parquet", asks=True),
    case("conll2003: three kinds of tags",
         lambda i: {"id": f"{i}", "tokens": text(i, 2).split(), "pos_tags": [0, 1, 2],
                    "chunk_tags": [0, 1, 2], "ner_tags": [0, 1, 2]},
         (text(0, 2), " ".join(CLASSES)), "parquet", asks=True,
         card=features(class_labels(pos_tags__items=CLASSES, chunk_tags__items=CLASSES,
                                    ner_tags__items=CLASSES), id="string", tokens__items="string")),
    case("daily_dialog: a list of turns, and labels for each",
         lambda i: {"dialog": [text(i), text(i + 1)], "act": [0, 1], "emotion": [0, 2]},
         (f"{text(0)}\n{text(1)}", "negative positive"), "parquet", asks=True,
         card=features(class_labels(act__items=CLASSES, emotion__items=CLASSES),
                       dialog__items="string")),
    case("civil_comments: seven ratings of a text",
         lambda i: {"text": text(i), "toxicity": i / 30, "insult": 0.5, "threat": 0.0},
         (text(0), "0.0"), "parquet", asks=True),
    case("stsb: a similarity as a number",
         lambda i: {"sentence1": text(i), "sentence2": text(i, 5), "label": 0.2 + i / 5, "idx": i},
         (f"Sentence1: {text(0)}\nSentence2: {text(0, 5)}", "0.2"), "parquet"),
    case("the_stack: code and facts about it",
         lambda i: {"content": f"print({i})\nexit()", "path": "a.py", "size": 50, "ext": "py",
                    "hexsha": f"a{i}b", "avg_line_length": 9.5},
         ("", "print(0)\nexit()"), "parquet", asks=True),
    case("wikitext: most rows are empty",
         lambda i: {"text": "" if i % 3 != 1 else f" {text(i, 20)} \n"},
         ("", f" {text(1, 20)} \n"), "parquet"),
    case("class names that YAML takes for booleans", lambda i: {"text": text(i), "label": i % 2},
         (text(0), "False"), "parquet",
         card=features(class_labels(label=["False", "True"]), text="string")),
]

REFUSED = [
    case("images and class labels", lambda i: {"image": {"bytes": b"\x89PNG", "path": None},
         "label": i % 3}, ("", ""), "parquet", card=f"---\n{IMAGE}\n---\n"),
]
"""Datasets without any text."""
# fmt: on
