"""Lines of text files in layouts that are not read, and the commands that convert them.

Such are columns between several marks, words with their tags, turns of chats and stories, groups of
lines, labels before texts, and files whose lines belong together.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path

from hf_lorameta.data.sources.datasets_library import unpacked
from hf_lorameta.data.sources.formats import COMPRESSIONS, FORMATS, ending
from hf_lorameta.data.sources.reading_errors import reading
from hf_lorameta.data.sources.text_formats import START, lines_of
from hf_lorameta.data.sources.text_rows import repeat
from hf_lorameta.errors import DatasetError
from hf_lorameta.quoting import shell

_SHOWN_LINES = 64
"""Lines that show the layout of a file."""
_PROPOSED = 2
"""Readings of a folder that are proposed, at most."""
_PAIRED_BYTES, _PAIRED_FILES, _PAIRED_LINES = 200_000_000, 50, 8
"""How much is read to find a file with as many lines, and fewest of a text file that may have."""
_MARK = re.compile(r"[|!:+$<>#^~_=@]{3,}|(?<!\S)(?:__eo[a-z]__|</s>|<eo[a-z]>|\[SEP\]|<sep>)(?!\S)")
"""What may be between columns, or at the end of turns."""
_TAG_MARKS = ("###", "/", "_", "|")
_LEAST, _LEAST_WORDS = 6, 3
"""Fewest lines or groups of lines, and words in each on average."""
_TABBED = 4
"""One line in this many has tabs, at least, where they mean something."""
_TURN = re.compile(r"(\d+) ")
_TURNS_TO_ROWS = (
    r'/^1 / { said = "" } { sub(/^[0-9]+ /, "", $1) } NF > 1 { print said $1 "\t" $2 } '
    r'{ said = said $1 " " $2 " " }'
)
_LABEL = re.compile(r"[+-]?\w(.*\w)?")
_CLASSES = ("pos neg", "positive negative", "ham spam", "good bad", "true false", "yes no")
"""Endings of files that are the labels of their lines."""


def first_lines(path: Path) -> list[str]:
    """Return whole lines of a text file's start; none of a file that is not text."""
    if path.suffix.lower() in COMPRESSIONS:
        with reading(path.name, local=True, form="a compressed file"), unpacked(str(path)) as file:
            return lines_of(file.read(START))
    with path.open("rb") as file:
        return lines_of(file.read(START))


def refuse_other_layouts(path: Path, lines: Sequence[str], *, table: bool = False) -> None:
    """Refuse lines that are clearly in another layout; of a `table`, words with their tags.

    Raises:
        DatasetError: with the command that makes a table of them.
    """
    filled = [line for line in lines[:_SHOWN_LINES] if line.strip()]
    found = _tagged_words(path, filled)
    if not found and not table:
        found = _marked(path, filled) or _tabbed(path, filled)
        found = found or _labeled(path, filled) or _grouped(path, lines)
    if found:
        looks, advice = found
        texts = shell("jq", "-cR", "{text: .}", path)
        as_texts = f"to read each line as a text: {_made(texts, 'rows.jsonl')}"
        raise DatasetError(f"{path.name}: {looks}", hint=[advice, as_texts])


def _made(command: str, name: str = "rows.tsv", head: str = "") -> str:
    """Return the advice to make a file with a command, below the names of its columns."""
    written = rf"(printf '{head}\n'; {command})" if head else command
    return f"{written} > {name}, and name {name}"


_Found = tuple[str, str] | None
"""What lines look like, and advice."""


def _marked(path: Path, lines: Sequence[str]) -> _Found:
    """Marks of several characters: as many in each line, or in some more, as between turns."""
    for mark in sorted(set(_MARK.findall(lines[0] if lines else ""))):
        if len(lines) < 2 or (len(set(mark)) == 1 and mark[0] != "|"):
            continue
        pattern = re.sub(r"([\\.*\[\]^$/])", r"\\\1", mark)
        ended = all(line.rstrip().endswith(mark) for line in lines)
        if not ended and len({line.count(mark) for line in lines}) == 1:
            columns = shell("sed", rf"s/ *{pattern} */\t/g", path)
            return f"each line has {mark} as often, as between columns", _made(columns)
        if all(mark in line.strip().removesuffix(mark) for line in lines):
            last = rf"s/ *{pattern} *$//; s/\(.*[^ ]\) *{pattern} */\1\t/"
            advice = _made(shell("sed", last, path), head=r"input\toutput")
            return f"each line has {mark}, as between the turns of a chat", advice
    return None


def _tagged_words(path: Path, lines: Sequence[str]) -> _Found:
    """Words with a mark and one of few tags behind each."""
    words = [word for line in lines for word in line.split()]
    for mark in _TAG_MARKS if len(words) >= _LEAST_WORDS * max(len(lines), _LEAST) else ():
        tags = [word.rpartition(mark)[2] for word in words]
        if all(mark in word[1:-1] for word in words) and repeat(tags):
            split = rf"s:([^ \t]+){mark.replace('|', '[|]')}([^ \t]+)[ \t]*:\1\t\2\n:g"
            advice = _made(shell("sed", "-E", split, path), "rows.conll")
            return f"each word has {mark} and a tag behind it", advice
    return None


