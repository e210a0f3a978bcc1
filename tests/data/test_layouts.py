"""Which columns are read: of datasets in the shapes that people have, and of columns alone.

Where an error asks, the command that it proposes is run as it would be pasted.
"""

import shlex
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.cli.output import show_row
from hf_lorameta.data.columns.columns import MAX_COLUMNS, ROLES, Columns, parse_columns
from hf_lorameta.data.columns.layouts import find_columns, unread_columns
from hf_lorameta.data.columns.rows import RowReader
from hf_lorameta.data.columns.table_view import TableView
from hf_lorameta.data.dataset import open_dataset
from hf_lorameta.data.sources.raw_dataset import RawDataset
from hf_lorameta.errors import (
    ColumnsError,
    DatasetError,
    Option,
    UnlabeledDatasetError,
    UsageError,
)
from tests.conftest import Account, Built, Done, Shell, write_files
from tests.data.shape_table import CASES, HUB_CASES, REFUSED, TASK_CASES, VECTORS
from tests.data.shapes import Case, text

# --- the table ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_one_process(world: Shell, bank: Built) -> Iterator[None]:
    with world.in_one_process():
        yield


def dataset_of(shape: Case, cli: Shell, user: Account) -> str:
    """Serve or write the files, and return the dataset's name for the command line."""
    if shape.card is not None:
        files = shape.files | {"README.md": shape.card.encode()}
        return user.dataset("d", files)
    write_files(cli.cwd, shape.files)
    first = next(iter(shape.files))
    if len(shape.files) == 1:
        return first
    return f"part-*.{first.rpartition('.')[2]}"


def placed(shape: Case, cli: Shell, user: Account, place: str) -> str:
    """Serve the files as a repo, or write them into a folder with a space in its name."""
    files = shape.files | ({"README.md": shape.card.encode()} if shape.card else {})
    if place == "hub":
        return user.dataset("d", files)
    write_files(cli.cwd / "my data", files)
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


@pytest.mark.usefixtures("in_one_process")
@pytest.mark.parametrize("shape", [*CASES, *TASK_CASES], ids=lambda shape: shape.name)
def test_datasets_are_read_right_or_a_command_that_works_is_proposed(
    cli: Shell, bank: Built, user: Account, shape: Case
) -> None:
    check_reading(cli, bank, shape, dataset_of(shape, cli, user))


@pytest.mark.usefixtures("in_one_process")
@pytest.mark.parametrize("place", ["hub", "folder"])
@pytest.mark.parametrize("shape", HUB_CASES, ids=lambda shape: shape.name)
def test_repos_and_folders_laid_out_like_them_are_read_alike(
    cli: Shell, bank: Built, user: Account, shape: Case, place: str
) -> None:
    check_reading(cli, bank, shape, placed(shape, cli, user, place))


@pytest.mark.usefixtures("in_one_process")
@pytest.mark.parametrize("place", ["hub", "folder"])
@pytest.mark.parametrize("shape", [*REFUSED, *VECTORS], ids=lambda shape: shape.name)
def test_datasets_without_text_are_refused(
    cli: Shell, bank: Built, user: Account, shape: Case, place: str
) -> None:
    dataset = placed(shape, cli, user, place)
    refused = cli("plan", dataset, "--bank", bank.folder, code=3).err
    assert "no column holds text" in refused


@pytest.mark.usefixtures("in_one_process")
def test_a_null_row_on_the_hub_is_named(cli: Shell, bank: Built, user: Account) -> None:
    content = b'{"input": "a", "output": "b"}\nnull\n'
    dataset = user.dataset("d", {"train.jsonl": content})
    refused = cli("plan", dataset, "--bank", bank.folder, code=3).err
    assert "train.jsonl: line 2 is null, expected an object" in refused


@pytest.mark.usefixtures("in_one_process")
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


# --- columns alone ------------------------------------------------------------------------------

_REPEATED = 12
CLASS = ("no", "yes")
Rows = list[dict[str, Any]]


def table(row: dict[str, Any]) -> Rows:
    """Repeat a row: texts but capital letters differ, a number counts up to its own value."""

    def vary(value: Any, i: int) -> Any:
        if isinstance(value, str) and not value.isupper():
            return f"{value} {text(i)}"
        return i % (value + 1) if type(value) is int else value

    return [{name: vary(value, i) for name, value in row.items()} for i in range(_REPEATED)]


