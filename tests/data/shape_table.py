"""The table of datasets in the shapes that people have them in, each with its first row as read.

The texts are made up; names, nesting and types of the columns, configurations and splits are those
of datasets on the Hub, some of them named before a colon.
"""

import gzip
import json
from collections.abc import Callable

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
    labeled,
    parquet,
    repo,
    rows_of,
    text,
    turns,
    zipped,
)

LONG = text(0, 30)
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


PAIR = f"Sentence1: {text(0)}\nSentence2: {text(0, 5)}"


def tree(i: int) -> Record:
    replies = [{"role": "assistant", "text": text(i + 1), "replies": []}]
    return {"role": "prompter", "text": text(i), "replies": replies}


def parts(role: str, words: str) -> Record:
    return {"role": role, "parts": [{"text": words}]}


# the class names of each configuration, as the Hub writes them
TWO_CONFIGS = "dataset_info:\n" + "\n".join(
    f"- {{config_name: {config}, features: [{{name: text, dtype: string}}, {{name: label, dtype: "
    f"{{class_label: {{names: {{'0': {config} a, '1': {config} b, '2': {config} c}}}}}}}}]}}"
    for config in ("emotion", "hate")
)
IMAGE = "dataset_info: {features: [{name: image, dtype: image}, {name: label, dtype: int64}]}"
SUPPORT = f"Support: {LONG}\nQuestion: {text(0)}"


TAGS = ["B-LOC", *["O"] * 8]
CONLL = "-DOCSTART- -X- -X- O\n\n" + "\n".join(
    "".join(f"{w} -X- {t}\n" for w, t in zip(text(i).split(), TAGS, strict=True))
    for i in range(ROWS)
)

LANGUAGES = {
    f"data/{language}/train-00000-of-00001.parquet": parquet(
        [{"text": f"{language} {text(i)}", "label": CLASSES[i % 3]} for i in range(ROWS)]
    )
    for language in ("de", "en")
}


INTENTS = ["card_arrival", "lost_card", "top_up"]


def lines(make: Callable[[int], str], start: str = "") -> bytes:
    return (start + "".join(f"{make(i)}\n" for i in range(ROWS))).encode()


