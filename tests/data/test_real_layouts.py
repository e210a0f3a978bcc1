"""Datasets in the shapes that people have them in: each is read right, or the error asks.

Where it asks, the command that the error proposes is run as it would be pasted. The texts are made
up; names, nesting and types of the columns are those of datasets on the Hub, see also
`tests/data/hub_shapes.py` and `tests/data/shapes_by_task.py`.
"""

import gzip
import json
import shlex
from dataclasses import replace

import pytest

from hf_lorameta.cli.output import show_row
from tests.conftest import Account, Built, Done, Shell
from tests.data.hub_shapes import HUB_CASES, REFUSED
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
from tests.data.shapes_by_task import TASK_CASES, VECTORS

SQUAD_INPUT = f"Context: {text(0, 30)}\nQuestion: {text(1)}"
CONFIGS = """---
configs:
- {config_name: easy, data_files: easy/*}
- {config_name: hard, data_files: hard/*}
---
"""
SENTENCES = [text(i).replace("old", "Übung") for i in range(ROWS)]


def squad(i: int) -> Record:
    answers = {"text": [] if i == 3 else [text(i, 2)], "answer_start": [] if i == 3 else [4]}
    context, question = text(i, 30), text(i + 1)
    return {
        "id": f"{i}",
        "title": "T",
        "context": context,
        "question": question,
        "answers": answers,
    }