def _tabbed(path: Path, lines: Sequence[str]) -> _Found:
    """Tabs in some lines, or more than in others, as behind numbered turns of stories and chats."""
    counts = [line.strip().count("\t") for line in lines]
    if len(set(counts)) < 2 or _TABBED * sum(map(bool, counts)) < len(lines):
        return None
    numbers = [int(found[1]) for found in map(_TURN.match, lines) if found]
    if len(numbers) == len(lines) and all(after in (1, n + 1) for n, after in pairwise(numbers)):
        advice = _made(shell("awk", "-F", r"\t", _TURNS_TO_ROWS, path), head=r"input\toutput")
        return "its lines are numbered turns, of which some have an answer behind a tab", advice
    return (
        "its lines do not have as many tabs, so it holds neither texts nor one table",
        "write a line for each row: an input, a tab and an output",
    )


def _labeled(path: Path, lines: Sequence[str]) -> _Found:
    """Lines that begin with one of few labels that are not words, such as ``NUM:dist``."""
    starts = [line.split()[0] for line in lines if len(line.split()) > 1]
    numbers = [int(start) for start in starts if start.isdecimal()]
    counting = 2 * sum(after == n + 1 for n, after in pairwise(numbers)) > len(lines)
    few = len(starts) == len(lines) and len(set(starts)) > 1 and repeat(starts)
    if not few or counting or not all(map(_is_label, starts)):
        return None
    return f"each line begins with one of {len(set(starts))} labels", split_first_word(path)


def _is_label(word: str) -> bool:
    """Whether a first word can be a label, but neither a word of a text nor a speaker.

    Example:
        >>> [_is_label(word) for word in ("NUM:dist", "+1", "POS", "I", "Who", "Ann:", "1.")]
        [True, True, True, False, False, False, False]
    """
    is_word = word.isalpha() and not (word.isupper() and len(word) > 1)
    return _LABEL.fullmatch(word) is not None and not is_word


def split_first_word(path: Path) -> str:
    """Return how to make a table of lines that begin with their labels."""
    return _made(shell("sed", r"s/ /\t/", path), head=r"label\ttext")


def _grouped(path: Path, lines: Sequence[str]) -> _Found:
    """Groups of as many lines, of which one is a label."""
    groups = [group.split("\n") for group in re.split(r"\n\s*\n", "\n".join(lines).strip())][:-1]
    if len(groups) < _LEAST or len(sizes := set(map(len, groups))) > 1 or sizes == {1}:
        return None
    if not any(map(repeat, zip(*groups, strict=True))):
        return None
    program = 'BEGIN { RS = ""; FS = "\\n"; OFS = "\\t" } { $1 = $1 } 1'
    return f"its lines are in groups of {sizes.pop()}, as rows are", _made(
        shell("awk", program, path)
    )


def other_readings(path: Path) -> Iterator[str]:
    """Yield how to make a table of a text file if its lines are not texts alone."""
    lines = first_lines(path)
    yield from _classes_beside(path) or (_join_with(path) if lines else [])
    starts = [line.split()[0] for line in lines[:_SHOWN_LINES] if len(line.split()) > 2]
    if 1 < len(set(starts)) <= len(starts) / 2:
        yield f"if each line begins with its label: {split_first_word(path)}"


def _classes_beside(path: Path) -> list[str]:
    """Return how to join files whose endings are labels, such as ``a.pos`` and ``a.neg``."""
    for endings in map(str.split, _CLASSES):
        files = [path.with_suffix(f".{name}") for name in endings]
        if path in files and all(map(Path.is_file, files)):
            each = "; ".join(
                shell("sed", rf"s/$/\t{name}/", file)
                for name, file in zip(endings, files, strict=True)
            )
            advice = _made(each, head=r"text\tlabel")
            return [f"if the labels of lines are {' and '.join(endings)}: {advice}"]
    return []


def _join_with(path: Path) -> list[str]:
    """Return the command that joins a text file with those that are called alike and as long.

    Such are ``dev.src`` and ``dev.ref0``, ``dev.ref1``, …: a line of one belongs to a line of the
    others. Of ``.txt`` files, which may have any name, those with at least `_PAIRED_LINES` count.
    """
    if not (count := _line_count(path)):
        return []
    is_text, start = ending(path) in FORMATS, path.name.partition(".")[0]
    if is_text and count < _PAIRED_LINES:
        return []
    alike: dict[str, list[Path]] = {}
    for other in sorted(path.parent.glob("*.txt" if is_text else f"{start}.*"))[:_PAIRED_FILES]:
        same = other != path and (ending(other) in FORMATS) == is_text
        if same and _line_count(other) == count:
            alike.setdefault(re.sub(r"\d", "", other.name), []).append(other)
    if not alike:
        return []
    others = max(alike.values(), key=len)
    names = ["output"] if len(others) == 1 else [f"ref{n}" for n in range(1, len(others) + 1)]
    pasted = shell("paste", path, *others)
    advice = _made(pasted, head=r"\t".join(["input", *names]))
    return [
        f"if the lines of {path.name} are inputs, and those of {', '.join(o.name for o in others)} "
        f"their outputs: {advice}"
    ]


def readings_of_folder(files: Sequence[Path]) -> list[str]:
    """Return how to make a table of the files of a folder, none of which is read as it is.

    They are called alike. Of those that differ only in numbers, such as references, none is the
    input.
    """
    alike = Counter(path.with_suffix("") for path in files)
    numbered = Counter(re.sub(r"\d", "", str(path)) for path in files)
    inputs = (
        path for path in files
        if alike[path.with_suffix("")] > 1 and numbered[re.sub(r"\d", "", str(path))] == 1
    )  # fmt: skip
    found = (advice for path in islice(inputs, _PAIRED_FILES) for advice in other_readings(path))
    return list(dict.fromkeys(found))[:_PROPOSED]


def _line_count(path: Path) -> int:
    if not path.is_file() or path.stat().st_size > _PAIRED_BYTES:
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(START), b""))