CLINC = json.dumps(
    {
        split: [[text(i + k), INTENTS[i % 3]] for i in range(ROWS)]
        for k, split in enumerate(("oos_val", "val", "train"))
    }
).encode()
SPAM = lines(lambda i: f'{["ham", "spam"][i % 2]},"{text(i)}"')


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
        says=("Column label holds numbers: if they stand for classes",),
    ),
    case(
        "labels in several spellings",
        lambda i: {"text": text(i), "label": ["yes ", "no", "Yes", "YES", "Yes", "NO"][i % 6]},
        (text(0), "Yes"),
        says=("12 of the first 24 labels differ from others",),
    ),
    case(
        "rows without a label have -1",
        lambda i: {"premise": text(i), "hypothesis": text(i, 4), "label": i % 8 - 1},
        (f"Premise: {text(1)}\nHypothesis: {text(1, 4)}", "0"),
        says=("3 of the first 24 rows have the label -1",),
    ),
    case("a sentiment of -1", lambda i: {"text": text(i), "label": i % 3 - 1}, (text(0), "-1")),
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
        "tokens and tags without names",
        lambda i: {"id": f"{i}", "tokens": text(i).split(), "ner_tags": [0, 1, *[2] * 7]},
        (text(0), "0 1 2 2 2 2 2 2 2"),
        "parquet",
        says=("Column ner_tags holds numbers",),
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
    case("a chat in the form of Llama 2, without marks of its ends",
         lambda i: {"text": f"[INST] {text(i)} [/INST] {text(i, 4)}"},
         (text(0), text(0, 4))),
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
         (text(0), text(0, 2)), asks=True),
    case("rows as JSON texts in the only column",
         lambda i: {"text": json.dumps({"question": text(i), "answer": text(i, 2)})},
         (text(0), text(0, 2)), asks=True),
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
         lambda i: {"Frage": text(i, 9), "Antwort": text(i, 4)}, (text(0, 9), text(0, 4))),
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
    Case("a table in a text file", {"rows.txt": "".join(f"{text(i)}\t{text(i, 3)}\n"
         for i in range(ROWS)).encode()}, (text(0), text(0, 3)), asks=True,
         says=("has no header line",)),
    Case("a table in a text file on the Hub", {"train.txt": "".join(
         f"{text(i)}\t{text(i, 3)}\n" for i in range(ROWS)).encode()},
         (text(0), text(0, 3)), asks=True, card="", says=("has no header line",)),
    Case("MMLU without a header", {"rows.csv": "".join(f"{text(i)}?,{','.join(choices(i))},"
         f"{LETTERS[i % 4]}\n" for i in range(ROWS)).encode()},
         (f"{text(0)}?\n{SHOWN}", text(0, 2)), asks=True),
    Case("three rows with unknown names", {"rows.csv": csv_text([{"mood": "good", "report":
         text(i, 20)} for i in range(3)]).encode()}, (text(0, 20), "good"), asks=True),
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
    Case("CoNLL", {"train.conll": CONLL.encode()},
         (" ".join(text(0).split()), " ".join(TAGS))),
    Case("CoNLL in a text file on the Hub", {"train.txt": CONLL.replace(" -X- ", "\t").encode()},
         (" ".join(text(0).split()), " ".join(TAGS)), card=""),
    Case("CoNLL as a table, the number of a sentence before its first word", {"ner.csv": csv_text([
         {"Sentence #": "" if k else f"Sentence: {i}", "Word": w, "POS": "N", "Tag": t}
         for i in range(ROWS) for k, (w, t) in enumerate(zip(text(i).split(), TAGS, strict=True))])
         .encode()}, ("Sun", "B-LOC"), asks=True,
         says=("rows.ffill().groupby('Sentence #', sort=False)",)),
    Case("CoNLL as a table, the number of a sentence before each word", {"ner.jsonl": jsonl([
         {"sentence_id": i, "tokens": w, "ner_tags": t} for i in range(ROWS)
         for w, t in zip(text(i).split(), TAGS, strict=True)])}, ("Sun", "B-LOC"), asks=True,
         says=("each row is a single word",)),
    Case("SQuAD as a table", {"squad.csv": csv_text([{"context": text(i, 30), "question":
         text(i + 1), "id": i, "answer_start": 4, "text": text(i, 2)} for i in range(ROWS)])
         .encode()}, (SQUAD_INPUT, text(0, 2)), asks=True,
         says=("text alone would leave question unread",)),
    Case("fastText", {"rows.txt": "".join(f"__label__{CLASSES[i % 3]} {text(i)}\n"
         for i in range(ROWS)).encode()}, (text(0), "negative")),
    Case("SQuAD's own JSON", {"rows.json": json.dumps({"version": "1", "data": [{"title": "T",
         "paragraphs": [{"context": text(i, 30), "qas": [{"id": f"{i}", "question": text(i + 1),
         "answers": [{"text": text(i, 2), "answer_start": 4}]}]}]} for i in range(ROWS)]})
         .encode()}, (SQUAD_INPUT, text(0, 2)), says=("rows below data.paragraphs.qas are read",)),
    Case("Capybara's chats of pairs, below a key", {"rows.json": json.dumps({"data": [{
         "conversation": [{"input": text(i), "output": text(i + 1)}]} for i in range(ROWS)]})
         .encode()}, (text(0), text(1)), says=("rows below data are read",)),
    Case("rows below several keys", {"rows.json": json.dumps({"meta": {"n": 1}, "data": {"items": [
         {"question": text(i), "answer": text(i, 2)} for i in range(ROWS)]}}).encode()},
         (text(0), text(0, 2)), says=("the rows below data.items are read",)),
    Case("pandas, split", {"rows.json": json.dumps({"columns": ["text", "label"],
         "index": list(range(ROWS)), "data": [[text(i), CLASSES[i % 3]] for i in range(ROWS)]}
         ).encode()}, (text(0), "negative")),
    Case("JSON lines whose later rows have more columns", {"train.jsonl": jsonl([
         {"input": text(i), "output": "b"} | ({"note": "x"} if i > 40 else {})
         for i in range(50)])},
         (text(0), "b"), card=""),
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
    # --- files on people's disks; more are in file_kinds.py
    Case("MSR: quotation marks in its texts stay",
         {"msr_train.txt": lines(lambda i: f'{i % 2}\t"{text(i)}\t{text(i, 6)}',
          "Quality\t#1 String\t#2 String\n")},
         (f'#1 String: "{text(0)}\n#2 String: {text(0, 6)}', "0")),
    Case("JSON lines with another ending", {"rows.data": jsonl([
         {"question": text(i), "answer": text(i, 3)} for i in range(ROWS)])},
         (text(0), text(0, 3))),
    Case("STS without a header", {"sts.tsv": lines(
         lambda i: f"main\tMSRvid\t{i:04}\t{i % 5}.25\t{text(i)}\t{text(i, 5)}")},
         (f"Column 5: {text(0)}\nColumn 6: {text(0, 5)}", "0.25"), asks=True),
    case("a text and its correction",
         lambda i: {"correct": text(i), "incorrect": f"{text(i)} errror"},
         (f"{text(0)} errror", text(0))),
    case("two unnamed columns, of which the one that repeats is the label",
         lambda i: {"_": INTENTS[i % 3], "__": text(i)}, (text(0), "card_arrival")),
    case("numbers beside words that say something else", lambda i: {"review": text(i),
         "target": i % 2, "topic_name": CLASSES[i % 3]}, (text(0), "0")),
    Case("CLINC: another split", {"data_full.json": CLINC}, (text(1), "card_arrival"),
         options=("--split", "val")),
    Case("a byte that Windows-1252 lacks, later", {"spam.csv": SPAM + 'ham,"Café"\n'.encode(
         "latin-1") + lines(lambda i: f'ham,"{text(i)}"') * 100 + b'ham,"a \x9d b"\n'},
         (text(0), "ham"), says=("read as latin-1",)),
]
TASK_CASES = [
    # --- chats and preferences
    case("oasst2: a tree of messages",
         lambda i: {"message_tree_id": f"{i}", "tree_state": "ready", "prompt": tree(i)},
         (text(0), ""), asks=True, says=("input=prompt.text",)),
    case("HelpSteer: ratings beside the response",
         lambda i: {"prompt": text(i), "response": text(i, 20), "helpfulness": i % 5,
                    "coherence": 4, "verbosity": i % 3},
         (text(0), text(0, 20)), says=("not read: helpfulness, coherence, verbosity",)),
    case("HelpSteer2: two responses and which is better",
         lambda i: {"prompt": text(i), "response_1": text(i, 20), "response_2": text(i + 1, 20),
                    "preference_strength": i % 3 - 1, "preference_statement": text(i, 40)},
         (text(0), text(0, 20)), asks=True, says=("also possible: input=prompt",)),
    case("chatbot_arena: two chats and a winner",
         lambda i: {"question_id": f"{i}", "winner": ["model_a", "tie"][i % 2],
                    "conversation_a": turns(i), "conversation_b": turns(i + 1)},
         (f"Conversation a: {text(0)}\n\n{text(1)}\nConversation b: {text(1)}\n\n{text(2)}",
          "model_a"), asks=True),
    case("SHP: a post, two comments and which is better",
         lambda i: {"post_id": f"{i}", "history": text(i, 30), "human_ref_A": text(i, 9),
                    "human_ref_B": text(i + 1, 9), "labels": i % 2, "score_A": i, "score_B": 7},
         (f"History: {LONG}\nHuman ref A: {text(0, 9)}\nHuman ref B: {text(1, 9)}", "0")),
    case("Gemini: contents with parts",
         lambda i: {"contents": [parts("user", text(i)), parts("model", text(i, 4))]},
         (text(0), text(0, 4))),
    case("a prompt and a story, which no name calls an output",
         lambda i: {"prompt": text(i), "story": text(i, 60)}, (text(0), text(0, 60)), asks=True),
    case("function calling: a call of a tool is the last answer",
         lambda i: {"conversations": [{"from": "human", "value": text(i)},
                                      {"from": "function_call", "value": f'{{"name": "f{i}"}}'}],
                    "tools": "[]"},
         (text(0), '{"name": "f0"}'), says=("not read: tools",)),
    case("a chat beside the tools that its answer calls",
         lambda i: {"messages": turns(i), "tools": f'[{{"name": "f{i}"}}]'},
         (f'[{{"name": "f0"}}]\n\n{text(0)}', text(1))),
    case("preferences for ShareGPT: the chosen answer is a turn of its own",
         lambda i: {"conversations": turns(i, 1, "from", "value"), "rejected": None,
                    "chosen": {"from": "gpt", "value": text(i, 9)}},
         (text(0), text(0, 9))),
    case("BeaverTails: whether a response is safe",
         lambda i: {"prompt": text(i), "response": text(i, 9), "is_safe": i % 2 == 0},
         (f"Prompt: {text(0)}\nResponse: {text(0, 9)}", "true"), asks=True),
    case("Aegis: labels of the prompt and of the response",
         lambda i: {"prompt": text(i), "response": text(i, 9), "prompt_label": CLASSES[i % 2],
                    "response_label": CLASSES[i % 3]},
         (f"Prompt: {text(0)}\nResponse: {text(0, 9)}", "negative"), asks=True,
         says=("also possible: input=prompt,output=response",)),
    case("PKU-SafeRLHF: two responses, of which one is always safe in the first rows",
         lambda i: {"prompt": text(i), "response_0": text(i, 9), "response_1": text(i, 7),
                    "is_response_0_safe": i % 2 == 0, "is_response_1_safe": True},
         (text(0), text(0, 9)), asks=True),
    case("a batch for OpenAI's API: chats below a key",
         lambda i: {"custom_id": f"r-{i}", "method": "POST", "url": "/v1/chat/completions",
                    "body": {"model": "m", "messages": turns(i)}},
         (text(0), text(1)), asks=True, says=("messages=body.messages",)),
    case("what OpenAI's API returns for a batch",
         lambda i: {"id": f"b{i}", "custom_id": f"r-{i}", "error": None, "response": {
             "status_code": 200, "body": {"model": "m", "choices": [
                 {"index": 0, "message": {"role": "assistant", "content": text(i)}}]}}},
         ("", text(0)), asks=True, says=("output=response.body.choices.0.message.content",)),
    # --- code
    case("kodcode: a solution, and tests of it",
         lambda i: {"style": "instruct", "question": text(i), "solution": f"def f():\n  return {i}",
                    "test": f"assert f() == {i}", "test_info": [{"function_name": "f"}]},
         (text(0), "def f():\n  return 0"), says=("not read: style, test, test_info",)),
    case("code_instructions: the same row once more as one text",
         lambda i: {"instruction": text(i), "input": text(i, 3), "output": f"f({i})",
                    "prompt": f"### Instruction:\n{text(i)}\n### Input:\n{text(i, 3)}\n### Output:"
                              f"\nf({i})"},
         (f"{text(0)}\n\nInput: {text(0, 3)}\nOutput:", "f(0)"), says=("not read: prompt",)),
    case("python_alpaca: the row once more as one text, and no input",
         lambda i: {"instruction": text(i), "input": "", "output": f"f({i})",
                    "prompt": f"### Instruction:\n{text(i)}\n### Output:\nf({i})"},
         (text(0), "f(0)"), says=("not read: prompt",)),
    case("apps: solutions as a list in JSON",
         lambda i: {"problem_id": i, "question": text(i), "difficulty": "interview",
                    "solutions": json.dumps([f"f({i})", f"g({i})"]), "starter_code": ""},
         (text(0), "f(0)"), says=("24 of the first 24 rows hold several outputs",)),
    case("apps, with all solutions",
         lambda i: {"question": text(i), "solutions": json.dumps([f"f({i})", f"g({i})"])},
         (text(0), "f(0), g(0)"), options=("--columns", "input=question,output=solutions.*")),
    case("sql_create_context: names with a prefix",
         lambda i: {"id": i, "sql_prompt": text(i), "sql_context": f"CREATE TABLE t{i} (a INT);",
                    "sql": f"SELECT {i} FROM t{i}"},
         (text(0), "SELECT 0 FROM t0"), asks=True),
    case("ToolACE: a system prompt beside the turns",
         lambda i: {"system": text(7), "conversations": turns(i, 2, "from", "value")},
         (f"{text(7)}\n\n{text(0)}", text(1))),
    case("a column that repeats the system turn",
         lambda i: {"system": text(7), "messages": [{"role": "system", "content": text(7)},
                                                    *turns(i)]},
         (f"{text(7)}\n\n{text(0)}", text(1)), says=("not read: system",)),
    # --- reasoning
    case("Multilingual-Thinking: thoughts within the turns",
         lambda i: {"reasoning_language": "French", "analysis": text(i, 20), "final": text(i, 4),
                    "messages": [{**turn, "thinking": text(i, 20) if k else None}
                                 for k, turn in enumerate(turns(i))]},
         (text(0), text(1))),
    case("medical-o1: a chain of thought between question and response",
         lambda i: {"Question": text(i), "Complex_CoT": text(i, 30), "Response": text(i, 9)},
         (text(0), text(0, 9)), says=("not read: Complex_CoT",)),
    case("OpenR1-Math: a problem, its solutions, and the chat about it",
         lambda i: {"problem": text(i), "solution": text(i, 9), "answer": f"{i}",
                    "generations": [text(i, 30)], "correctness": [True], "messages": turns(i)},
         (text(0), text(1)), says=("not read: problem, solution, answer",)),
    case("OpenMathInstruct-2: a solution beside the expected answer",
         lambda i: {"problem": text(i), "generated_solution": text(i, 30),
                    "expected_answer": f"{i}", "problem_source": ["math", "gsm8k"][i % 2]},
         (text(0), text(0, 30)), asks=True, says=("generated_solution or expected_answer",)),
    case("SVAMP: the facts that a question is about in a body",
         lambda i: {"ID": f"c{i}", "Body": text(i, 12), "Question": text(i), "Answer": f"{i}.0",
                    "Equation": f"( {i}.0 + 0.0 )", "Type": ["Sum", "Difference"][i % 2]},
         (f"Body: {text(0, 12)}\nQuestion: {text(0)}", "0.0")),
    # --- questions
    case("CoQA: lists of questions and answers",
         lambda i: {"source": "cnn", "story": text(i, 30), "questions": [text(i), text(i + 1)],
                    "answers": {"input_text": [text(i, 2), text(i, 3)], "answer_start": [1, 2]}},
         (f"Story: {LONG}\nQuestions: {text(0)}\n{text(1)}", f"{text(0, 2)}\n{text(0, 3)}"),
         "parquet", asks=True),
    case("dream: a dialogue as a list, and the choices of a question",
         lambda i: {"dialogue": [text(i), text(i + 1)], "question": text(i, 5),
                    "choice": choices(i)[:2], "answer": choices(i)[i % 2]},
         (f"Dialogue: {text(0)}\n{text(1)}\nQuestion: {text(0, 5)}\n- {text(0, 2)}\n- {text(1, 2)}",
          text(0, 2)), "parquet"),
    case("a column for each letter",
         lambda i: {"question": text(i), **dict(zip(LETTERS, choices(i), strict=True)),
                    "answer": LETTERS[i % 4]},
         (f"{text(0)}\n{SHOWN}", text(0, 2))),
    case("options within one text",
         lambda i: {"question": text(i), "options": f"A) {text(i, 2)} B) {text(i + 1, 2)}",
                    "answer": LETTERS[i % 2]},
         (f"Question: {text(0)}\nOptions: A) {text(0, 2)} B) {text(1, 2)}", "A")),
    case("MathQA: options within one text, and a category",
         lambda i: {"Problem": text(i), "Rationale": text(i, 20), "options": f"a ) {i} , b ) 7",
                    "correct": "ab"[i % 2], "category": ["gain", "geometry"][i // 2 % 2]},
         (f"Problem: {text(0)}\nOptions: a ) 0 , b ) 7", "a")),
    case("QASC: two facts beside a question",
         lambda i: {"id": f"{i}", "question": text(i), "fact1": text(i, 5), "fact2": text(i, 6),
                    "choices": {"text": choices(i), "label": LETTERS}, "answerKey": LETTERS[i % 4]},
         (f"Question: {text(0)}\nFact1: {text(0, 5)}\nFact2: {text(0, 6)}\n{SHOWN}", text(0, 2))),
    case("casehold: more than two texts with numbers are no pair",
         lambda i: {"citing_prompt": text(i, 30), "holding_0": text(i, 5), "label": f"{i % 3}",
                    "holding_1": text(i + 1, 5), "holding_2": text(i + 2, 5)},
         (LONG, "0"), asks=True),
    case("questions about an abstract",
         lambda i: {"title": text(i, 3), "abstract": text(i, 30), "question": text(i),
                    "answer": text(i, 2)},
         (f"Abstract: {LONG}\nQuestion: {text(0)}", text(0, 2))),
    case("copa: a premise, and whether its cause or effect is asked for",
         lambda i: {"premise": text(i), "choice1": text(i, 3), "choice2": text(i + 1, 3),
                    "question": ["cause", "effect"][i % 2], "idx": i, "label": i % 2},
         (f"Premise: {text(0)}\nQuestion: cause\n- {text(0, 3)}\n- {text(1, 3)}", text(0, 3))),
    # --- pairs and labels
    case("snli: rows that the annotators did not agree on",
         lambda i: {"premise": text(i), "hypothesis": text(i, 4), "label": i % 4 - 1},
         (f"Premise: {text(1)}\nHypothesis: {text(1, 4)}", "negative"), says=("6 of 24 rows",),
         card=features(class_labels(label=CLASSES), premise="string", hypothesis="string")),
    case("snli: its own lines, in which a dash stands for no label",
         lambda i: {"gold_label": "-" if i % 8 == 0 else CLASSES[i % 3], "sentence1": text(i),
                    "sentence2": text(i, 5), "pairID": f"{i}r1n"},
         (f"Sentence1: {text(1)}\nSentence2: {text(1, 5)}", "neutral"),
         says=("3 of the first 24 rows have the label -, which stands for no label",)),
    case("a word, by its lemma, and a sentence with a form of it",
         lambda i: {"sentence": text(i), "word": ["be", "go", "have", "do", "say", "get"][i % 6],
                    "label": CLASSES[i % 2]}, (f"Sentence: {text(0)}\nWord: be", "negative")),
    case("signs as labels", lambda i: {"text": text(i), "label": "+-"[i % 2 == 0]}, (text(0), "-")),
    case("sentiment140: a column that says in each row that there is no query",
         lambda i: {"text": text(i), "query": "NO_QUERY", "sentiment": i % 2 * 4},
         (text(0), "0"), says=("not read: query",)),
    case("stsb: a score from 0 to 1",
         lambda i: {"sentence1": text(i), "sentence2": text(i, 5), "score": i / 24},
         (PAIR, "0.0")),
    case("quora: a flag says whether two questions are the same",
         lambda i: {"id": i, "question1": text(i), "question2": text(i, 5),
                    "is_duplicate": i % 2 == 0},
         (f"Question1: {text(0)}\nQuestion2: {text(0, 5)}", "true")),
    case("quora: the two questions as a list in a field",
         lambda i: {"questions": {"id": [i, i + 1], "text": [text(i), text(i, 5)]},
                    "is_duplicate": i % 2 == 0},
         (f"{text(0)}\n{text(0, 5)}", "true"), asks=True),
    case("text_a and text_b", lambda i: {"guid": i, "text_a": text(i), "text_b": text(i, 5),
                                         "label": ["yes", "no"][i % 2]},
         (f"Text a: {text(0)}\nText b: {text(0, 5)}", "yes")),
    case("WiC: a word in two sentences",
         lambda i: {"word": ["place", "set", "run"][i % 3], "sentence1": text(i), "start1": 1,
                    "sentence2": text(i, 5), "start2": 2, "label": i % 2},
         (f"Word: place\n{PAIR}", "0")),
    case("LIAR: a statement, and where it was made",
         lambda i: {"id": f"{i}.json", "label": i % 3, "statement": text(i), "speaker": text(i, 2),
                    "context": text(i, 3)},
         (f"Context: {text(0, 3)}\nStatement: {text(0)}", "negative"), card=features(
            class_labels(label=CLASSES), id="string", statement="string", speaker="string",
            context="string")),
    case("GoEmotions: a column of 0 and 1 for each emotion",
         lambda i: {"text": text(i), "subreddit": "nfl", "joy": i % 2, "fear": i % 3 // 2,
                    "anger": 0},
         (text(0), "none"), says=("output=joy,output=fear,output=anger",)),
    case("Jigsaw: six columns of 0 and 1",
         lambda i: {"id": f"{i}", "comment_text": text(i), "toxic": (i + 1) % 2, "obscene": 0,
                    "threat": int(i % 3 == 0), "insult": 0, "identity_hate": 0},
         (text(0), "toxic, threat"), says=("Some rows have several labels",)),
    case("civil_comments: shares of annotators, 0.0 in the first rows",
         lambda i: {"text": text(i), "toxicity": 0.0, "threat": 0.0, "insult": i / 30,
                    "obscene": 0.0}, (text(0), "0"), asks=True),
    case("several labels in a text, in any order",
         lambda i: {"text": text(i), "emotion": ["joy, awe", "joy", "awe, joy", "fear"][i % 4]},
         (text(0), "awe, joy")),
    case("several labels as a list, also of none",
         lambda i: {"text": text(i), "labels": [[], ["joy", "awe"], ["awe", "joy"]][i % 3]},
         (text(0), "none")),
    case("Amazon reviews: the stars of a text",
         lambda i: {"rating": 1.0 + i % 5, "title": text(i, 3), "text": text(i, 20),
                    "helpful_vote": i % 4},
         (text(0, 20), "1"), asks=True),
    case("a text and what was extracted from it",
         lambda i: {"text": text(i), "extracted": json.dumps({"name": text(i, 2)})},
         (text(0), json.dumps({"name": text(0, 2)})), asks=True,
         says=("also possible: output=text",)),
    case("web_nlg: an id of the entry",
         lambda i: {"category": ["Airport", "City"][i % 2], "eid": f"{i}", "lex": {
             "comment": ["good"], "text": [text(i)]}, "size": 1},
         (text(0), "Airport"), "parquet", asks=True),
    case("P3: numbers of tokens beside the texts",
         lambda i: {"inputs": [i, 2, 3], "inputs_pretokenized": text(i), "targets": [4, 5],
                    "targets_pretokenized": text(i, 3)},
         (text(0), text(0, 3)), "parquet", asks=True),
    case("reuters: topics as a list of names",
         lambda i: {"text": text(i), "topics": [["earn", "acq"], ["grain"], []][i % 3]},
         (text(0), "acq, earn"), asks=True, says=("also possible: output=text",)),
    case("spans of entities beside their text",
         lambda i: {"text": text(i), "spans": [{"start": 0, "end": 3, "label": LETTERS[i % 4]}]},
         (text(0), "A"), asks=True),
    case("labels and names of columns with spaces",
         lambda i: {"Ticket ID": i, "Customer Message": text(i),
                    "Intent Category": ["very negative", "quite good"][i % 2]},
         (text(0), "very negative")),
    case("Label Studio: texts and labels deep inside",
         lambda i: {"id": i, "data": {"text": text(i)}, "meta": {}, "annotations": [{
             "id": 9, "lead_time": 3.1, "result": [{"from_name": "mood", "type": "choices",
             "value": {"choices": [CLASSES[i % 3]]}}]}]},
         (text(0), "negative"), asks=True,
         says=("input=data.text,output=annotations.0.result.0.value.choices",)),
    case("Common Voice: facts about speakers",
         lambda i: {"client_id": f"c{i}", "path": f"{i}.mp3", "sentence": text(i), "up_votes": 2,
                    "age": ["teens", "twenties"][i % 2], "gender": ["male", "female"][i // 2 % 2]},
         ("", text(0)), asks=True),
    case("nested facts about each row",
         lambda i: {"text": text(i), "label": CLASSES[i % 3],
                    "metadata": {"author": {"name": text(i, 2)}, "tags": ["a"]}},
         (text(0), "negative")),
    case("Russian names", lambda i: {"текст": text(i, 12), "метка": ["да", "нет"][i % 2]},
         (text(0, 12), "да")),
    case("Chinese names", lambda i: {"问题": text(i, 12), "答案": text(i, 4)},
         (text(0, 12), text(0, 4))),
    case("aspects of a text as objects",
         lambda i: {"text": text(i), "aspects": [{"term": "food", "polarity": CLASSES[i % 3]},
                                                 {"term": "room", "polarity": CLASSES[2]}]},
         (text(0), "negative, positive"), asks=True),
    # --- text to text
    case("a dialogue of people as turns, and its summary",
         lambda i: {"id": f"{i}", "summary": text(i, 4), "dialogue": [
             {"speaker": "Ann", "utterance": text(i)}, {"speaker": "Ben", "utterance": text(i, 5)},
         ]}, (f"Ann: {text(0)}\nBen: {text(0, 5)}", text(0, 4))),
    case("an abstract and its keywords",
         lambda i: {"title": text(i, 3), "abstract": text(i, 30), "keywords": text(i, 2)},
         (LONG, text(0, 2)), says=("not read: title",)),
    case("a summary as a list of bullets",
         lambda i: {"document": text(i, 30), "summary": [f"• {text(i, 4)}", f"• {text(i, 5)}"]},
         (LONG, f"• {text(0, 4)}\n• {text(0, 5)}")),
    case("recipes: as many ingredients as steps",
         lambda i: {"title": text(i, 3), "ingredients": [text(i, 2), text(i, 3)],
                    "directions": [text(i, 9), text(i, 8)], "NER": ["egg", "salt"]},
         (f"{text(0, 2)}\n{text(0, 3)}", f"{text(0, 9)}\n{text(0, 8)}"), asks=True),
    case("jfleg: several corrections of a sentence",
         lambda i: {"sentence": text(i), "corrections": [text(i, 9), text(i, 10)]},
         (text(0), text(0, 9)), says=("output=corrections.*",)),
    case("embeddings beside a text",
         lambda i: {"id": i, "text": text(i), "emb": [0.1 * i, 0.2, 0.3]}, ("", text(0)),
         says=("not read: emb",)),
]

VECTORS = [
    case("embeddings alone", lambda i: {"id": f"{i}", "embedding": [0.1 * i, 0.2]}, ("", "")),
    case("embeddings and a label",
         lambda i: {"embedding": [[0.1 * i, 0.2]], "label": i % 3}, ("", "")),
]
"""Datasets without any text."""
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
    Case("a folder for each class, one text a file", {f"train/{label}/{i}_{j}.txt": text(0).encode()
         for j, label in enumerate(CLASSES) for i in range(8)},
         (text(0), "negative"), card="", says=("is the name of its file or folder: neg",)),
    Case("a folder for each class in Windows-1252, the first text in ASCII",
         {f"train/{label}/{i}.txt": (text(0) if i == 0 else SENTENCES[i]).encode("cp1252")
         for label in CLASSES for i in range(ROWS)}, (text(0), "negative"), card=""),
    Case("a file for each class", {f"{label}.txt": "\n".join(f"{label} {text(i)}"
         for i in range(ROWS)).encode() for label in CLASSES}, (f"negative {text(0)}", "negative"),
         card="", says=("is the name of its file or folder: neg",)),
    Case("a folder for each language", LANGUAGES, (f"de {text(0)}", "negative"), card="",
         says=("the folders de, en are read as one dataset",)),
    Case("the folder of one language", LANGUAGES, (f"en {text(0)}", "negative"), card="",
         options=("--config", "en")),
    Case("a zipped CSV", {"train.csv.zip": zipped({"train.csv": csv_text(
        [{"text": text(i), "label": CLASSES[i % 3]} for i in range(ROWS)])})},
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
    case("ARC's own files: the choices within the question",
         lambda i: {"id": f"{i}", "answerKey": LETTERS[i % 4], "question": {
             "stem": text(i), "choices": [{"text": one, "label": letter} for one, letter
                                          in zip(choices(i), LETTERS, strict=True)]}},
         (f"{text(0)}\n{SHOWN}", text(0, 2))),
    case("QuAIL: the number of the right answer among the answers",
         lambda i: {"context_id": "f", "context": text(i, 30), "question": text(i),
                    "answers": choices(i), "correct_answer_id": i % 4},
         (f"Context: {text(0, 30)}\nQuestion: {text(0)}\n{SHOWN}", text(0, 2))),
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
         says=("also possible: input=question,output=answer",)),
    case("KTO: a label says whether the completion is good",
         lambda i: {"prompt": text(i), "completion": text(i, 9), "label": i % 2 == 0},
         (text(0), text(0, 9)), says=("Rows with false in column label are left out",)),
    case("KTO, with columns that are named",
         lambda i: {"prompt": text(i), "completion": text(i, 9), "label": i % 2 == 1},
         (text(1), text(1, 9)), options=("--columns", "input=prompt,output=completion"),
         says=("Rows with false in column label are left out",)),
    case("a chat whose answers are those of other models",
         lambda i: {"conversations": [{"from": "human", "value": text(i)},
                                      {"from": ["bard", "bing"][i % 2], "value": text(i, 4)}]},
         (text(0), text(0, 4)), says=("Turns of bard, bing are read as the answers",)),
    case("a chat of two people",
         lambda i: {"conversation": [{"speaker": "Ann", "text": text(i)},
                                     {"speaker": "Ben", "text": text(i, 4)}]},
         (text(0), text(0, 4)), says=("Turns of ben are read as the answers",)),
    case("tools as a list of objects",
         lambda i: {"messages": turns(i), "tools": [{"name": f"f{i}"}]},
         (f'[{{"name": "f0"}}]\n\n{text(0)}', text(1))),
    case("Prodigy: the choice that was accepted, and the answer of the annotator",
         lambda i: {"text": text(i), "options": [{"id": x, "text": f"is {x}"} for x in "ab"],
                    "accept": ["ab"[i % 2]], "answer": "accept"},
         (f"{text(0)}\n- is a\n- is b", "is a")),
    case("KTO: a label says whether the chat is good",
         lambda i: {"messages": turns(i), "label": i % 2 == 1}, (text(1), text(2)),
         says=("Rows with false in column label are left out as bad examples",)),
    case("GoEmotions: numbers of several labels, as a text",
         lambda i: {"text": text(i), "labels": f"{i % 9},{i % 8}" if i % 3 else f"{i % 28}",
                    "id": f"e{i}x"},
         (text(0), "0")),
    case("labels as numbers in texts", lambda i: {"text": text(i), "label": f"{i % 3}"},
         (text(0), "0"), says=("Column label holds numbers",)),
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
         (f"Context: {LONG}\nQuestion: {text(0)}", text(0, 3)), "parquet", asks=True),
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