# fmt: off
READ = [
    # classification and regression
    ({"question1": "a", "question2": "b", "is_duplicate_label": 1},
     "input=question1,input=question2,output=is_duplicate_label"),
    ({"question": "a", "sentence": "b", "label": 1}, "input=question,input=sentence,output=label"),
    ({"sentence": "a", "aspect": "b", "polarity": 2},
     "input=sentence,input=aspect,output=polarity"),
    ({"Review": "a", "Liked": 1}, "input=Review,output=Liked"),
    ({"Category": 1, "Message": "a"}, "input=Message,output=Category"),
    ({"Unnamed: 0": 9, "text": "a", "stars": 4}, "input=text,output=stars"),
    ({"target": 1, "ids": 9, "flag": None, "user": "u", "text": "a"}, "input=text,output=target"),
    ({"tweet_id": 9, "airline_sentiment": 2, "airline": None, "text": "a"},
     "input=text,output=airline_sentiment"),
    ({"query": "a", "document": "b", "relevance": 2},
     "input=document,input=query,output=relevance"),
    # text to text
    ({"article": "a", "abstract": "b"}, "input=article,output=abstract"),
    ({"task_id": "a", "prompt": "a", "canonical_solution": "b", "test": "c", "entry_point": "d"},
     "input=prompt,output=canonical_solution"),
    ({"db_id": "a", "query": "b", "question": "c", "query_toks": ["d"]},
     "input=question,output=query"),
    ({"definition": "a", "inputs": "b", "targets": "c", "id": "d"},
     "input=inputs,output=targets,instruction=definition"),
    ({"problem": "a", "level": 2, "type": 1, "solution": "b"}, "input=problem,output=solution"),
    # questions
    ({"question": "a", "context": {"contexts": ["b", "c"], "labels": ["X"]}, "long_answer": "d"},
     "input=context.contexts,input=question,output=long_answer"),
    ({"document": {"text": "a", "kind": "b"}, "question": {"text": "c", "tokens": ["d"]},
      "answers": [{"text": "e", "tokens": ["f"]}]},
     "input=document.text,input=question.text,output=answers.text"),
    ({"question": "a", "distractor1": "b", "distractor2": "c", "distractor3": "d",
      "correct_answer": "e", "support": "f"}, "input=support,input=question,output=correct_answer"),
    # multiple choice
    ({"question": "a", "opa": "b", "opb": "c", "cop": 1, "exp": "d"},
     "input=question,output=cop,choices=opa,choices=opb"),
    ({"context": "a", "question": "b", "answerA": "c", "answerB": "d", "label": 1},
     "input=context,input=question,output=label,choices=answerA,choices=answerB"),
    ({"prompt": "a", "options": "b", "response": "c"},
     "input=prompt,input=options,output=response"),
    ({"question": "a", "options": ["A)1", "B)2"], "rationale": "d", "correct": "A"},
     "input=question,output=correct,choices=options"),
    # chats and preferences
    ({"system": "a", "question": "b", "chosen": "c", "rejected": "d"},
     "input=question,output=chosen,instruction=system"),
    ({"prompt": "a", "response": "b", "chosen": "c", "rejected": "d", "category": "e"},
     "input=prompt,output=chosen"),
    ({"prompt": "a", "completion": "b", "label": True}, "input=prompt,output=completion"),
    ({"conversations": ["a", "b"], "source": "c"}, "messages=conversations"),
    ({"conversation": [{"human": "a", "assistant": "b"}]}, "messages=conversation"),
]
ASKED = [
    ({"en": "a", "fr": "b"}, "input=en,output=fr"),
    ({"id": 9, "comment_text": "a", "toxic": 1, "obscene": 1}, "input=comment_text,output=toxic"),
    ({"question": "a", "human_answers": ["b"], "chatgpt_answers": ["c"]},
     "input=question,output=human_answers"),
    ({"content": "a", "max_line_length": 99}, "output=content"),
    ({"prompt": "a", "text": "b"}, "input=prompt,output=text"),
]
# fmt: on