# fmt: off
CASES = [
    # --- classification
    case(
        "three classes with ClassLabel",
        lambda i: {"text": text(i), "label": i % 3},
        (text(0), "negative"),
        card=features(class_labels(label=CLASSES), text="string"),
    ),
    case(
        "labels as words",
        lambda i: {"sentence": text(i), "label": CLASSES[i % 3], "idx": i},
        (text(0), "negative"),
    ),
    case(
        "sorted labels without names",
        lambda i: {"text": text(i), "label": i // 12},
        (text(0), "0"),
        says=("Column label holds numbers",),
    ),
    case("one label only", lambda i: {"text": text(i), "label": "spam"}, (text(0), "spam")),
    case(
        "label and its name",
        lambda i: {"text": text(i), "label": i % 3, "label_text": CLASSES[i % 3]},
        (text(0), "negative"),
        says=("not read: label",),
    ),
    case(
        "title, content and class",
        lambda i: {"label": i % 3, "title": text(i, 2), "content": text(i, 20)},
        (f"Title: {text(0, 2)}\nContent: {text(0, 20)}", "negative"),
        card=features(class_labels(label=CLASSES), title="string", content="string"),
    ),
    case(
        "subject and body of a support ticket",
        lambda i: {"subject": text(i, 2), "body": text(i, 20), "category": CLASSES[i % 3]},
        (f"Subject: {text(0, 2)}\nBody: {text(0, 20)}", "negative"),
    ),
    case(
        "a subject that repeats",
        lambda i: {"subject": CLASSES[i // 12], "body": text(i, 20), "category": CLASSES[i % 3]},
        (text(0, 20), "negative"),
    ),
    case(
        "premise and hypothesis",
        lambda i: {"premise": text(i), "hypothesis": text(i, 4), "label": i % 3},
        (f"Premise: {text(0)}\nHypothesis: {text(0, 4)}", "negative"),
        card=features(class_labels(label=CLASSES), premise="string", hypothesis="string"),
    ),
    case(
        "several labels a text",
        lambda i: {"text": text(i), "labels": [i % 3, 2] if i % 3 == 0 else [1]},
        (text(0), "negative, positive"),
        "parquet",
        card=features(class_labels(labels__items=CLASSES), text="string"),
    ),
    case(
        "tokens and tags",
        lambda i: {"id": f"{i}", "tokens": text(i).split(), "ner_tags": [0, 1, *[2] * 7]},
        (text(0), "negative neutral " + " ".join(["positive"] * 7)),
        "parquet",
        card=features(class_labels(ner_tags__items=CLASSES), id="string", tokens__items="string"),
    ),
    case(
        "two class labels",
        lambda i: {"text": text(i), "coarse_label": i % 3, "fine_label": i % 2},
        (text(0), "negative"),
        asks=True,
        card=features(
            class_labels(coarse_label=CLASSES, fine_label=CLASSES), text="string"
        ),
    ),
    # --- questions
    case("SQuAD", squad, (SQUAD_INPUT, text(0, 2)), "parquet", says=("1 of 24 rows",)),
    case(
        "passage, question and a boolean answer",
        lambda i: {"question": text(i), "answer": i % 2 == 0, "passage": text(i, 30)},
        (f"Passage: {text(0, 30)}\nQuestion: {text(0)}", "true"),
    ),
    case(
        "MMLU",
        lambda i: {"question": text(i), "subject": "s", "choices": choices(i), "answer": i % 4},
        (f"{text(0)}\n{SHOWN}", text(0, 2)),
        "parquet",
        card=features(
            class_labels(answer=LETTERS), question="string", subject="string",
            choices__items="string",
        ),
    ),
    case(
        "choices with labels and an answer key",
        lambda i: {
            "id": f"{i}", "question": text(i), "choices": {"text": choices(i), "label": LETTERS},
            "answerKey": LETTERS[(i + 1) % 4],
        },
        (f"{text(0)}\n{SHOWN}", text(1, 2)),
    ),
    case(
        "a column for each choice, counted from 1",
        lambda i: {
            "sentence": text(i), "option1": text(i, 2), "option2": text(i + 1, 2),
            "answer": f"{i % 2 + 1}",
        },
        (f"{text(0)}\n- {text(0, 2)}\n- {text(1, 2)}", text(0, 2)),
    ),
    case(
        "article, question and options",
        lambda i: {
            "example_id": f"{i}", "article": text(i, 30), "answer": LETTERS[i % 4],
            "question": text(i), "options": choices(i),
        },
        (f"Article: {text(0, 30)}\nQuestion: {text(0)}\n{SHOWN}", text(0, 2)),
        "parquet",
    ),
    case(
        "several right answers",
        lambda i: {"question": text(i), "answer": [text(i, 2), text(i, 3)]},
        (text(0), text(0, 2)),
        says=("24 of the first 24 rows hold several outputs", "output=answer.*"),
    ),
    # --- instructions and chats
    case(
        "Alpaca",
        lambda i: {"instruction": text(i), "input": text(i, 5), "output": text(i, 3), "text": "x"},
        (f"{text(0)}\n\nInput: {text(0, 5)}\nOutput:", text(0, 3)),
    ),
    case(
        "Dolly",
        lambda i: {
            "instruction": text(i), "context": text(i, 9) if i % 2 == 0 else "",
            "response": text(i, 3), "category": "open_qa",
        },
        (f"{text(0)}\n\nInput: {text(0, 9)}\nOutput:", text(0, 3)),
    ),
    case(
        "system prompt, question and response",
        lambda i: {"id": f"{i}", "system_prompt": text(7), "question": text(i), "response": "A."},
        (f"{text(7)}\n\nInput: {text(0)}\nOutput:", "A."),
    ),
    case(
        "chat multi-turn",
        lambda i: {"prompt_id": f"{i}", "prompt": text(i), "messages": turns(i, 4)},
        (f"{text(0)}\n\n{text(1)}\n\n{text(2)}", text(3)),
    ),
    case(
        "ShareGPT",
        lambda i: {"id": f"{i}", "conversations": turns(i, 2, "from", "value")},
        (text(0), text(1)),
    ),
    case(
        "preferences",
        lambda i: {"prompt": text(i), "chosen": text(i, 4), "rejected": text(i, 5)},
        (text(0), text(0, 4)),
        says=("not read: rejected",),
    ),
    case(
        "preferences as chats",
        lambda i: {"chosen": turns(i), "rejected": turns(i + 1), "score_chosen": 1.0},
        (text(0), text(1)),
    ),
    case(
        "preferences as transcripts",
        lambda i: {
            "chosen": f"\n\nHuman: {text(i)}\n\nAssistant: {text(i, 4)}",
            "rejected": f"\n\nHuman: {text(i)}\n\nAssistant: {text(i, 5)}",
        },
        (text(0), text(0, 4)),
    ),
    case(
        "prompt and completion as turns",
        lambda i: {"prompt": turns(i)[:1], "completion": turns(i)[1:]},
        (text(0), text(1)),
    ),
    case(
        "messages that call tools",
        lambda i: {"messages": [
            *turns(i)[:1],
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c", "function": {"name": "f", "arguments": json.dumps({"day": i})}},
            ]},
        ], "tools": "[]"},
        (text(0), '{"name": "f", "arguments": {"day": 0}}'),
        says=("not read: tools",),
    ),
    case(
        "a chat with a system turn",
        lambda i: {"conversations": [
            {"from": "system", "value": text(7)}, *turns(i, 2, "from", "value"),
        ]},
        (f"{text(7)}\n\n{text(0)}", text(1)),
    ),
    case("a chat in the form of Llama 2",
         lambda i: {"text": f"<s>[INST] {text(i)} [/INST] {text(i, 4)} [1] </s>"},
         (text(0), f"{text(0, 4)} [1]")),
    case("a chat in the form of ChatML",
         lambda i: {"text": f"<|im_start|>user\n{text(i)}<|im_end|>\n<|im_start|>assistant\n"
                            f"{text(i, 4)}<|im_end|>"},
         (text(0), text(0, 4))),
    case("a transcript as text",
         lambda i: {"text": f"### Human: {text(i)}### Assistant: {text(i, 4)}"},
         (text(0), text(0, 4))),
    case(
        "preferences as lists, with a prompt and scores",
        lambda i: {"prompt": text(i), "prompt_id": f"{i}", "chosen": turns(i),
                   "rejected": turns(i + 1), "messages": turns(i), "score_chosen": 1.0},
        (text(0), text(1)),
        says=("not read: prompt, chosen, rejected",),
    ),
    case("a prompt and several completions",
         lambda i: {"prompt": text(i), "completions": [text(i, 3), text(i, 4)]},
         (text(0), text(0, 3)), says=("output=completions.*",)),
    case(
        "completions of several models",
        lambda i: {"source": "s", "instruction": text(i), "models": ["a", "b"], "completions": [
            {"model": "a", "response": text(i, 3), "score": 7.5},
            {"model": "b", "response": text(i, 4), "score": 3.0},
        ]},
        (text(0), text(0, 3)),
    ),
    case(
        "prompts with a rule to check answers",
        lambda i: {"data_source": "m", "prompt": turns(i)[:1], "ability": "math",
                   "reward_model": {"ground_truth": f"{i}", "style": "rule"}},
        (text(0), ""),
        asks=True,
        says=("The dataset has no outputs",),
    ),
    case("anchor, positive and negative",
         lambda i: {"anchor": text(i), "positive": text(i, 4), "negative": text(i, 5)},
         (text(0), text(0, 4)), says=("not read: negative",)),
    case("rows as JSON texts in a column",
         lambda i: {"id": i, "data": json.dumps({"question": text(i), "answer": text(i, 2)})},
         (text(0), text(0, 2))),
    case("an image beside the text",
         lambda i: {"image": {"bytes": b"\x89PNG", "path": "a.png"}, "question": text(i),
                    "answer": text(i, 2)},
         (text(0), text(0, 2)), "parquet", says=("not read: image",)),
    case("a number to predict, after an id",
         lambda i: {"id": i, "text": text(i), "score": i * 0.25}, (text(0), "0.0")),
    case("a column of 0 and 1 for each label",
         lambda i: {"comment_text": text(i), "toxic": i % 2, "threat": i % 3 // 2},
         (text(0), "0"), asks=True),
    case("HTML",
         lambda i: {"html": f"<p>{text(i)}</p>", "title": text(i, 3), "label": CLASSES[i % 3]},
         (f"<p>{text(0)}</p>", "negative"), asks=True),
    case("names in capitals, an id first",
         lambda i: {"ID": i, "Question": text(i), "Answer": text(i, 4), "Explanation": text(i, 9)},
         (text(0), text(0, 4)), says=("not read: Explanation",)),
    case("names in another language",
         lambda i: {"Frage": text(i, 9), "Antwort": text(i, 4)}, (text(0, 9), text(0, 4)),
         asks=True),
    # --- text to text
    case(
        "dialogue and summary",
        lambda i: {"id": f"{i}", "dialogue": text(i, 30), "summary": text(i, 4)},
        (text(0, 30), text(0, 4)),
    ),
    case(
        "article and highlights",
        lambda i: {"article": text(i, 40), "highlights": text(i, 4), "id": f"{i}"},
        (text(0, 40), text(0, 4)),
    ),
    case(
        "translation",
        lambda i: {"translation": {"en": text(i), "de": text(i, 9)}},
        (text(0), text(0, 9)),
        asks=True,
    ),
    case("source and target", lambda i: {"source": text(i, 12), "target": text(i)},
         (text(0, 12), text(0))),
    case("text and code", lambda i: {"task_id": i, "text": text(i), "code": f"f({i})"},
         (text(0), "f(0)")),
    case("text corpus", lambda i: {"text": text(i), "url": f"https://x/{i}", "timestamp": "2024"},
         ("", text(0))),
    case("multilingual", lambda i: {"inputs": f"Übersetze ins 日本語 {i}", "targets": f"答え {i}",
         "language": "ja"}, ("Übersetze ins 日本語 0", "答え 0")),
    case("lists of sentences",
         lambda i: {"document": [text(i), text(i + 1)], "summary": text(i, 3)},
         (f"{text(0)}\n{text(1)}", text(0, 3)), "parquet"),
    case("long rows", lambda i: {"input": f"{i} " + "word " * 1000, "output": text(i)},
         ("0 " + "word " * 1000, text(0))),
    case("empty and None rows", lambda i: {"input": text(i), "output": [None, "", "yes"][i % 3]},
         (text(2), "yes"), says=("16 of 24 rows have no output and were left out",)),
    # --- files
    Case("three rows", {"rows.jsonl": jsonl([{"input": text(i), "output": "b"} for i in range(3)])},
         (text(0), "b"), says=("Only 3 rows",)),
    Case("gz", {"rows.jsonl.gz": gzip.compress(jsonl([{"input": text(i), "output": f"b {i}"}
         for i in range(ROWS)]))}, (text(0), "b 0")),
    Case("semicolons", {"rows.csv": csv_text([{"text": f"{text(i)}, and", "label": CLASSES[i % 3]}
         for i in range(ROWS)], ";").encode()}, (f"{text(0)}, and", "negative")),
    Case("tabs in a CSV", {"rows.csv": csv_text([{"Question": text(i), "Answer": f"a {i}"}
         for i in range(ROWS)], "\t").encode()}, (text(0), "a 0")),
    Case("Windows-1252", {"rows.csv": csv_text([{"text": s, "label": "Größe"} for s in SENTENCES])
         .encode("cp1252")}, (SENTENCES[0], "Größe"), says=("read as cp1252",)),
    Case("semicolons on the Hub, in Windows-1252", {"train.csv": csv_text([{"text": s,
         "label": "NA"} for s in SENTENCES], ";").encode("cp1252")}, (SENTENCES[0], "NA"),
         card="", says=("read as cp1252",)),
    Case("tabs without a header", {"rows.tsv": "".join(f"{text(i)}\t{CLASSES[i % 3]}\n"
         for i in range(ROWS)).encode()}, (text(0), "negative"), says=("has no header line",)),
    Case("no header, on the Hub", {"train.csv": "".join(f'"{text(i)}",{i % 3}\n'
         for i in range(ROWS)).encode()}, (text(0), "0"), card="", says=("has no header line",)),
    Case("a JSON object of columns", {"rows.json": json.dumps({"question": list(map(text,
         range(ROWS))), "answer": [f"a {i}" for i in range(ROWS)]}).encode()}, (text(0), "a 0"),
         says=("read as 24 rows",)),
    Case("a JSON object of rows by id", {"rows.json": json.dumps({f"q{i}": {"question": text(i),
         "answer": f"a {i}"} for i in range(ROWS)}).encode()}, (text(0), "a 0")),
    Case("Cyrillic in Windows-1251", {"rows.csv": "".join(["text,label\n", *(
         f"Привет мир {i},да\n" for i in range(ROWS))]).encode("cp1251")}, ("Привет мир 0", "да"),
         says=("read as cp1251",)),
    *(Case(f"{name}, on the Hub", {f"train.csv{ending}": pack("".join(["text,label\n", *(
         f"Привет мир {i},да\n" for i in range(ROWS))]).encode(encoding))}, ("Привет мир 0", "да"),
         card="", says=(f"read as {encoding}",)) for name, ending, pack, encoding in (
         ("compressed Windows-1251", ".gz", gzip.compress, "cp1251"),
         ("UTF-16", "", bytes, "utf-16"))),
    Case("Chinese in GB18030, on the Hub", {"train.csv": "".join(["text,label\n", *(
         f"你好世界今天天气很好 {i},好\n" for i in range(ROWS))]).encode("gb18030")},
         ("你好世界今天天气很好 0", "好"), card="", says=("read as gb18030",)),
    Case("Parquet files with differing columns", {f"part-{k}.parquet": parquet([{"input": text(i),
         "output": f"b {i}"} | ({"extra": i} if k else {}) for i in range(k, ROWS, 2)])
         for k in (0, 1)}, (text(0), "b 0"), says=("rows differ in their columns", )),
    Case("plain text", {"rows.txt": "\n".join(map(text, range(ROWS))).encode()}, ("", text(0))),
    Case("an answer that CSV readers take for missing", {"rows.csv": csv_text(
         [{"question": text(i), "answer": "NA"} for i in range(ROWS)]).encode()}, (text(0), "NA")),
    Case("odd names", {"rows.csv": csv_text([{"Kundenfrage": text(i, 12),
         '"Antwort, kurz"': text(i), "Datum": f"2024-01-{i + 1:02}"} for i in range(ROWS)])
         .encode()}, (text(0, 12), text(0)), asks=True),
    Case("a slice", {"rows.jsonl": jsonl([{"input": text(i), "output": f"b {i}"}
         for i in range(ROWS)])}, (text(4), "b 4"), options=("--split", "train[4:20]")),
    Case("several files", {f"part-{k}.jsonl": jsonl([{"input": text(i), "output": f"b {i}"}
         for i in range(k, ROWS, 2)]) for k in (0, 1)}, (text(0), "b 0")),
    Case("several configurations", {f"{name}/train.jsonl": jsonl([{"input": text(i), "output": name}
         for i in range(ROWS)]) for name in ("easy", "hard")}, (text(0), "easy"), card=CONFIGS,
         asks=True),
    Case("no split named train", {f"{name}.jsonl": jsonl([{"input": text(i), "output": name}
         for i in range(ROWS)]) for name in ("test", "validation")}, (text(0), "validation"),
         asks=True, card=""),
]
# fmt: on


def dataset_of(shape: Case, cli: Shell, user: Account) -> str:
    """Serve or write the files, and return the dataset's name for the command line."""
    if shape.card is not None:
        files = shape.files | {"README.md": shape.card.encode()}
        return user.dataset("d", files)
    for name, content in shape.files.items():
        (cli.cwd / name).write_bytes(content)
    first = next(iter(shape.files))
    if len(shape.files) == 1:
        return first
    return f"part-*.{first.rpartition('.')[2]}"


def placed(shape: Case, cli: Shell, user: Account, place: str) -> str:
    """Serve the files as a repo, or write them into a folder with a space in its name."""
    files = shape.files | ({"README.md": shape.card.encode()} if shape.card else {})
    if place == "hub":
        return user.dataset("d", files)
    for name, content in files.items():
        path = cli.cwd / "my data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return "my data"


def pasted(cli: Shell, done: Done, code: int = 0) -> Done:
    """Run the command that an error proposes."""
    command = done.err.splitlines()[-1].removeprefix("Next:  ")
    program, *arguments = shlex.split(command)
    assert program == "hf-lorameta"
    return cli(*arguments, code=code)


def check_reading(cli: Shell, bank: Built, shape: Case, dataset: str) -> None:
    """Plan, with the commands that errors propose, until the row is read as the case says."""
    command = ("plan", "--dataset", dataset, "--bank", bank.folder, *shape.options)
    done = cli(*command, code=3 if shape.asks else 0)
    said = done.err
    for left in range(int(shape.asks) - 1, -1, -1):
        if not left:
            assert show_row(shape.row) in done.err or "--columns" not in done.err
        done = pasted(cli, done, 3 if left else 0)
        said += done.err
    assert f"read:\n{show_row(shape.row)}\n" in done.err
    for words in shape.says:
        assert words in said


@pytest.mark.parametrize("shape", [*CASES, *TASK_CASES], ids=lambda shape: shape.name)
def test_datasets_are_read_right_or_a_command_that_works_is_proposed(
    cli: Shell, bank: Built, user: Account, shape: Case
) -> None:
    check_reading(cli, bank, shape, dataset_of(shape, cli, user))


@pytest.mark.parametrize("place", ["hub", "folder"])
@pytest.mark.parametrize("shape", HUB_CASES, ids=lambda shape: shape.name)
def test_repos_and_folders_laid_out_like_them_are_read_alike(
    cli: Shell, bank: Built, user: Account, shape: Case, place: str
) -> None:
    check_reading(cli, bank, shape, placed(shape, cli, user, place))


@pytest.mark.parametrize("place", ["hub", "folder"])
@pytest.mark.parametrize("shape", [*REFUSED, *VECTORS], ids=lambda shape: shape.name)
def test_datasets_without_text_are_refused(
    cli: Shell, bank: Built, user: Account, shape: Case, place: str
) -> None:
    dataset = placed(shape, cli, user, place)
    refused = cli("plan", dataset, "--bank", bank.folder, code=3).err
    assert "no column holds text" in refused


def test_no_text_of_the_dataset_is_in_what_is_stored(
    cli: Shell, bank: Built, user: Account
) -> None:
    shape = next(one for one in CASES if one.name == "chat multi-turn")
    dataset = dataset_of(replace(shape, card="---\n---\n"), cli, user)
    result = cli("plan", "--dataset", dataset, "--bank", bank.folder, "--json")
    cli("generate", "--dataset", dataset, "--bank", bank.folder, "-o", "adapter")
    files = [path for path in (cli.cwd / "adapter").iterdir() if path.name != "README.md"]
    written = [path.read_bytes() for path in files]  # the card shows one row of public data
    words = " ".join(text(0).split()[:4])
    assert words not in result.out + result.err
    assert not any(words.encode() in content for content in written)
