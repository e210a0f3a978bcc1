"""Manifests: errors name file and field, and no YAML input hangs or crashes the parser."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.bank.manifest import EXAMPLE, BankEntry, load, parse
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.errors import ManifestError
from tests.support.codes import raises_code

HEAD = "version: 1\nbase_model: o/m\nentries:\n"
ENTRY = "  - adapter: o/a\n    dataset: o/d\n"


def error_of(text: str) -> str:
    with pytest.raises(ManifestError) as raised:
        parse(text, "m.yaml")
    error = raised.value
    assert error.exit_code == 2
    assert error.hint
    assert "\n" not in str(error)
    return str(error)


# --- valid manifests ------------------------------------------------------------------------------


def test_entries_inherit_and_override_defaults(tmp_path: Path) -> None:
    defaults = {"config": "main", "columns": {"input": "question", "output": "answer"}}
    own = {"config": None, "columns": {"messages": "turns"}, "revision": "v1.0", "license": "mit"}
    entries = [{"adapter": f"org/lora-{i}", "dataset": "org/data"} for i in range(2)]
    content = {"version": 1, "base_model": "org/model", "tokenizer": "org/t", "published": False,
               "defaults": defaults, "entries": [entries[0], entries[1] | own]}  # fmt: skip
    file = tmp_path / "m.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    manifest = load(file)
    first, second = (BankEntry(**entry) for entry in (entries[0] | defaults, entries[1] | own))
    assert manifest.entries == (first, second)
    assert (manifest.tokenizer, manifest.is_published) == ("org/t", False)
    assert first.columns == Columns(input="question", output="answer")


def test_defaults_of_a_minimal_manifest() -> None:
    manifest = parse(HEAD + ENTRY)
    assert manifest.entries == (BankEntry(adapter="o/a", dataset="o/d"),)
    assert (manifest.published, manifest.tokenizer) == (True, None)
    assert manifest.entries[0].name == "o--a"
    assert parse(HEAD + ENTRY + "defaults: null\n") == manifest
    assert parse("\ufeff" + HEAD + ENTRY) == manifest


def test_paths_are_relative_to_the_manifest_and_names_show_none(tmp_path: Path) -> None:
    example = load(EXAMPLE)
    hub, local = example.entries
    names = ("user/adapter", "user/adapter", "user--adapter")
    assert (hub.adapter, hub.adapter_id, hub.name) == names
    assert local.adapter == str(EXAMPLE.parent / "my-lora")
    assert (local.adapter_id, local.dataset_id) == ("local/my-lora", "local/rows")
    assert (example.published, example.is_published) == (False, False)
    same = [{"adapter": path, "dataset": "o/d"} for path in ("./a/lora", "./b/lora")]
    with raises_code("manifest.same-adapter", match="local/lora"):
        parse(json.dumps({"version": 1, "base_model": "o/m", "entries": same}))
    with raises_code("manifest.invalid"):
        parse(json.dumps({"version": 1, "base_model": "o/m",
                          "entries": [{"adapter": "o/a", "dataset": "rows.jsonl"}]}))  # fmt: skip


def test_an_adapter_may_be_in_a_folder_of_a_repo() -> None:
    def parsed(adapter: str) -> str:
        entries = [{"adapter": adapter, "dataset": "o/d"}]
        text = json.dumps({"version": 1, "base_model": "o/m", "entries": entries})
        return parse(text).entries[0].name

    assert parsed("o/many/flan.boolq") == "o--many--flan.boolq"
    assert parsed("o/many/v2/rte_1.0") == "o--many--v2--rte_1.0"
    for folder in ("", "/a", "../a", "a--b", ".git", "a b/c", "a" * 200):
        with pytest.raises(ManifestError, match="namespace/name/folder"):
            parsed(f"o/many/{folder}")


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # unknown keys, at each level
        (HEAD + ENTRY + "rank: 3\n", "rank: unknown key"),
        (
            HEAD + ENTRY + "    datset: o/x\n",
            "entries.0.datset: unknown key, known are config, spl",
        ),
        (HEAD + ENTRY + "    columns: {label: b}\n", "entries.0.columns.label: unknown key, known"),
        ("defaults: {splits: x}\n" + HEAD + ENTRY, "defaults.splits: unknown key, known are con"),
        (HEAD + ENTRY + "columns: {output: a}\n", "columns: unknown key, known are"),
        # missing
        ("base_model: o/m\nentries:\n" + ENTRY, "version: is missing"),
        (HEAD + ENTRY + "  - adapter: o/b\n", "entries.1.dataset: is missing"),
        # wrong types and values
        ("version: 2\nbase_model: o/m\nentries:\n" + ENTRY, "version: must be 1"),
        (HEAD + ENTRY + "published: maybe\n", "published: must be a valid bool"),
        (HEAD + ENTRY + "    split: 3\n", "entries.0.split: must be a valid str"),
        (HEAD + ENTRY + "    columns: {output: {a: b}}\n", "entries.0.columns.output.str: "),
        (HEAD + "  - o/a\n", "entries.0: must be a valid dictionary"),
        (HEAD + "  adapter: o/a\n", "entries: must be a valid tuple"),
        ("version: 1\nbase_model: o/m\nentries: []\n", "entries: Tuple should have at"),
        (HEAD + ENTRY + "tokenizer: a/b/c\n", "tokenizer: expected a Hub"),
        (HEAD + ENTRY + "defaults: []\n", "defaults: must be a valid dict"),
        (HEAD + ENTRY + "    split: 2024-99-99\n", "not valid YAML: month must be"),
        ("version: !!int abc\n", "not valid YAML: invalid literal for int()"),
        # columns that cannot be read together
        (HEAD + ENTRY + "    columns: {input: a}\n", "entries.0.columns: expected output (with in"),
        (HEAD + ENTRY + "    columns: {messages: a, input: b}\n", "entries.0.columns: expected"),
        # duplicates
        (HEAD + ENTRY + "version: 1\n", "6: not valid YAML: version is given twice"),
        (HEAD + ENTRY + "    columns: {output: a, output: b}\n", "6: not valid YAML: out"),
        (HEAD + ENTRY + "  - {adapter: O/A, dataset: o/d}\n", "entries.1.adapter: O/A is already"),
        # not a manifest
        ("", "expected a mapping with entries"),
        ("- a\n- b\n", "expected a mapping with entries"),
        ("version: 1\n\tbase_model: o/m\n", "2: not valid YAML: "),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", "2: not valid YAML: could not"),
        ("a: \x00\n", "not valid YAML: "),
        ("a: \ud800\n", "not valid YAML: "),
        ("? [a, b]\n: c\n", "1: not valid YAML: found unhashable key"),
        # aliases
        ("a: &x [*x]\n", "version: is missing"),
        (HEAD + "  &x\n  - *x\n", "entries.0: must be a valid dictionary"),
    ],
)
def test_errors_name_file_and_field(text: str, expected: str) -> None:
    assert error_of(text).removeprefix("m.yaml:").strip().startswith(expected)


BAD_IDS = (
    "a/..", "a/../b", "..", "a/b/c", "a/.b", "-a/b", "a/-b", "a/b-",
    "a--b/c", "a/b--c", "a\\b", "a/b ", " a/b", "a/b\n", "a\nb/c", "a/b?x", "a b/c", "a/b#c", "https://x/y",
    "a/é", "", "a", "a/", "a/b..c", "a/" + "b" * 97, "a%2fb/c",
)  # fmt: skip


@pytest.mark.parametrize(
    ("field", "bad"),
    [*(("adapter", bad) for bad in BAD_IDS if bad != "a/b/c"), *(("dataset", b) for b in BAD_IDS)],
)
def test_invalid_repo_ids_are_refused(field: str, bad: str) -> None:
    entry: dict[str, Any] = {"adapter": "o/a", "dataset": "o/d", field: bad}
    text = HEAD + "  - " + yaml.safe_dump(entry, default_flow_style=True)
    assert error_of(text).startswith(f"m.yaml: entries.0.{field}: ")


@pytest.mark.parametrize(
    "bad", ["../x", "a..b", "a--b", "/abs", "-x", "", "a b", "x\\n", "a;b", "@"]
)
@pytest.mark.parametrize("field", ["revision", "dataset_revision"])
def test_invalid_revisions_are_refused(field: str, bad: str) -> None:
    text = HEAD + ENTRY + f'    {field}: "{bad}"\n'
    assert error_of(text).startswith(f"m.yaml: entries.0.{field}: ")


@pytest.mark.parametrize("good", ["a/b", "A-b.c_d/E.f-g_h", "a/b_", "0/1", "a.b/c"])
def test_valid_repo_ids_are_accepted(good: str) -> None:
    assert BankEntry(adapter=good, dataset=good).adapter == good


@pytest.mark.parametrize("name", ["version", "base_model", "entries", "defaults", "x"])
def test_aliases_that_expand_to_billions_of_values_are_refused_quickly(name: str) -> None:
    laughs = "\n".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(40))
    started = time.monotonic()
    assert error_of(f"a0: &a0 lol\n{laughs}\n{name}: *a40\n").startswith("m.yaml: ")
    assert error_of(HEAD + ENTRY + f"    a0: &a0 lol\n{laughs}\n".replace("\na", "\n    a"))
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 900 + "]" * 900,
        "a: " + "[" * 100_000 + "]" * 100_000,
        "{a: " * 100_000 + "}" * 100_000,
        "- " * 100_000 + "a",
    ],
)
def test_deep_nesting_neither_crashes_nor_hangs(text: str) -> None:
    started = time.monotonic()
    assert error_of(text).startswith("m.yaml:")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("content", [None, b"a: \xe9\n", b"\xff\xfea"])
def test_unreadable_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "m.yaml"
    if content is not None:
        file.write_bytes(content)
    with raises_code("manifest.unreadable"):
        load(file)


@given(st.text(alphabet=st.sampled_from("ab:- \n{}[],&*!?|>'\"#%@1~<=\t\u2028é"), max_size=40))
def test_any_text_raises_manifest_error(text: str) -> None:
    with pytest.raises(ManifestError):
        parse(text)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["adapter", "dataset", "columns", "input", "entries", "x"])
            | st.integers(),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["version", "base_model", "defaults", "entries", "published", "rank"]), JUNK
    )
)
def test_any_structure_is_parsed_or_raises_manifest_error(data: dict[str, object]) -> None:
    text = yaml.safe_dump(data)
    with pytest.raises(ManifestError):
        parse(text)
    started = {"version": 1, "base_model": "o/m", "entries": [{"adapter": "o/a", "dataset": "o/d"}]}
    with contextlib.suppress(ManifestError):
        parse(yaml.safe_dump(started | data))