@pytest.mark.parametrize(("row", "expected"), READ, ids=lambda value: str(value)[:40])
def test_columns_of_well_known_datasets_are_found(row: dict[str, Any], expected: str) -> None:
    records = table(row)
    columns = find_columns(TableView(list(row), {}, records))
    assert str(columns) == expected
    read = partial(iter, records)
    raw = RawDataset(list(row), {}, None, "train", read, read, tuple(records))
    prompt, output = RowReader(raw, columns).read(records[1])
    assert output
    assert bool(prompt) == bool(columns.names() != ["text"])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"source": "He go {}.", "target": "He goes {}."}, "input=source,output=target"),
        ({"source": "the web", "text": "It is {}.", "target": "{}."}, "input=text,output=target"),
    ],
)
def test_short_texts_beside_a_target_are_its_source(row: dict[str, str], expected: str) -> None:
    records = [{name: cell.format(i) for name, cell in row.items()} for i in range(_REPEATED)]
    assert str(find_columns(TableView(list(row), {}, records))) == expected


@pytest.mark.parametrize(("row", "proposal"), ASKED, ids=lambda value: str(value)[:40])
def test_unclear_columns_are_asked_for_with_a_proposal(row: dict[str, Any], proposal: str) -> None:
    with pytest.raises(DatasetError) as caught:
        find_columns(TableView(list(row), {}, table(row)))
    assert str(caught.value.columns) == proposal


@pytest.mark.parametrize(
    "row", [{"data": {"a.b": "x y", "c": "z"}}, {"p": {"x.y": "a b"}, "q": {"z": "c d"}}]
)
def test_fields_with_dots_in_their_names_are_asked_about(row: dict[str, Any]) -> None:
    with pytest.raises(ColumnsError, match="no known layout"):
        find_columns(TableView(list(row), {}, [row] * _REPEATED))


@pytest.mark.parametrize("row", [{"0": "a b", "1": "c d e"}, {"0": {"1": "a b"}, "x": 3}])
def test_columns_may_be_named_by_numbers(row: dict[str, Any]) -> None:
    with pytest.raises(ColumnsError, match="no known layout"):
        find_columns(TableView(list(row), {}, [row] * 2))


def test_no_proposal_is_made_where_no_column_holds_text() -> None:
    with pytest.raises(ColumnsError, match="no column holds text") as caught:
        find_columns(TableView(["image", "label"], {"label": CLASS}, [{"image": b"x", "label": 1}]))
    assert caught.value.columns is None


def test_all_columns_that_are_not_read_are_listed_and_last_those_that_describe_a_row() -> None:
    columns = Columns(input="question", output="answers.text")
    names = ["id", "date", "title", "question", "answers"]
    assert unread_columns(columns, TableView(names)) == ["title", "id", "date"]
    sample = [{"title": "https://example.com", "source": text(0)}]
    sample[0] |= {"target": text(1), "tools": ""}
    names = ["title", "source", "target", "tools"]  # none without a value
    assert unread_columns(columns, TableView(names, {}, sample)) == ["source", "target", "title"]


_NAMES = st.text(min_size=1).filter(
    lambda name: name.strip() and not any(f"{role}=" in name for role in ROLES)
)


@given(st.lists(_NAMES, min_size=3, max_size=5, unique_by=str.strip), st.booleans())
def test_columns_in_the_form_of_the_command_line_round_trip(names: list[str], told: bool) -> None:
    instruction, output, *inputs = names
    columns = Columns(input=tuple(inputs), output=output, instruction=instruction if told else None)
    assert parse_columns(str(columns)) == columns
    assert Columns.model_validate(columns.model_dump()) == columns


def test_roles_without_a_column_are_not_stored() -> None:
    stored = {"input": ["q", "r"], "output": "a"}
    assert Columns.model_validate(stored | {"messages": None}).model_dump() == stored


# --- known names, and the form of the command line ------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["prompt", "completion", "id"], {"input": "prompt", "output": "completion"}),
        (["prompt", "response"], {"input": "prompt", "output": "response"}),
        (["instruction", "output"], {"input": "instruction", "output": "output"}),
        (["instruction", "response"], {"input": "instruction", "output": "response"}),
        (["prompt", "id"], {"input": "prompt"}),
        (["question"], {"input": "question"}),
        (["idx", "instruction", "input"], {"instruction": "instruction", "input": "input"}),
    ],
)
def test_find_columns_recognizes_layouts(names: list[str], expected: dict[str, str]) -> None:
    assert find_columns(TableView(names)).model_dump() == expected


@pytest.mark.parametrize(
    "names",
    [
        ["question", "answer", "prompt", "completion"],
        ["prompt", "completion", "response"],
        ["messages", "conversations"],
        ["messages", "prompt", "response"],
    ],
)
def test_ambiguous_columns_are_an_error_that_lists_the_candidates(names: list[str]) -> None:
    with pytest.raises(ColumnsError, match=" or ") as caught:
        find_columns(TableView(names))
    assert all(name in str(caught.value) for name in names)
    assert caught.value.advice[0] == Option("columns", str(caught.value.columns))


def test_columns_with_class_labels_are_outputs() -> None:
    found = find_columns(TableView(["text", "kind"], {"kind": ["a"]}))
    assert (found.input, found.output) == ("text", "kind")


def test_unknown_names_and_missing_outputs_are_not_guessed() -> None:
    with pytest.raises(ColumnsError, match="no known layout"):
        find_columns(TableView(["a", "b"]))
    for names, labels in (
        (["prompt", "question"], {}),
        (["question", "context"], {}),
        (["id", "prompt"], {"id": ["yes", "no"]}),
    ):
        with pytest.raises(UnlabeledDatasetError, match=r"inputs .* and no outputs") as caught:
            find_columns(TableView(names, labels))
        assert caught.value.columns.output is None


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "instruction=i",
        "messages=m,output=a",
        "messages=m,input=q",
        "choices=c",
        "input=q,choices=c",
        "input=,output=a",
        "in=q,output=a",
        "",
        "=",
        "input=q,output=q",
        "input=q,input= q,output=a",
    ],
)
def test_parse_columns_rejects(text: str) -> None:
    with pytest.raises(UsageError):
        parse_columns(text)


def test_swapped_names_and_roles_are_put_right() -> None:
    with pytest.raises(UsageError) as caught:
        parse_columns("message=input, is it spam?=output")
    assert "input=message,output=is it spam?" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["input=q", "output=a", "input=q,instruction=i", "instruction=s,messages=m"]
)
def test_parse_columns_accepts_and_describe_inverts(text: str) -> None:
    assert str(parse_columns(text)) == text


def test_a_chat_without_answers_is_refused_with_the_names_of_its_roles() -> None:
    chat = [{"role": role, "content": "It rains."} for role in ("ann", "bob", "eve")]
    with pytest.raises(ColumnsError, match="none of the roles ann, bob, eve is assistant"):
        open_dataset([{"messages": chat}] * 3)


def test_a_column_may_hold_objects_and_texts() -> None:
    rows = [{"completion": {"a": ["x"], "b": [1]}, "is_x": "It rains."}, {"completion": "joy"}]
    opened = open_dataset(rows * 4)
    assert str(opened.columns) == "input=is_x,output=completion.a"
    assert opened.head(2) == [("It rains.", "x"), ("", "")]


def test_several_outputs_that_are_not_0_and_1_are_named() -> None:
    rows = [{"text": f"It is {i}.", "a": i % 2, "b": i % 3} for i in range(9)]
    with pytest.raises(UsageError, match="several outputs are given, a and b, and not all") as e:
        open_dataset(rows, columns="input=text,output=a,output=b")
    assert e.value.hint == "add --columns input=text,output=a"


def test_more_columns_than_anybody_names_are_refused_at_once() -> None:
    few = ",".join(f"input=q{number}" for number in range(MAX_COLUMNS))
    assert len(parse_columns(few).names()) == MAX_COLUMNS
    started = time.process_time()
    for many in (f"{few},output=a", "input=text," * 100_000, "input=" + "a." * 500_000):
        with pytest.raises(UsageError, match="at most 100 columns"):
            parse_columns(many)
    with pytest.raises(UsageError, match="at most 100 columns"):
        open_dataset([{"q": "a"}], columns={"input": ["q"] * 200})
    assert time.process_time() - started < 5


def test_marks_of_chats_that_never_end_take_no_longer_than_other_texts() -> None:
    rows = [{"text": "<s>" + "[INST] " * 5_000, "label": str(i % 2)} for i in range(8)]
    started = time.process_time()
    opened = open_dataset(rows)  # 40 s for each of these rows, if each mark looks for its end
    assert str(opened.columns) == "input=text,output=label"
    assert len(list(opened.rows())) == 8
    assert time.process_time() - started < 5


def test_a_misspelled_column_is_answered_with_all_columns() -> None:
    rows = [{"text": "It rains.", "label": "bad"}]
    with pytest.raises(ColumnsError, match="no column txt; all columns: text, label"):
        open_dataset(rows, columns="input=txt,output=label")
    with pytest.raises(ColumnsError) as caught:
        open_dataset(rows, columns="input=text,output=lable")
    assert caught.value.hint == "add --columns input=text,output=label"
    for named in ("input=missing", "input=text,output=answer", "input=txt,output=texts"):
        with pytest.raises(ColumnsError, match="all columns: text, label") as caught:
            open_dataset(rows, columns=named)
        assert caught.value.hint == "add --columns input=text,output=label"
    with pytest.raises(ColumnsError) as caught:
        open_dataset([{"a": 1, "b": 2}], columns="input=a,output=missing")
    assert caught.value.hint == "add --columns input=a,output=COLUMN"


@pytest.mark.parametrize(
    "columns", [("input", "language"), ("question", "difficulty"), ("prompt", "subject")]
)
def test_inputs_beside_another_column_than_an_id_are_asked_about(columns: tuple[str, str]) -> None:
    rows = [{name: f"{name} {i % 2}" for name in columns} for i in range(4)]
    with pytest.raises(UnlabeledDatasetError, match="no outputs") as caught:
        open_dataset(rows)
    assert f"input={columns[0]},output=COLUMN" in caught.value.hint
    assert (
        open_dataset([{"id": i, "input": f"text {i}"} for i in range(4)]).columns.input == "input"
    )


def test_of_rows_that_are_all_equal_no_columns_are_proposed() -> None:
    for rows, proposed in (([("q", "a")] * 5, None), ([(f"q{i}", "a") for i in range(5)], "one")):
        sample = tuple({"one": one, "two": two} for one, two in rows)
        with pytest.raises(ColumnsError) as caught:
            find_columns(TableView(["one", "two"], {}, sample))
        assert (caught.value.columns.input if caught.value.columns else None) == proposed


def test_other_columns_of_labels_are_named_where_one_is_proposed() -> None:
    texts = ("It hangs.", "It is late.", "I was billed twice.", "Wrong size.") * 4
    sample = tuple(
        {"Body": f"{text} {i}", "Prio": "AB"[i % 2], "Dept": ("shop", "sales")[i // 2 % 2]}
        for i, text in enumerate(texts)
    )
    with pytest.raises(ColumnsError, match="also possible: input=Body,output=Dept") as caught:
        find_columns(TableView(["Body", "Prio", "Dept"], {}, sample))
    assert str(caught.value.columns) == "input=Body,output=Prio"


def test_a_headline_is_no_output_of_its_section() -> None:
    rows = [{"headline": f"Why it rains {i}", "section": "ab"[i % 2]} for i in range(12)]
    found = find_columns(TableView(list(rows[0]), {}, rows))
    assert str(found) == "input=headline,output=section"


def test_a_category_that_all_rows_have_is_no_output_if_others_differ() -> None:
    rows = [
        {"product_category": "Books", "star_rating": 1 + i % 5, "review_body": f"It rains {i}."}
        for i in range(12)
    ]
    with pytest.raises(ColumnsError) as error:
        find_columns(TableView(list(rows[0]), {}, rows))
    assert str(error.value.columns) == "input=review_body,output=star_rating"


@pytest.mark.parametrize(
    ("texts", "columns"),
    [
        (["delivery", "account", "delivery"], "input=text,output=x"),
        (["delivery", "account", "lost goods", "returns", "delivery"], "input=text,output=x"),
        (["a4", "b7", "c9"], "output=text"),
    ],
)
def test_labels_beside_few_texts_are_the_output(texts: list[str], columns: str) -> None:
    rows = [{"text": text(i), "x": label} for i, label in enumerate(texts)]
    assert str(open_dataset(rows).columns) == columns
